"""The run of generation three: its parts one by one, and, marked slow, all of it on a tenth of the
network."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import build_trainable_model, tiny_config
from test_codec import photo

from looc_codec.codec.search import ENCODER_LAMBDA
from looc_codec.codec.tiles import Margins
from looc_codec.codec.wiener import Statistics
from looc_codec.errors import ModelError
from looc_codec.format.constants import LATENT_ONE
from looc_codec.networks.model import LoocModel
from looc_codec.training import coded
from looc_codec.training import plan as plan_module
from looc_codec.training.carry import joined, split, write_state
from looc_codec.training.checkpoint import read_meta
from looc_codec.training.codes import CodeFitter
from looc_codec.training.decoded import append, open_store, read_index
from looc_codec.training.filtering import filtered, solved
from looc_codec.training.loop import TrainOptions
from looc_codec.training.plan import (
    FINISHED,
    PLAN,
    RESTORED,
    Plan,
    Runner,
    Stage,
    State,
    averaged_weights,
)
from looc_codec.training.run import CHECKPOINT, fit_codes

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools" / "generation_three.py"
SPEC = importlib.util.spec_from_file_location("generation_three", SCRIPT)
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)


def silent(text: str) -> None:
    pass


def small_plan(**changes) -> Plan:
    config = tiny_config(codebook_size=16).to_dict()
    config.pop("name"), config.pop("metric")
    common = {
        "batch": 2,
        "crop": 32,
        "log_every": 1,
        "warmup_steps": 2,
        "bf16": False,
        "save_minutes": 10.0,
    }
    stages = (
        Stage("first", "photo", 1.0, rate=2.5, options={"steps": 4, "cosine": [0.0, 0.5]}),
        Stage(
            "second", "photo", 0.5, rate=2.5, options={"steps": 3, "crop": 48, "cosine": [0.5, 1.0]}
        ),
        Stage("other", "photo-b", 0.5, options={"steps": 2}),
    )
    return Plan(stages, config, options=common, start_batches=1, **changes)


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "fit_codes", partial(fit_codes, rounds=1, crop=32))
    small_plan().write(tmp_path / PLAN)
    append(tmp_path / "pixels", "shard-0-of-1", [photo(96, 80, seed=index) for index in range(3)])
    return tmp_path


def weights_of(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    return averaged_weights(folder / "stages" / stage / CHECKPOINT)


# --- pictures -------------------------------------------------------------------------------------


def test_decoded_pictures_grow_and_are_the_same_for_everyone(tmp_path):
    pictures = [photo(40, 50, seed=0), photo(64, 33, seed=1), photo(48, 48, seed=2)]
    assert open_store(tmp_path) is None
    append(tmp_path, "a", pictures[:2])
    # A process that was ended had begun to add more.
    with (tmp_path / "pixels.bin").open("ab") as file:
        file.write(b"x" * 100)
    append(tmp_path, "b", pictures[2:])
    store, index = open_store(tmp_path), read_index(tmp_path)
    assert index.shards == ["a", "b"] and index.sizes == [picture.shape[:2] for picture in pictures]
    for picture, offset in zip(pictures, store.offsets.tolist(), strict=True):
        assert np.array_equal(
            store.pixels[offset : offset + picture.size].numpy(), picture.reshape(-1)
        )


def test_parts_hold_every_picture_once_and_are_of_equal_size(tmp_path):
    pictures = [(f"train/{index}.png", bytes(1000 + 37 * index)) for index in range(60)]
    parts = script.write_parts(pictures, tmp_path, part_bytes=60_000)
    names, sizes = [], []
    for part in parts:
        (shard,) = part.glob("shard-*.tar")
        sizes.append(shard.stat().st_size)
        with tarfile.open(shard) as file:
            names += [member.name for member in file]
    assert len(parts) > 2 and max(sizes) <= 60_000 and max(sizes) - min(sizes) < 15_000
    assert sorted(names) == sorted(name.replace("/", "-") for name, _ in pictures)


def test_training_needs_nothing_that_the_gpu_machine_lacks():
    lacks = ("onnx", "onnxruntime", "rich", "typer", "ssimulacra2", "plotly")
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in lacks)
    modules = "looc_codec.training.plan, looc_codec.training.carry, looc_codec.training.coded"
    words = [sys.executable, "-c", f"import sys; {blocked}; import {modules}"]
    subprocess.run(words, check=True, cwd=ROOT)


# --- filter ---------------------------------------------------------------------------------------


def test_the_filter_in_the_loop_is_the_encoders():
    pixels = torch.from_numpy(photo(96, 80)).permute(2, 0, 1)[None].float()
    decoded = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(pixels, (1,) * 4, mode="replicate"), 3, 1
    ).requires_grad_()
    out = filtered(decoded, pixels)
    before, after = (
        (value - pixels).square().sum().item() for value in (decoded.detach(), out.detach())
    )
    statistics = Statistics()
    statistics.add(decoded[0].detach().numpy(), Margins(0, 0, 0, 0), pixels[0].numpy())
    _, gain = statistics.fit(1.0)
    assert after < before - gain * 0.97 and after == pytest.approx(before - gain, rel=0.05)
    out.square().sum().backward()
    assert decoded.grad.abs().sum() > 0


def test_elimination_solves():
    matrix = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    matrix = matrix @ matrix.mT + torch.eye(6)
    wanted = torch.randn(2, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(solved(matrix, (matrix @ wanted[..., None])[..., 0]), wanted)


# --- plan -----------------------------------------------------------------------------------------


def test_a_plan_survives_its_file(tmp_path):
    plan = small_plan()
    plan.write(tmp_path / PLAN)
    assert Plan.read(tmp_path / PLAN) == Plan.read(tmp_path / PLAN)
    read = Plan.read(tmp_path / PLAN)
    for own, other in zip(plan.stages, read.stages, strict=True):
        assert plan.options_of(own) == read.options_of(other) and plan.config_of(
            own
        ) == read.config_of(other)
    assert read.options_of(read.stages[0]).prior_rate == 2.5 * TrainOptions().prior_rate
    (tmp_path / PLAN).write_text('{"stages": [], "more": 1}')
    with pytest.raises(ModelError, match="not a training plan"):
        Plan.read(tmp_path / PLAN)


@pytest.mark.parametrize("values", [script.PLAN, script.SMOKE_PLAN])
def test_the_plans_of_the_script_are_plans(values):
    plan = Plan(**values | {"stages": tuple(Stage(**stage) for stage in values["stages"])})
    for stage in plan.stages:
        options = plan.options_of(stage)
        assert plan.config_of(stage).metric == options.metric and options.crop % 16 == 0
    # Stages of a model follow one another on one fall of the learning rates.
    first, second = (plan.options_of(stage).cosine for stage in plan.stages[:2])
    assert first[0] == 0 and first[1] == second[0] and second[1] == 1
    assert (
        values is script.SMOKE_PLAN
        or sum(stage.minutes for stage in plan.stages) < script.RUN_MINUTES < 27
    )


def test_minutes_follow_the_deadline(run_folder):
    runner = Runner(run_folder, note=silent)
    assert runner.minutes_of(runner.plan.stages[0]) == pytest.approx(1.0)
    runner.set_deadline(1.0)
    # Half of the planned two minutes are there: each stage gets half.
    assert runner.minutes_of(runner.plan.stages[0]) == pytest.approx(0.5, abs=0.02)
    runner.set_deadline(100.0)
    assert runner.minutes_left() < 1.01, "a deadline stays"
    # A stage that was interrupted after half a minute gets its share of what is left on top.
    assert runner.minutes_of(runner.plan.stages[0], used=0.5) == pytest.approx(
        0.5 + 1.0 * 0.5 / 1.5, abs=0.02
    )
    runner.finish(runner.plan.stages[0], {})
    assert runner.minutes_of(runner.plan.stages[1]) == pytest.approx(0.5, abs=0.02)


def test_stages_follow_one_another(run_folder):
    assert Runner(run_folder, note=silent).run()
    first, second, other = (
        read_meta(run_folder / "stages" / name / CHECKPOINT)
        for name in ("first", "second", "other")
    )
    assert (first["step_count"], second["step_count"], other["step_count"]) == (4, 7, 2)
    assert second["options"]["crop"] == 48 and other["config"]["name"] == "photo-b"
    # Nothing is made twice.
    before = (run_folder / "stages/second" / CHECKPOINT).stat().st_mtime_ns
    assert Runner(run_folder, note=silent).run()
    assert (run_folder / "stages/second" / CHECKPOINT).stat().st_mtime_ns == before


def test_a_run_that_is_interrupted_ends_as_one_that_is_not(
    run_folder, tmp_path_factory, one_thread
):
    whole = tmp_path_factory.mktemp("whole")
    small_plan().write(whole / PLAN)
    (whole / "pixels").symlink_to(run_folder / "pixels")
    assert Runner(whole, note=silent).run()

    class Interrupted(Runner):
        def watch(self, stage, trainer, row):
            super().watch(stage, trainer, row)
            if (stage.name, row["step"]) in (("first", 2), ("second", 6)) and (
                stage.name,
                row["step"],
            ) not in seen:
                seen.append((stage.name, row["step"]))
                raise KeyboardInterrupt

    seen: list[tuple] = []
    assert not Interrupted(run_folder, note=silent).run()
    assert not Interrupted(run_folder, note=silent).run()
    assert Interrupted(run_folder, note=silent).run() and len(seen) == 2
    for stage in ("first", "second", "other"):
        expected, found = weights_of(whole, stage), weights_of(run_folder, stage)
        assert all(torch.equal(expected[name], found[name]) for name in expected), stage


def test_a_stage_without_time_is_left_out(run_folder):
    plan = small_plan()
    Plan(
        (replace(plan.stages[0], options={}), *plan.stages[1:]),
        plan.config,
        options=plan.options,
        start_batches=1,
    ).write(run_folder / PLAN)
    runner = Runner(run_folder, note=silent)
    runner.set_deadline(0.0)
    assert runner.run()
    assert (
        json.loads((run_folder / "stages/first" / FINISHED).read_text())["left_out"]
        and not (run_folder / "stages/first" / CHECKPOINT).exists()
    )


def test_a_stage_that_diverges_goes_on_more_slowly(run_folder):
    rates = []

    class Diverging(Runner):
        def watch(self, stage, trainer, row):
            super().watch(stage, trainer, row)
            rates.append(trainer.options.prior_rate)
            if row["step"] == 2 and len(rates) == 2:
                trainer.save(self.home(stage))
                with torch.no_grad():
                    trainer.model.synthesis.linear[0] = float("nan")

    assert Diverging(run_folder, note=silent).run()
    assert (
        rates[2] == pytest.approx(plan_module.SLOWER_FACTOR * rates[0])
        and read_meta(run_folder / "stages/first" / CHECKPOINT)["step_count"] == 4
    )


def test_new_pictures_come_in_while_a_stage_runs(run_folder):
    counts = []

    class Grown(Runner):
        def watch(self, stage, trainer, row):
            if not counts:
                append(run_folder / "pixels", "shard-1-of-2", [photo(96, 80, seed=9)])
            super().watch(stage, trainer, row)
            counts.append(len(trainer.store))

    assert Grown(run_folder, note=silent).run()
    assert counts[0] == 4


# --- what travels ---------------------------------------------------------------------------------


def test_a_state_in_pieces_goes_on_on_another_machine(run_folder, tmp_path_factory):
    class Stopped(Runner):
        def watch(self, stage, trainer, row):
            super().watch(stage, trainer, row)
            if stage.name == "second" and row["step"] == 6:
                raise KeyboardInterrupt

    assert not Stopped(run_folder, note=silent).run()
    about = write_state(run_folder, run_folder / "state")
    assert (
        about["stage"] == "second"
        and about["finished"] == ["first"]
        and about["step_count"] == 6
        and not about["done"]
    )
    other = tmp_path_factory.mktemp("other")
    pieces = split(run_folder / "state", other, piece_bytes=50_000)
    assert len(pieces) > 1 and max(piece.stat().st_size for piece in pieces) <= 50_000
    last = pieces[-1].read_bytes()
    pieces[-1].unlink()
    with pytest.raises(ModelError, match="not all"):
        joined(other, other / RESTORED)
    pieces[-1].write_bytes(last)
    assert (
        joined(other, other / RESTORED)
        and (other / RESTORED).read_bytes() == (run_folder / "state").read_bytes()
    )
    small_plan().write(other / PLAN)
    (other / "pixels").symlink_to(run_folder / "pixels")
    begun = []

    class Watched(Runner):
        def joint_trainer(self, stage, meta):
            trainer = super().joint_trainer(stage, meta)
            begun.append(
                (
                    stage.name,
                    trainer.step_count,
                    {name: value.clone() for name, value in trainer.ema.items()},
                )
            )
            return trainer

    assert Watched(other, note=silent).run()
    assert [row[:2] for row in begun] == [("second", 6), ("other", 0)]
    expected = weights_of(run_folder, "second")
    assert all(torch.equal(begun[0][2][name], expected[name]) for name in expected)
    assert write_state(other, other / "state")["finished"] == ["first", "second", "other"]
    used = Watched(other, note=silent).used_minutes(Plan.read(other / PLAN).stages[1], None)
    assert 60 * used == about["seconds_used"] > 0
    assert (
        not (other / "stages/first").exists()
        and read_meta(other / "stages/second" / CHECKPOINT)["step_count"] == 7
    )


def test_what_is_finished_comes_along_as_far_as_there_is_room(run_folder):
    assert Runner(run_folder, note=silent).run()
    about = write_state(run_folder, run_folder / "state")
    state = State.read(run_folder / "state")
    assert about["done"] and state.about["model"] == "photo-b" and not state.change
    expected = weights_of(run_folder, "second")
    assert all(
        torch.allclose(state.models["photo"][name], expected[name], atol=1e-3, rtol=1e-3)
        for name in state.models["photo"]
    )
    write_state(run_folder, run_folder / "state", limit_bytes=1000)
    assert not State.read(run_folder / "state").models


# --- codes of the trellis -------------------------------------------------------------------------


def test_the_synthesis_learns_on_coded_crops(tmp_path):
    torch.manual_seed(0)
    model = build_trainable_model()
    store, generator = open_store_of(tmp_path), torch.Generator().manual_seed(1)
    quality = torch.tensor([20.0, 50.0, 80.0, 95.0])
    pixels = store.crops(4, 32, generator).round()
    made = coded.coded_crops(model, CodeFitter(model, "cpu", ENCODER_LAMBDA), pixels, quality)
    # The codes are those of the model's own traversal with the trellis.
    with torch.no_grad():
        result = model.prior(
            model.analysis(pixels, quality),
            quality,
            CodeFitter(model, "cpu", ENCODER_LAMBDA).quantise,
        )
    assert np.array_equal(
        made["latents"], (result["latent_hat"] * LATENT_ONE).round().numpy()
    ) and np.array_equal(made["pixels"], pixels.numpy())
    (tmp_path / "crops").mkdir()
    for index in range(2):
        coded.save_whole(made, tmp_path / "crops" / f"{index}.safetensors")
    trained = LoocModel(model.config)
    trained.load_state_dict(model.state_dict())
    before = {name: value.detach().clone() for name, value in trained.named_parameters()}
    options = TrainOptions(
        stage="synthesis",
        minutes=None,
        steps=30,
        batch=4,
        crop=32,
        prior_only_share=0.0,
        warmup_steps=2,
    )
    trainer = coded.CodedTrainer(trained, store, options)
    trainer.pool = coded.Pool(model.config, 32, 6, "cpu")
    assert (
        trainer.pool.take_in(tmp_path) == 8
        and len(trainer.pool) == 6
        and not list((tmp_path / "crops").iterdir())
    )
    losses = [float(trainer.step()["loss"].mean()) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    changed = {
        name for name, value in trained.named_parameters() if not torch.equal(value, before[name])
    }
    assert changed and all(name.startswith("synthesis.") for name in changed)


def open_store_of(folder: Path):
    append(folder / "pixels", "a", [photo(96, 80, seed=index) for index in range(2)])
    return open_store(folder / "pixels")


def test_a_coding_process_stops_when_told(tmp_path):
    open_store_of(tmp_path)
    model = build_trainable_model()
    coded.write_model(tmp_path, model, model.codebook.export(), coded.Task(crop=32))
    process = subprocess.Popen(
        [sys.executable, "-m", "looc_codec.training.coded", "code", str(tmp_path), "0"], cwd=ROOT
    )
    try:
        begin = time.time()
        while not list(tmp_path.glob("crops/*.safetensors")):
            assert process.poll() is None and time.time() - begin < 120
            time.sleep(0.2)
        (tmp_path / "stop").touch()
        assert process.wait(60) == 0
    finally:
        process.kill()


def test_a_coded_stage_that_gets_no_crops_is_left_out(run_folder, monkeypatch):
    monkeypatch.setattr(plan_module, "WAIT_SECONDS", 0.3)
    stages = (
        *small_plan().stages[:2],
        Stage("coded", "photo", 0.2, coded=True, options={"steps": 2}),
        small_plan().stages[2],
    )
    Plan(stages, small_plan().config, options=small_plan().options, start_batches=1).write(
        run_folder / PLAN
    )
    runner = Runner(run_folder, note=silent)
    monkeypatch.setattr(runner, "start_fit", lambda checkpoint, keep=False: None)
    assert runner.run()
    assert json.loads((run_folder / "stages/coded" / FINISHED).read_text())[
        "left_out"
    ] and runner.finished(stages[3])


# --- all of it ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif("LOOC_SMOKE" not in os.environ, reason="takes minutes and is boxed by the clock; LOOC_SMOKE=1 runs it")
def test_the_whole_run_on_a_tenth_of_the_network():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "smoke"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the smoke test passed" in done.stdout
