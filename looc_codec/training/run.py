"""A whole training run: pictures, model, stages, checkpoints, export of the weights file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open

from looc_codec.codec.model import CodecModel, read_model, write_model
from looc_codec.codec.search import ENCODER_LAMBDA, HIGH_RATE_LAMBDA
from looc_codec.config import LoocConfig
from looc_codec.data import PictureStore, load_pictures
from looc_codec.datasets import training_pictures
from looc_codec.errors import ImageError, ModelError
from looc_codec.format.integers import Core
from looc_codec.networks.model import LoocModel
from looc_codec.quantizers.codebook import SharedCodebook
from looc_codec.training.checkpoint import load_checkpoint, read_meta
from looc_codec.training.coded import CodedCrops, code_crops
from looc_codec.training.codes import CodeFitter, untrellised
from looc_codec.training.details import fit_details
from looc_codec.training.draws import Draws
from looc_codec.training.export import core_of, export
from looc_codec.training.grow import grown
from looc_codec.training.loop import Trainer, TrainOptions, measured_channel_order, start_scales_from_data
from looc_codec.training.parallel import Processes, join, leave
from looc_codec.training.slim import is_slimmer, require_slimmer, slimmed
from looc_codec.training.validation import centre_crops

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
CODED = "coded"
FIT_BATCHES = 60
"""Batches of 8 crops of 192 x 192 gathered for a fit of the codebook: 9 million units at d* = 2."""
START_BATCHES = 20
"""The same for the start of a stage "codes", which goes on fitting while it trains."""
COUNT_BATCHES = 180
"""Further batches counted for the tables of an export."""


@dataclass(frozen=True)
class RunRequest:
    """What `looc train` was asked for.

    `init` is a weights file or a checkpoint whose weights are continued; `config` holds the fields of LoocConfig that
    differ from it, or from the defaults in a fresh run. `validation` is a folder of pictures that are only looked at.
    """

    data: Path
    out: Path
    config: dict = field(default_factory=dict)
    options: TrainOptions = TrainOptions()
    device: str = "cpu"
    init: Path | None = None
    resume: bool = False
    limit: int | None = None
    validation: Path | None = None
    description: str = ""
    dataset: str = "folder"


Report = Callable[[str, dict], None]


def load_store(request: RunRequest, report: Report) -> PictureStore:
    pictures = training_pictures(request.dataset, request.data, min_side=request.options.crop, limit=request.limit,
                                 progress=lambda count: report("loading", {"pictures": count}))
    if not pictures:
        raise ImageError(f"{request.data} holds no picture with both sides of at least {request.options.crop} pixels; choose a smaller --crop")
    return PictureStore(pictures, request.device)


def starting_model(request: RunRequest, store: PictureStore) -> LoocModel:
    """A fresh model started from the DCT and the data's statistics, or the one that --init names."""
    if request.init is None:
        model = LoocModel(LoocConfig.from_dict(request.config), measured_channel_order(store)).to(request.device)
        start_scales_from_data(model, store)
    else:
        model = model_of(request.init)
        config = LoocConfig.from_dict(model.config.to_dict() | request.config)
        if is_slimmer(config, model.config):
            if request.options.stage != "synthesis":
                raise ModelError("a synthesis is made slimmer in stage synthesis, which learns to make up for it; give --stage synthesis")
            # Crops are coded, and their pixels made, by what it is now.
            require_slimmer(model.config, config)
        else:
            model = grown(model, config, store)
    model.config = dataclasses.replace(model.config, metric=request.options.metric)
    return model


def model_of(path: Path) -> LoocModel:
    """Trainable model of a checkpoint (its EMA weights) or of an exported weights file."""
    try:
        meta = read_meta(path)
    except ModelError:
        return LoocModel.of(read_model(path))
    model = LoocModel(LoocConfig.from_dict(meta["config"]))
    ema, _ = load_checkpoint(path, model, None, {})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(ema[name])
    return model


def core_in(path: Path | None) -> Core | None:
    """The integers of a weights file, or those that a checkpoint of stage "synthesis" carries; None where there are none."""
    if path is None:
        return None
    try:
        read_meta(path)
    except ModelError:
        return dict(read_model(path).core)
    with safe_open(path, framework="np") as file:
        return {name.removeprefix("extra.core."): file.get_tensor(name) for name in file.keys() if name.startswith("extra.core.")} or None


def fit_codes(
    model: LoocModel, store: PictureStore, device: str, report: Report, processes: Processes = Processes(), *, book: SharedCodebook | None = None, batches: int = FIT_BATCHES,
    crop: int = 192, rounds: int = 6, more: int = 0,
) -> CodeFitter:  # fmt: skip
    """Fits the shared codebook, the model's own by default, and its tables to a model: plain rounding first, then its own codes, then counts of `more` batches.

    In a trellis codes are chosen with the encoder's weight of bits, since what is chosen decides which states the tables see.
    """
    book = model.codebook if book is None else book
    fitter = CodeFitter(model, device, ENCODER_LAMBDA if book.trellis else HIGH_RATE_LAMBDA, processes=processes, book=book)
    generator = torch.Generator(device).manual_seed(3)
    crop = min(crop, store.smallest // 16 * 16)
    for number, part in enumerate((batches // 3, batches)):
        units, rows = fitter.gather(store, generator, max(1, part), crop=crop,
                                    report=lambda index, number=number, part=part: report("fitting", {"round": number, "batch": index, "batches": part}))
        fitter.fit(units, rows, rounds)
    if more:
        fitter.count_more(store, generator, more, crop, lambda index: report("fitting", {"round": 2, "batch": index, "batches": more}))
    if processes.count > 1:
        fitter.restore(processes.share_state(fitter.state()))
    return fitter


def with_details(model: LoocModel, core: Core | None, store: PictureStore, report: Report, steps: int | None = None) -> Core:
    """Fits the details of a model that keeps the rest of the `core` given; returns what it keeps. ModelError where there is no core or the model has no details."""
    if not core or model.details is None:
        raise ModelError("stage details goes on from a weights file, whose codes it keeps, and needs detail_channels above 0; give --init and --config")
    kept = {name: value for name, value in core.items() if not name.startswith("details.")}
    model.take(core_of(model) | kept)
    report("details", fit_details(model, store, "cpu", report, steps=steps))
    return kept


def export_weights(model: LoocModel, path: Path, description: str, keep: Core | None = None) -> CodecModel:
    """Exports the model, with the integers to `keep` as they are, and writes the weights file; returns the model as a reader will see it."""
    write_model(export(model, description, keep=keep), path)
    return read_model(path)


def train(request: RunRequest, report: Report) -> bool:
    """Runs one stage and exports its EMA weights to `out`/weights.safetensors; False when it was interrupted, which
    leaves a checkpoint and no export.

    `report(kind, figures)` is called with "loading", "coding", "slimming", "training", "fitting" and "done". Raises ModelError or ImageError
    when the request cannot be carried out.
    """
    checkpoint = request.out / CHECKPOINT
    if not request.resume and checkpoint.exists():
        raise ModelError(f"{checkpoint} exists; give --resume to go on with it or another --out")
    if request.resume and not checkpoint.exists():
        raise ModelError(f"there is no {checkpoint} to resume; leave --resume away to start a new run")
    if request.device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError("no CUDA device is available here; give --device cpu")
    processes, device = join(request.device)
    try:
        return train_stage(dataclasses.replace(request, device=device), report if processes.first else lambda kind, figures: None, processes)
    finally:
        leave()


def train_stage(request: RunRequest, report: Report, processes: Processes) -> bool:
    """`train` in one of the processes of a run."""
    checkpoint = request.out / CHECKPOINT
    torch.manual_seed(request.options.seed)
    meta = read_meta(checkpoint) if request.resume else None
    if meta is not None:
        known = {field.name for field in dataclasses.fields(TrainOptions)}
        saved = TrainOptions(**{name: value for name, value in meta["options"].items() if name in known})
        budget = {name: getattr(request.options, name) for name in ("minutes", "steps")}
        request = dataclasses.replace(request, options=dataclasses.replace(saved, **budget))
    store = load_store(request, report)
    held_out = None
    if request.validation is not None:
        side = request.options.crop
        held_out = centre_crops(load_pictures(request.validation, min_side=side), side)
    if request.options.stage == "details":
        return train_details(request, store, report)
    model = LoocModel(LoocConfig.from_dict(meta["config"])) if meta is not None else starting_model(request, store)
    model.to(request.device)
    codes = None
    kept: Core | None = None
    crops: CodedCrops | None = None
    if request.options.stage == "synthesis":
        folder = request.out / CODED / str(processes.rank)
        kept = core_in(request.init if meta is None else checkpoint)
        if meta is None:
            model, crops = with_coded_crops(model, kept, request, store, folder, report, processes.rank)
        else:
            crops = CodedCrops.of(folder)
    elif request.options.stage == "codes":
        book = untrellised(model.config)
        codes = (CodeFitter(model, request.device, processes=processes, book=book) if meta is not None
                 else fit_codes(model, store, request.device, report, processes, book=book, batches=START_BATCHES))
    trainer = Trainer(model, store, request.options, request.device, codes, processes, held_out, kept, crops)
    if meta is not None:
        trainer.resume(checkpoint, meta)
    if not trainer.run(request.out, lambda row: report("training", row)):
        return False
    if processes.first:
        trainer.take(trainer.ema)
        if request.options.stage != "synthesis":
            codes = fit_codes(model, store, request.device, report, more=COUNT_BATCHES)
            if model.details is not None:
                report("details", fit_details(model, store, request.device, report))
        exported = export_weights(model, request.out / WEIGHTS, request.description, kept)
        bits = math.nan if codes is None else codes.bits_per_unit
        report("done", {"weights": str(request.out / WEIGHTS), "fingerprint": exported.fingerprint.hex(), "bits_per_unit": bits})
    return True


def with_coded_crops(
    model: LoocModel, core: Core | None, request: RunRequest, store: PictureStore, folder: Path, report: Report, rank: int = 0
) -> tuple[LoocModel, CodedCrops]:
    """Codes crops for stage "synthesis" with a model under the `core` given; returns the model, made slimmer where the request's configuration asks for it, and the crops.

    ModelError where there is no core.
    """
    if not core:
        raise ModelError("stage synthesis goes on from a weights file, whose codes it keeps; give one with --init")
    options, device = request.options, request.device
    model.to("cpu").take(core)
    model.to(device).codebook.to_device(device)
    for transform in (model.analysis, model.synthesis):
        transform.to(memory_format=torch.channels_last)
    count = -(-options.coded_crops // options.batch) * options.batch
    draws = Draws(store, options, device, options.seed + rank)
    crops = code_crops(model, CodeFitter(model, device, ENCODER_LAMBDA), draws, folder, count, lambda done: report("coding", {"crop": done, "crops": count}))
    config = LoocConfig.from_dict(model.config.to_dict() | request.config)
    if is_slimmer(config, model.config):
        model = slimmed(model.to("cpu"), config, crops, lambda batch, batches: report("slimming", {"batch": batch, "batches": batches}))
        model.take(core)
        model.to(device)
    return model, crops


def train_details(request: RunRequest, store: PictureStore, report: Report) -> bool:
    """Stage "details": fits the details of the weights that --init names, under the request's configuration, and exports; everything else stays as it is."""
    if request.init is None or request.device != "cpu":
        raise ModelError("stage details goes on from a weights file, on the CPU; give one with --init")
    start = model_of(request.init)
    model = grown(start, LoocConfig.from_dict(start.config.to_dict() | request.config))
    kept = with_details(model, core_in(request.init), store, report, request.options.steps)
    exported = export_weights(model, request.out / WEIGHTS, request.description, kept)
    report("done", {"weights": str(request.out / WEIGHTS), "fingerprint": exported.fingerprint.hex(), "bits_per_unit": float("nan")})
    return True
