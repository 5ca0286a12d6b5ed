"""Trains, codes and measures the rows of a table; every finished row is kept and never done twice."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import torch

import looc_codec
from looc_codec.codec.model import write_model
from looc_codec.datasets import PHOTO_SETS, list_photos, load_small
from looc_codec.errors import LoocError, ModelError
from looc_codec.files import write_atomically
from looc_codec.format.index_grid import GridCoder
from looc_codec.reproduction.batches import ArrayPictures, EpochBatches, FilePictures, Pictures, limited_title
from looc_codec.reproduction.evaluation import PROTOCOLS, Quality, QualityMeter
from looc_codec.reproduction.export import can_be_exported, grid_model, table_batches
from looc_codec.reproduction.rates import StaticCoder, fitted_tables, measured, uniform_bits
from looc_codec.reproduction.rows import Row
from looc_codec.reproduction.trainer import PHOTO_RATE_PER_PICTURE, SMALL_DECAY, SMALL_RATE, RowTrainer, TrainSettings
from looc_codec.reproduction.vqvae import VqVae, build_model, plane_codevectors, to_network
from looc_codec.training.checkpoint import read_meta

RESULT = "result.json"
CHECKPOINT = "checkpoint.safetensors"
CODES = "codes.npz"
WEIGHTS = "weights.safetensors"
FORMAT = "looc-reproduction 1"
TABLE_PICTURES = 5_000
"""Training pictures whose codes make the tables of the range coder."""
EVALUATION_BATCH = 128
TRAINED_ON = {"celeba": "ffhq"}
"""Data sets that networks of another one are tested on."""


class ReproductionError(LoocError):
    """Stored rows that do not fit what is asked for."""


@dataclass(frozen=True)
class RowRequest:
    """A row on a data set: the root folder of data, where rows are kept, how to train, and where to test."""

    row: Row
    dataset: str
    data: Path
    out: Path
    settings: TrainSettings
    device: str = "cpu"

    @property
    def folder(self) -> Path:
        return self.out / "rows" / self.dataset / self.row.name

    @property
    def checkpoint(self) -> Path:
        """Where the trained network lies: with the data set that it is trained on, so that Table 12 takes Table 2's."""
        return self.out / "rows" / TRAINED_ON.get(self.dataset, self.dataset) / self.row.name / CHECKPOINT


Stage = Callable[[float | None, str], None]
"""Told of the part done (None: unknown) and of what is happening."""


def open_pictures(dataset: str, data: Path, split: str, limit: int | None) -> Pictures:
    """The "train" or "test" split of a data set; ImageError says which files are expected where."""
    if dataset in PHOTO_SETS:
        return FilePictures(list_photos(dataset, data, split), limit=limit)
    found = load_small(dataset, data, split)
    return ArrayPictures(limited_title(found.title, len(found.pictures), limit), found.pictures[:limit])


def pictures_for(dataset: str, data: Path, settings: TrainSettings) -> tuple[Pictures, Pictures]:
    """Training and test pictures; CelebA is a test of networks trained on FFHQ, as in the paper's Table 12."""
    train = open_pictures(TRAINED_ON.get(dataset, dataset), data, "train", settings.limit)
    return train, open_pictures(dataset, data, "test", settings.test_limit)


def finished(request: RowRequest) -> dict[str, Any] | None:
    """The stored result of a row; None when there is none yet.

    Raises:
        ReproductionError: it was made with other settings, or is damaged.
    """
    path = request.folder / RESULT
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        same = result["format"] == FORMAT and result["settings"] == asdict(request.settings)
    except (ValueError, KeyError, TypeError):
        raise ReproductionError(f"{path} holds no result of looc reproduce; delete it or give another --out") from None
    if not same:
        raise ReproductionError(f"{path} was made with other settings ({_words(result['settings'])}); give the same ones, or another --out")
    return result


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)


def run_row(request: RowRequest, pictures: tuple[Pictures, Pictures], stage: Stage = lambda part, words: None) -> dict[str, Any]:
    """Trains a row if it is not finished, measures it and keeps the result; returns the result.

    An interrupted row goes on from its checkpoint the next time.
    """
    known = finished(request)
    if known is not None:
        return known
    if request.device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError("no CUDA device is available here; give --device cpu")
    if util.find_spec("pytorch_msssim") is None:
        raise ModelError("SSIM needs the package pytorch-msssim, which is not installed (pip install 'looc[reproduce]')")
    request.folder.mkdir(parents=True, exist_ok=True)
    train, test = pictures
    torch.manual_seed(request.settings.seed)
    photo = request.dataset in PHOTO_SETS
    batches = EpochBatches(train, request.settings.batch, request.settings.seed, request.device)
    model = build_model(request.row, batches.image_channels, photo=photo)
    trainer = RowTrainer(model, batches, request.settings, request.device, photo=photo)
    checkpoint = request.checkpoint
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        _require_same_settings(checkpoint, request.settings, own=checkpoint.parent == request.folder)

    def told(part: float, figures: dict[str, float]) -> None:
        stage(0.9 * part, f"{request.row.name}: step {trainer.step_count}, loss {figures['loss']:.3f}, {figures['psnr_db']:.2f} dB")

    trainer.run(checkpoint, told)
    if can_be_exported(model.quantizer) and checkpoint.parent == request.folder:
        stage(0.9, f"{request.row.name}: writing its weights file")
        description = f"{request.row.label}, trained on {train.title}"
        write_model(grid_model(model, request.row.name, table_batches(batches, model.backbone.positions_per_side), description), request.folder / WEIGHTS)
    result = {
        "format": FORMAT, "version": looc_codec.__version__, "row": request.row.name, "label": request.row.label, "note": request.row.note,
        "dataset": request.dataset, "train": train.title, "test": test.title, "settings": asdict(request.settings),
        "steps": trainer.step_count, "train_seconds": round(trainer.seconds, 1), "device": request.device, "machine": platform.processor() or platform.machine(),
        "parameters": sum(value.numel() for value in model.backbone.parameters()), "codebook_parameters": model.quantizer.codebook_parameters,
        **evaluate(model, train, test, request, lambda words: stage(None, f"{request.row.name}: {words}")),
    }  # fmt: skip
    with write_atomically(request.folder / RESULT, force=True) as file:
        file.write((json.dumps(result, indent=1) + "\n").encode())
    return result


def _require_same_settings(checkpoint: Path, settings: TrainSettings, *, own: bool) -> None:
    """ReproductionError where a checkpoint is of other settings. A row's own may be given a larger budget; what it is tested on
    makes no other network."""
    stored = read_meta(checkpoint)["settings"]
    free = {"test_limit": None} | ({"epochs": None, "minutes": None, "steps": None} if own else {})
    if {**stored, **free} != {**asdict(settings), **free}:
        raise ReproductionError(f"{checkpoint} was made with other settings ({_words(stored)}); give the same ones, or another --out")


@torch.inference_mode()
def codes_of(model: VqVae, pictures: Pictures, count: int, device: str) -> np.ndarray:
    """Codes `(n, p, h', w')` int64 of the first `count` pictures."""
    model.eval()
    found = []
    for start in range(0, count, EVALUATION_BATCH):
        batch = to_network(pictures.take(np.arange(start, min(start + EVALUATION_BATCH, count))))
        found.append(model.codes(batch.to(device)).cpu().numpy())
    return np.concatenate(found)


@torch.inference_mode()
def quality_of(model: VqVae, codes: np.ndarray, pictures: Pictures, device: str) -> dict[str, Quality]:
    """Quality under each protocol of the pictures made from codes `(n, p, h', w')` of the first n `pictures`."""
    model.eval()
    meters = {protocol: QualityMeter(protocol, len(codes)) for protocol in PROTOCOLS}
    for start in range(0, len(codes), EVALUATION_BATCH):
        part = codes[start : start + EVALUATION_BATCH]
        decoded = model.reconstruct(torch.from_numpy(part).to(device)).float().cpu().numpy()
        originals = pictures.take(np.arange(start, start + len(part)))
        for meter in meters.values():
            meter.add(originals, decoded)
    return {protocol: meter.quality() for protocol, meter in meters.items()}


def evaluate(model: VqVae, train: Pictures, test: Pictures, request: RowRequest, words: Callable[[str], None]) -> dict[str, Any]:
    """Usage, rates and quality of a trained model on all test pictures; keeps the codes for the analyses."""
    words("codes of the test pictures")
    codes = codes_of(model, test, len(test), request.device)
    words("codes of training pictures, for the coder's tables")
    table_codes = codes_of(model, train, min(len(train), TABLE_PICTURES), request.device)
    words("coding and decoding the codes")
    height, width = test.take(np.zeros(1, np.int64)).shape[1:3]
    pixels = len(test) * height * width
    sizes = model.quantizer.codebook_sizes
    codevectors = plane_codevectors(model.quantizer, codes.shape[1], max(1, codes.shape[2] * model.backbone.positions_per_side // height))
    coders = {"static": StaticCoder(table_codes, max(sizes)), "conditional": GridCoder(fitted_tables(table_codes, codevectors))}
    rates: dict[str, Any] = {"uniform": {"bpp": uniform_bits(codes.shape, sizes) / pixels}}
    for name, coder in coders.items():
        rate = measured(coder, codes)
        rates[name] = {"bpp": 8 * rate.stream_bytes / pixels, "stream_bytes": rate.stream_bytes, "table_bytes": rate.table_bytes}
    usages = model.quantizer.usage(torch.from_numpy(codes))
    words("measuring quality")
    # What the coder wrote is what is measured: `measured` has decoded these very codes.
    quality = quality_of(model, codes, test, request.device)
    with write_atomically(request.folder / CODES, force=True) as file:
        np.savez_compressed(file, codes=codes.astype(np.uint16), codevectors=codevectors[: 1 if len(sizes) == 1 else None].astype(np.float32))
    return {
        "pixels": pixels, "code_shape": list(codes.shape), "codebook_sizes": list(sizes), "codes_sha256": hashlib.sha256(codes.astype("<u2").tobytes()).hexdigest()[:16],
        "usage": float(np.mean([usage.used_share for usage in usages])), "perplexity": float(np.mean([usage.perplexity for usage in usages])),
        "rates": rates, "quality": {name: part.values for name, part in quality.items()}, "missing": quality["paper"].reasons,
    }  # fmt: skip


def settings_for(
    dataset: str, *, epochs: float | None, minutes: float | None, batch: int | None, seed: int, bf16: bool, limit: int | None, test_limit: int | None, perceptual: bool,
    adversarial: bool, steps: int | None = None, rate: float | None = None, decay: float | None = None, start: str | None = None,
) -> TrainSettings:  # fmt: skip
    """The paper's budget where nothing else is asked for: 500 epochs of batches of 1024 for small pictures. Rate, decay and start of these are
    the better ones that were measured, those of photographs the papers' own."""
    photo = dataset in PHOTO_SETS
    if epochs is None and minutes is None and steps is None:
        epochs = 100.0 if photo else 500.0
    adversarial_start = 250_001 if dataset == "imagenet" else 30_001
    batch = batch or ((12 if dataset == "imagenet" else 3) if photo else 1024)
    if rate is None:
        rate = PHOTO_RATE_PER_PICTURE * batch if photo else SMALL_RATE
    if decay is None:
        decay = 0.0 if photo else SMALL_DECAY
    return TrainSettings(
        epochs=epochs, minutes=minutes, steps=steps, rate=rate, decay=decay, start=start or ("released" if photo else "kmeans"), batch=batch, seed=seed, bf16=bf16, limit=limit, test_limit=test_limit, perceptual=perceptual, adversarial=adversarial,
        adversarial_start=adversarial_start,
    )  # fmt: skip


def run_rows(requests: Sequence[RowRequest], stage: Callable[[float, str], None]) -> Iterator[dict[str, Any]]:
    """The result of each row in order, as it is finished; `stage` is told of the part done of the whole."""
    opened: dict[str, tuple[Pictures, Pictures]] = {}
    for number, request in enumerate(requests):
        known = finished(request)
        if known is None:
            if request.dataset not in opened:
                opened = {request.dataset: pictures_for(request.dataset, request.data, request.settings)}

            def told(part: float | None, words: str, number: int = number) -> None:
                stage((number + (0.9 if part is None else part)) / len(requests), words)

            known = run_row(request, opened[request.dataset], told)
        stage((number + 1) / len(requests), f"{request.row.name} on {request.dataset} is done")
        yield known
