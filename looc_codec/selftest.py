"""Is this installation sound? Models intact, a golden file decoded as stored, and codes equal however sums are computed.

A golden file lies beside the weights that wrote it: `NAME.golden.looc` with `NAME.golden.json` (fingerprint and hash of
its codes) and `NAME.golden.png` (its pixels). `write_golden` makes all three anew when the weights change.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from looc_codec import api, registry
from looc_codec.codec.kinds import AnyModel
from looc_codec.errors import LoocError
from looc_codec.exactness import (
    AVX2_ENVIRONMENT,
    NO_AVX_ENVIRONMENT,
    Setting,
    Variant,
    decode,
    largest_difference,
    launch,
    limits_instruction_sets,
)
from looc_codec.files import write_atomically
from looc_codec.registry import MODEL_SUFFIX, ModelEntry

GOLDEN_SIZE = (120, 88)
GOLDEN_LEVEL = 60
LEVELS = [15, 85]
PICTURE_SIZES = ((176, 120), (70, 33), (16, 250))
LARGEST_DIFFERENCE_LEVELS = 1
SMALL_TILE_POSITIONS = 3
REFERENCE = Setting("1 thread", threads=1)


@dataclass(frozen=True)
class Check:
    """One finding: `kind` is "model", "golden" or "exactness", `detail` one clause about what was found."""

    kind: str
    name: str
    passed: bool
    detail: str


def scene(width: int, height: int, seed: int) -> np.ndarray:
    """A picture with gradients, edges, texture and noise, `(H, W, 3)` uint8, made from its numbers alone."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / max(width, height)
    sky = np.stack([110 + 120 * rows, 140 + 60 * columns, 210 - 90 * rows], -1)
    texture = 35 * np.sin((40 + 9 * seed) * columns + 25 * rows) * np.cos(60 * rows * columns + seed)
    disc = (rows - 0.3) ** 2 + (columns - 0.5) ** 2 < 0.05
    picture = sky + np.where(rows > 0.35, texture, 4 * rows)[..., None]
    picture[disc] = (230, 90 + 20 * (seed % 5), 60)
    return np.clip(picture + generator.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


# --- models -----------------------------------------------------------------------------------------------------------


def check_models() -> Iterator[Check]:
    """One check for every model file in the searched folders: its tensors must have the fingerprint that its header states."""
    paths = sorted({path.resolve() for folder in registry.model_folders() for path in folder.glob(f"*{MODEL_SUFFIX}")})
    if not paths:
        yield Check("model", "none", False, "no model is installed")
    for path in paths:
        try:
            model = api.load_model(path)
            yield Check("model", str(path), True, f"{model.name} version {model.version}, fingerprint {model.fingerprint.hex()}")
        except LoocError as error:
            yield Check("model", str(path), False, str(error))


# --- golden files -----------------------------------------------------------------------------------------------------


def golden_path(weights: Path, suffix: str) -> Path:
    """Where the part of a weights file's golden file with this suffix ("looc", "json", "png") lies."""
    return weights.with_name(f"{weights.name.removesuffix(MODEL_SUFFIX)}.golden.{suffix}")


def write_golden(weights: Path) -> list[Path]:
    """Writes the golden file of a weights file beside it, replacing an older one; returns the paths."""
    model = api.load_model(weights)
    data = api.compress(scene(*GOLDEN_SIZE, seed=1), level=GOLDEN_LEVEL, model=model)
    paths = [golden_path(weights, suffix) for suffix in ("looc", "json", "png")]
    with write_atomically(paths[0], force=True) as file:
        file.write(data)
    codes, rgb = decode(paths[0], model, REFERENCE)
    with write_atomically(paths[1], force=True) as file:
        file.write((json.dumps({"fingerprint": model.fingerprint.hex(), "codes_sha256": codes}, indent=1) + "\n").encode())
    with write_atomically(paths[2], force=True) as file:
        Image.fromarray(rgb).save(file, "PNG", optimize=True)
    return paths


def check_golden(entry: ModelEntry) -> Check | None:
    """Decodes the golden file that lies beside a model; None where there is none."""
    if not golden_path(entry.path, "looc").exists():
        return None
    name = golden_path(entry.path, "looc").name
    try:
        stored = json.loads(golden_path(entry.path, "json").read_text())
        if stored["fingerprint"] != entry.fingerprint.hex():
            return Check("golden", name, False, f"it is of model {stored['fingerprint']}, not of the installed {entry.fingerprint.hex()}")
        with Image.open(golden_path(entry.path, "png")) as image:
            expected = np.array(image.convert("RGB"))
        codes, rgb = decode(golden_path(entry.path, "looc"), api.load_model(entry.path), Setting("as installed"))
    except (LoocError, OSError, ValueError, KeyError, TypeError) as error:
        return Check("golden", name, False, f"it cannot be decoded: {error}")
    if codes != stored["codes_sha256"]:
        return Check("golden", name, False, "its codes are not the stored ones: arithmetic on this machine is not exact")
    if rgb.shape != expected.shape:
        return Check("golden", name, False, f"it has {rgb.shape[1]}x{rgb.shape[0]} pixels, {expected.shape[1]}x{expected.shape[0]} are stored")
    difference = largest_difference(rgb, expected)
    detail = f"codes as stored, pixels within {difference} of 255"
    return Check("golden", name, difference <= LARGEST_DIFFERENCE_LEVELS, detail)


# --- exactness --------------------------------------------------------------------------------------------------------


def variants() -> list[Variant]:
    """The processes of the exactness matrix on this machine."""
    settings = (
        REFERENCE,
        Setting("2 threads", threads=2),
        Setting("2 threads, graphs as they are", threads=2, optimise=False),
        Setting("1 thread, graphs as they are, small tiles", threads=1, optimise=False, side=SMALL_TILE_POSITIONS),
        Setting("2 threads, small tiles", threads=2, side=SMALL_TILE_POSITIONS),
    )
    found = [Variant("as installed", settings)]
    if limits_instruction_sets():
        found += [Variant("numpy limited to AVX2", settings, AVX2_ENVIRONMENT), Variant("numpy without AVX", settings, NO_AVX_ENVIRONMENT)]
    return found


def check_exactness(model: str | Path = api.DEFAULT_MODEL) -> Iterator[Check]:
    """One check for every setting of every variant, and one for the files that each variant writes.

    Files written here are decoded everywhere, files written everywhere are decoded here; codes bit for bit, pixels within
    one level. Raises ModelError when there is no such model.
    """
    loaded = api.load_model(model)
    path, levels = str(registry.find_model(model).path), loaded.only_levels or LEVELS
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        pictures, files = [], []
        for number, (width, height) in enumerate(PICTURE_SIZES):
            rgb = scene(width, height, seed=number + 2)
            pictures.append(home / f"scene{number}.png")
            Image.fromarray(rgb).save(pictures[-1])
            for level in levels:
                files.append(home / f"scene{number}-q{level}.looc")
                files[-1].write_bytes(api.compress(rgb, level=level, model=loaded))
        expected = {file.stem: decode(file, loaded, REFERENCE) for file in files}
        for variant in variants():
            place = home / variant.name
            try:
                result = launch(variant, place, model=path, files=files, pictures=pictures, levels=list(levels))
            except RuntimeError as error:
                yield Check("exactness", variant.name, False, str(error))
                continue
            for number, setting in enumerate(result["settings"]):
                wrong = [stem for stem, codes in setting["codes"].items() if codes != expected[stem][0]]
                difference = max(largest_difference(np.load(place / f"{number}-{file.stem}.npy"), expected[file.stem][1]) for file in files)
                yield Check(
                    "exactness", f"{variant.name}: {setting['name']}", not wrong and difference <= LARGEST_DIFFERENCE_LEVELS,
                    f"{len(files) - len(wrong)} of {len(files)} files with equal codes, pixels within {difference} of 255",
                )  # fmt: skip
            yield _written_elsewhere(variant, place, files, loaded)


def _written_elsewhere(variant: Variant, place: Path, files: list[Path], model: AnyModel) -> Check:
    """Files that the variant wrote must decode here; each file's code checksum tells."""
    read = 0
    for file in files:
        try:
            decode(place / file.name, model, REFERENCE, pixels=False)
            read += 1
        except LoocError:
            continue
    return Check("exactness", f"{variant.name}: its own files", read == len(files), f"{read} of {len(files)} decode here")


def run_checks(model: str | Path = api.DEFAULT_MODEL) -> Iterator[Check]:
    """All checks, one after another, as they are done."""
    yield from check_models()
    for entry in registry.installed_models():
        check = check_golden(entry)
        if check is not None:
            yield check
    try:
        yield from check_exactness(model)
    except LoocError as error:
        yield Check("exactness", str(model), False, str(error))
