"""A run of several stages and models, planned as data and boxed by the clock.

A plan says which models are trained one after the other, and in which stages with how many minutes
each. The runner makes one deadline of it: whatever starting, compiling or a slower machine takes is
taken from all stages that are left in proportion, so a run ends when it should and its learning
rates have fallen by then. It can be ended at any moment and goes on where its last checkpoint
stands; a finished stage is never made again.

A run's folder holds `plan.json`, `deadline.json`, `pixels/` (decoded.py), `val/` (pictures that are
only looked at), `stages/NAME/` with what `Trainer.run` leaves in it, and `coded/` for stages that
train on the trellis's codes (coded.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from looc_codec.config import LoocConfig
from looc_codec.data import PictureStore, load_pictures
from looc_codec.errors import ModelError
from looc_codec.networks.model import LoocModel
from looc_codec.training.checkpoint import read_meta
from looc_codec.training.coded import CodedTrainer, Pool, Task, read_book, write_model
from looc_codec.training.codes import CodeFitter, untrellised
from looc_codec.training.decoded import open_store, read_index
from looc_codec.training.loop import (
    DivergedError,
    Trainer,
    TrainOptions,
    has_fast_bf16,
    measured_channel_order,
    start_scales_from_data,
)
from looc_codec.training.run import CHECKPOINT, START_BATCHES, fit_codes
from looc_codec.training.validation import centre_crops

PLAN, DEADLINE, FINISHED, RESTORED, SAVE_NOW, SLOWER = (
    "plan.json",
    "deadline.json",
    "finished.json",
    "restored.safetensors",
    "save_now",
    "slower.json",
)
LEAST_SECONDS = 20.0
"""A stage that would get less is left out."""
SLOWER_FACTOR, SLOWER_TIMES = 0.6, 4
"""What all learning rates are multiplied by when a stage diverges and goes on from its last
checkpoint, and how often."""
WAIT_SECONDS = 90.0
"""How long a coded stage waits for its codebook and its first crops before it is left out."""


@dataclass(frozen=True)
class Stage:
    """One stage of a model.

    `options` are fields of TrainOptions that differ from `Plan.options`; `rate` is a factor on all
    learning rates. A stage goes on from the one before of the same model, moments and all; the
    first of a later model begins with the averaged weights of the model before. `coded` trains the
    synthesis on the trellis's codes (coded.py); the fit that it needs begins `fit_ahead_minutes`
    before the stage before it ends, on the averaged weights of that moment. `pool` is how many
    crops it holds, `least` with how many it begins.
    """

    name: str
    model: str
    minutes: float
    rate: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    coded: bool = False
    fit_ahead_minutes: float = 2.5
    pool: int = 16384
    least: int = 256


@dataclass(frozen=True)
class Plan:
    """Stages in their order; `config` has the fields of LoocConfig that differ from the defaults,
    `models` further ones by the model's name.

    `operations` are floating-point operations of a crop, forward and backward, by stage, where they
    were counted; `fit_batches` is for the fits of coded stages and `start_batches` for that of the
    first codebook; `coders` is how many processes code, by default two fewer than there are cores.
    """

    stages: tuple[Stage, ...]
    config: dict[str, Any] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    operations: dict[str, float] = field(default_factory=dict)
    start_batches: int = START_BATCHES
    fit_batches: int = 12
    coders: int | None = None

    def config_of(self, stage: Stage) -> LoocConfig:
        """The configuration of the stage's model. Its metric is that of the model's stages."""
        values = (
            self.config
            | self.models.get(stage.model, {})
            | {"name": stage.model, "metric": self.options_of(stage).metric}
        )
        return LoocConfig.from_dict(values)

    def options_of(
        self, stage: Stage, minutes: float | None = None, device: str = "cpu"
    ) -> TrainOptions:
        """The options of a stage that gets so many minutes, by default the planned ones. Networks
        are in bfloat16 where the device is fast in it."""
        fresh = TrainOptions()
        rates = {
            name: getattr(fresh, name) * stage.rate
            for name in ("transform_rate", "branch_rate", "prior_rate")
        }
        chosen = {
            "stage": "synthesis" if stage.coded else "codes",
            "prior_only_share": 0.0,
            "minutes": stage.minutes if minutes is None else minutes,
            "bf16": has_fast_bf16(device),
        }
        values = chosen | rates | self.options | stage.options
        if values.get("steps") is not None:
            values["minutes"] = None
        return TrainOptions(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()
            }
        )

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> Plan:
        """The plan of a JSON file; ModelError where it has unknown or missing fields."""
        try:
            values = json.loads(path.read_text())
            return cls(**values | {"stages": tuple(Stage(**stage) for stage in values["stages"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelError(
                f"{path} is not a training plan ({type(error).__name__}: {error})"
            ) from None


@dataclass(frozen=True)
class State:
    """The weights of a run as a file brings them from another machine: `ema` the averaged ones and
    `change` what the others differ by, of the stage `about["stage"]`."""

    about: dict[str, Any]
    ema: dict[str, Tensor]
    change: dict[str, Tensor]
    models: dict[str, dict[str, Tensor]]
    """Averaged weights of models that are finished, by name."""

    @classmethod
    def read(cls, path: Path) -> State:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
        models: dict[str, dict[str, Tensor]] = {}
        parts: dict[str, dict[str, Tensor]] = {"ema": {}, "change": {}}
        for name, value in load_file(path).items():
            part, name = name.split(".", 1)
            if part == "model":
                owner, name = name.split("/", 1)
                models.setdefault(owner, {})[name] = value.float()
            else:
                parts[part][name] = value.float()
        return cls(about, parts["ema"], parts["change"], models)


def averaged_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint by the names of the model's parameters."""
    with safe_open(checkpoint, framework="pt") as file:
        return {
            name.removeprefix("ema."): file.get_tensor(name)
            for name in file.keys()
            if name.startswith("ema.")
        }


@torch.no_grad()
def take_weights(model: LoocModel, weights: dict[str, Tensor]) -> None:
    """Sets a model's parameters by name; those of details, which are fitted at the end, may be
    missing or too many."""
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.copy_(weights[name])
        elif not name.startswith("details."):
            raise ModelError(
                f"the weights to go on from have no {name}; the plan changes the design between its stages"
            )


def counted_operations(
    config: LoocConfig, options: TrainOptions, *, only_synthesis: bool = False
) -> float:
    """Floating-point operations (two for a multiply-add) of the networks for one crop, forward and
    backward, counted on the CPU."""
    from torch.utils.flop_counter import FlopCounterMode

    model = LoocModel(config)
    pixels, quality = torch.rand(1, 3, options.crop, options.crop) * 255, torch.tensor([50.0])
    with FlopCounterMode(display=False) as counter:
        if only_synthesis:
            latent_hat = torch.randn(1, config.channels, options.crop // 16, options.crop // 16)
            model.synthesis(latent_hat, quality).square().mean().backward()
        else:
            result = model.prior(model.analysis(pixels, quality), quality)
            (
                result["bits"].sum()
                + model.synthesis(result["latent_hat"], quality).square().mean()
            ).backward()
    return float(counter.get_total_flops())


class Runner:
    """Carries out the plan in a run's folder; `run` returns True when all of it is done and False
    when it was interrupted."""

    def __init__(
        self, folder: Path, device: str = "cpu", note: Callable[[str], None] = print
    ) -> None:
        self.folder, self.device, self.note = folder, device, note
        self.plan = Plan.read(folder / PLAN)
        self.restored = State.read(folder / RESTORED) if (folder / RESTORED).exists() else None
        self.shards, self.fit_started = 0, False
        self.helpers: list[subprocess.Popen] = []
        self.began = time.time()

    # --- time -------------------------------------------------------------------------------------

    def set_deadline(self, minutes: float) -> None:
        """The run ends so many minutes from now, unless it has a deadline from before an
        interruption."""
        path = self.folder / DEADLINE
        if not path.exists():
            path.write_text(json.dumps({"deadline": time.time() + 60 * minutes}))

    def minutes_left(self) -> float:
        path = self.folder / DEADLINE
        if not path.exists():
            return sum(stage.minutes for stage in self.plan.stages)
        return (json.loads(path.read_text())["deadline"] - time.time()) / 60

    def minutes_of(self, stage: Stage, used: float = 0.0) -> float:
        """The minutes that a stage gets of those that are left, after so many of its own were
        `used` by this run before."""
        open_stages = [other for other in self.plan.stages if not self.finished(other)]
        planned = sum(other.minutes for other in open_stages) - min(used, 0.999 * stage.minutes)
        share = (stage.minutes - min(used, 0.999 * stage.minutes)) / planned
        return used + max(0.0, self.minutes_left()) * share

    # --- where things are -------------------------------------------------------------------------

    def home(self, stage: Stage) -> Path:
        return self.folder / "stages" / stage.name

    def finished(self, stage: Stage) -> bool:
        return (self.home(stage) / FINISHED).exists() or (
            self.restored is not None and stage.name in self.restored.about["finished"]
        )

    def trained(self, stage: Stage) -> bool:
        """Whether a stage has a checkpoint, as one that was left out has not."""
        return (self.home(stage) / CHECKPOINT).exists()

    def before(self, stage: Stage) -> list[Stage]:
        """Earlier stages that have left weights here, the latest first."""
        earlier = self.plan.stages[: self.plan.stages.index(stage)]
        return [other for other in reversed(earlier) if self.trained(other)]

    def finish(self, stage: Stage, figures: dict[str, Any]) -> None:
        home = self.home(stage)
        home.mkdir(parents=True, exist_ok=True)
        (home / FINISHED).write_text(json.dumps(figures))

    # --- pictures ---------------------------------------------------------------------------------

    def store(self) -> PictureStore:
        """The pictures that are decoded by now."""
        store = open_store(self.folder / "pixels", self.device)
        if store is None:
            raise ModelError(f"{self.folder / 'pixels'} holds no decoded pictures")
        self.shards = len(read_index(self.folder / "pixels").shards)
        self.note(
            f"{len(store)} pictures, {store.megapixels:.0f} megapixels, of {self.shards} shards"
        )
        return store

    def held_out(self, options: TrainOptions) -> Tensor | None:
        folder, side = self.folder / "val", min(256, options.crop)
        return centre_crops(load_pictures(folder, min_side=side), side) if folder.is_dir() else None

    # --- stages -----------------------------------------------------------------------------------

    def options(self, stage: Stage) -> TrainOptions:
        """The plan's options of a stage, with lower rates where the run has diverged."""
        options, factor = (
            self.plan.options_of(stage, None, self.device),
            SLOWER_FACTOR ** self.times_slower(),
        )
        return replace(
            options,
            **{
                name: getattr(options, name) * factor
                for name in ("transform_rate", "branch_rate", "prior_rate")
            },
        )

    def times_slower(self) -> int:
        path = self.folder / SLOWER
        return json.loads(path.read_text()) if path.exists() else 0

    def run(self) -> bool:
        try:
            for stage in self.plan.stages:
                while not self.finished(stage):
                    try:
                        if not self.run_stage(stage):
                            return False
                    except DivergedError as error:
                        times = self.times_slower() + 1
                        if times > SLOWER_TIMES:
                            raise
                        (self.folder / SLOWER).write_text(json.dumps(times))
                        self.note(f"{error}; on with {SLOWER_FACTOR**times:.2f} of all rates")
        finally:
            self.end_helpers()
        self.note("the plan is done")
        return True

    def run_stage(self, stage: Stage) -> bool:
        checkpoint = self.home(stage) / CHECKPOINT
        meta = read_meta(checkpoint) if checkpoint.exists() else None
        used, timed = self.used_minutes(stage, meta), self.plan.options_of(stage).steps is None
        left = self.minutes_of(stage, used) - used
        if timed and 60 * left < min(LEAST_SECONDS, 20 * stage.minutes):
            self.note(f"stage {stage.name} is left out: {60 * left:.0f} s are left for it")
            self.finish(stage, {"left_out": meta is None})
            return True
        trainer = self.coded_trainer(stage) if stage.coded else self.joint_trainer(stage, meta)
        if trainer is None:
            self.finish(stage, {"left_out": True})
            return True
        begin, trainer.curves = time.time(), False
        # Now, because starting has taken its time.
        minutes = self.minutes_of(stage, used)
        if meta is not None:
            # A run that is resumed within its time keeps its schedule.
            minutes = min(minutes, meta["options"]["minutes"] or minutes)
            trainer.resume(checkpoint, meta)
        trainer.options = replace(trainer.options, minutes=minutes if timed else None)
        crops = f"crops of {trainer.options.crop} in batches of {trainer.options.batch}"
        self.note(f"stage {stage.name}: {minutes:.2f} minutes, step {trainer.step_count}, {crops}")
        try:
            done = trainer.run(self.home(stage), lambda row: self.watch(stage, trainer, row))
        finally:
            if stage.coded:
                self.end_helpers()
        if done:
            figures = {
                "seconds": trainer.seconds_used,
                "steps": trainer.step_count,
                "pictures": trainer.pictures_seen,
                "wall_seconds": time.time() - begin,
            }
            self.finish(stage, figures)
            self.note(f"stage {stage.name} is done: {figures}")
        if self.device.startswith("cuda"):
            del trainer
            torch.cuda.empty_cache()
        return done

    def used_minutes(self, stage: Stage, meta: dict | None) -> float:
        """What of a stage's minutes was spent before this process: by its checkpoint, or on another machine."""
        if meta is None and self.goes_on_elsewhere(stage):
            meta = self.restored.about
        return 0.0 if meta is None else meta["seconds_used"] / 60

    def goes_on_elsewhere(self, stage: Stage) -> bool:
        """Whether a stage without a checkpoint was begun on another machine."""
        return self.restored is not None and self.restored.about["stage"] == stage.name

    def joint_trainer(self, stage: Stage, meta: dict | None) -> Trainer:
        """The trainer of a stage that trains all networks: fresh, going on, or with another model's
        weights; one with `meta` is resumed by the caller."""
        plan, options, store = self.plan, self.options(stage), self.store()
        config = plan.config_of(stage)
        torch.manual_seed(options.seed)
        earlier = self.before(stage)
        same = next((other for other in earlier if other.model == stage.model), None)
        restored = (
            self.restored
            if meta is None
            and self.restored is not None
            and self.restored.about["stage"] == stage.name
            and self.restored.ema
            else None
        )
        weights = None
        if meta is None and same is None and restored is None:
            if earlier:
                weights = averaged_weights(self.home(earlier[0]) / CHECKPOINT)
            elif self.restored is not None:
                # The stage before was finished elsewhere.
                weights = self.restored.ema or next(reversed(self.restored.models.values()))
        if meta is None and same is None and restored is None and weights is None:
            model = LoocModel(config, measured_channel_order(store)).to(self.device)
            start_scales_from_data(model, store)
        else:
            model = LoocModel(config).to(self.device)
            if restored is not None:
                take_weights(
                    model,
                    {
                        name: value + restored.change.get(name, 0.0)
                        for name, value in restored.ema.items()
                    },
                )
            elif weights is not None:
                take_weights(model, weights)
        book = untrellised(config)
        if meta is not None or same is not None:
            codes = CodeFitter(model, self.device, book=book)
        else:
            codes = fit_codes(
                model,
                store,
                self.device,
                lambda kind, figures: None,
                book=book,
                batches=plan.start_batches,
            )
        trainer = Trainer(
            model, store, options, self.device, codes, held_out=self.held_out(options)
        )
        if meta is None and same is not None:
            path = self.home(same) / CHECKPOINT
            carried = read_meta(path)
            trainer.resume(
                path, carried | {"seconds_used": 0.0, "first_step": carried["step_count"]}
            )
        elif restored is not None:
            for name, value in trainer.ema.items():
                value.copy_(restored.ema.get(name, value))
            about = restored.about
            trainer.step_count, trainer.pictures_seen = about["step_count"], about["pictures_seen"]
            trainer.seconds_used = about["seconds_used"]
            trainer.first_step, trainer.optimizer_since = about["first_step"], trainer.step_count
            for generator in trainer.generators.values():
                generator.manual_seed(options.seed + trainer.step_count)
        return trainer

    def coded_trainer(self, stage: Stage) -> CodedTrainer | None:
        """The trainer of a coded stage, whose coding processes run; None, with the reason noted,
        where it cannot begin."""
        plan, options, home = self.plan, self.options(stage), self.folder / "coded"
        earlier = next((other for other in self.before(stage) if other.model == stage.model), None)
        if earlier is None and self.restored is None:
            self.note(f"stage {stage.name} is left out: no stage of {stage.model} is done")
            return None
        checkpoint = self.home(stage) / CHECKPOINT
        model = LoocModel(plan.config_of(stage))
        # Analysis and prior of a checkpoint of this stage are those of the stage before.
        weights = (
            averaged_weights(checkpoint if checkpoint.exists() else self.home(earlier) / CHECKPOINT)
            if earlier or checkpoint.exists()
            else self.restored.ema
        )
        take_weights(model, weights)
        if not self.fit_started:
            if earlier is None:
                self.note(f"stage {stage.name} is left out: the stage before was made elsewhere")
                return None
            self.start_fit(self.home(earlier) / CHECKPOINT, keep=True)
        book = self.awaited(lambda: read_book(home), "its codebook")
        if book is None:
            self.end_helpers()
            return None
        # A pool of one run is of no use to another.
        write_model(home, model, book, Task(options.crop, options.seed))
        trainer = CodedTrainer(
            model.to(self.device),
            self.store(),
            options,
            self.device,
            held_out=self.held_out(options),
        )
        trainer.pool = Pool(model.config, options.crop, stage.pool, self.device)

        def enough() -> bool:
            trainer.pool.take_in(home)
            return len(trainer.pool) >= stage.least

        if not self.awaited(enough, f"its first {stage.least} crops"):
            self.end_helpers()
            return None
        return trainer

    def awaited(self, ready: Callable[[], Any], what: str) -> Any:
        """What `ready` gives as soon as it gives something; None after a while, or when the
        processes that should bring it are gone."""
        begin = time.time()
        while not (found := ready()):
            if time.time() - begin > WAIT_SECONDS or all(
                helper.poll() is not None for helper in self.helpers
            ):
                self.note(
                    f"the stage is left out: {what} did not come in {time.time() - begin:.0f} s"
                )
                return None
            time.sleep(0.1)
        self.note(f"{what} came after {time.time() - begin:.1f} s")
        return found

    # --- other processes --------------------------------------------------------------------------

    def start_fit(self, checkpoint: Path, *, keep: bool = False) -> None:
        """Starts the fit of a coded stage's codebook from a checkpoint, and the processes that will
        code for it. A codebook that is there is kept if told so."""
        home = self.folder / "coded"
        home.mkdir(exist_ok=True)
        keep = keep and read_book(home) is not None
        for name in (
            "stop",
            "model.safetensors",
            "pixels",
            *(() if keep else ("book.safetensors",)),
        ):
            (home / name).unlink(missing_ok=True)
        for path in home.glob("crops/*"):
            path.unlink()
        (home / "pixels").symlink_to((self.folder / "pixels").resolve(), target_is_directory=True)
        snapshot = home / "snapshot.safetensors"
        snapshot.unlink(missing_ok=True)
        # The checkpoint will be replaced, its file stays.
        os.link(checkpoint, snapshot)
        coders = self.plan.coders or max(1, (os.cpu_count() or 2) - 2)
        threads = {
            "LOOC_THREADS": str(coders),
            "LOOC_FIT_BATCHES": str(self.plan.fit_batches),
            "CUDA_VISIBLE_DEVICES": "",
        }
        words = [sys.executable, "-m", "looc_codec.training.coded"]
        self.helpers = (
            []
            if keep
            else [
                subprocess.Popen(
                    [*words, "fit", str(home), str(snapshot)], env=os.environ | threads
                )
            ]
        )
        single = threads | {"OMP_NUM_THREADS": "1", "LOOC_THREADS": "1"}
        self.helpers += [
            subprocess.Popen([*words, "code", str(home), str(number)], env=os.environ | single)
            for number in range(coders)
        ]
        self.fit_started = True

    def end_helpers(self) -> None:
        if not self.helpers:
            return
        (self.folder / "coded" / "stop").touch()
        for helper in self.helpers:
            try:
                helper.wait(10)
            except subprocess.TimeoutExpired:
                helper.kill()
                helper.wait()
        self.helpers, self.fit_started = [], False

    def watch(self, stage: Stage, trainer: Trainer, row: dict) -> None:
        """Looks at the folder now and then while a stage runs: new pictures, new crops, a wish for
        a checkpoint, a fit that is due."""
        if isinstance(trainer, CodedTrainer):
            trainer.pool.take_in(self.folder / "coded")
        elif len(read_index(self.folder / "pixels").shards) > self.shards:
            trainer.store = self.store()
        if (self.folder / SAVE_NOW).exists():
            trainer.save(self.home(stage))
            (self.folder / SAVE_NOW).unlink(missing_ok=True)
        following = self.plan.stages[self.plan.stages.index(stage) + 1 :][:1]
        if following and following[0].coded and not self.fit_started:
            options = trainer.options
            total = 60 * options.minutes if options.steps is None else None
            due = (
                trainer.progress() > 0.5
                if total is None
                else total - trainer.seconds_used < 60 * following[0].fit_ahead_minutes
            )
            if due:
                trainer.save(self.home(stage))
                self.note(f"the fit for stage {following[0].name} begins")
                self.start_fit(self.home(stage) / CHECKPOINT)


def warm(folder: Path, device: str, note: Callable[[str], None] = print) -> None:
    """Makes a few steps of every stage on random pictures, so that kernels are compiled and cached
    before they are needed."""
    plan = Plan.read(folder / PLAN)
    generator = np.random.default_rng(0)
    for stage in plan.stages:
        begin, options = (
            time.time(),
            replace(
                plan.options_of(stage, device=device),
                record=False,
                minutes=None,
                steps=100,
                prior_only_share=0.0,
            ),
        )
        side = round(options.crop / options.shrink_low)
        store = PictureStore(
            [generator.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(2)], device
        )
        model = LoocModel(plan.config_of(stage)).to(device)
        if stage.coded:
            trainer: Trainer = CodedTrainer(model, store, options, device)
            trainer.pool = Pool(model.config, options.crop, options.batch, device)
            trainer.pool.quality += 50
            trainer.pool.bpp += 1
            trainer.pool.taken = options.batch
        else:
            codes = fit_codes(
                model,
                store,
                device,
                lambda kind, figures: None,
                book=untrellised(model.config),
                batches=1,
                rounds=1,
            )
            trainer = Trainer(model, store, options, device, codes)
        for _ in range(2):
            trainer.step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
            del trainer, model
            torch.cuda.empty_cache()
        (folder / "warm").mkdir(exist_ok=True)
        (folder / "warm" / stage.name).touch()
        note(f"kernels of stage {stage.name} were compiled in {time.time() - begin:.1f} s")
