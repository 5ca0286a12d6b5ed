"""Decoding the same files under other threads, optimisations of graphs and instruction sets, to compare codes and pixels.

Codes must be equal bit for bit (docs/FORMAT.md, "Arithmetic"); pixels, which are floating point, within one level of 255.
Some switches only work before libraries are loaded, so every variant runs in a process of its own: `python -m
looc_codec.exactness` reads one job as JSON from standard input and writes one result as JSON to standard output.

Used by `looc selftest` (a few small pictures) and tools/exactness.py (Kodak, other releases of ONNX Runtime).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from looc_codec import api, images
from looc_codec.codec.engine import Engine, runtime
from looc_codec.codec.grid import GridDecoder
from looc_codec.codec.kinds import AnyModel, decoder_of, encoder_of
from looc_codec.codec.transforms import TILE_POSITIONS
from looc_codec.format import container

AVX2_ENVIRONMENT = {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR", "OPENBLAS_CORETYPE": "Haswell"}
NO_AVX_ENVIRONMENT = {
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR AVX2 FMA3", "OPENBLAS_CORETYPE": "Nehalem",
}  # fmt: skip
"""They limit numpy. ONNX Runtime knows no such switch: tools/exactness.py can run it on an emulated processor."""


@dataclass(frozen=True)
class Setting:
    """How a process runs a model. `threads` 0 leaves looc's own choice; `optimise` is whether graphs are optimised; `side` is that of
    a tile, in latent positions."""

    name: str
    threads: int = 0
    optimise: bool = True
    side: int = TILE_POSITIONS
    device: str = "cpu"

    def engine(self, model: AnyModel) -> Engine:
        return Engine(model.graphs, model.tensor, self.threads or api.default_threads(), self.device, optimise=self.optimise)


@dataclass(frozen=True)
class Variant:
    """One process: its command, what is added to its environment, and the settings that it goes through."""

    name: str
    settings: tuple[Setting, ...]
    environment: dict[str, str] = field(default_factory=dict)
    python: tuple[str, ...] = (sys.executable,)


def limits_instruction_sets() -> bool:
    """Whether the environment variables above have a meaning on this machine."""
    return platform.machine().lower() in ("x86_64", "amd64")


def codes_sha256(*latents: np.ndarray) -> str:
    """Hash of quantised latents, which are the index grid with every code replaced by its value."""
    return hashlib.sha256(np.concatenate(latents).astype("<i4").tobytes()).hexdigest()


def decode(path: Path, model: AnyModel, setting: Setting, *, pixels: bool = True) -> tuple[str, np.ndarray | None]:
    """Hash of a file's codes and, if wanted, its pixels `(H, W, 3)` uint8, decoded under a setting.

    Raises FormatError when the codes do not have the checksum in the file.
    """
    file = container.unpack(path.read_bytes())
    decoder = decoder_of(model, setting.engine(model))
    coding = decoder.decode(file)
    rgb = None
    if pixels and isinstance(decoder, GridDecoder):
        rgb = decoder.pixels(coding, (file.height, file.width))
    elif pixels:
        rgb = decoder.transforms.synthesise(
            coding.latent, (file.height, file.width), file.level, details=coding.details, wiener=coding.wiener, grey=coding.grey, side=setting.side
        )
    return codes_sha256(*coding.parts), rgb


def largest_difference(first: np.ndarray, second: np.ndarray) -> int:
    """In levels of 0..255."""
    return int(np.abs(first.astype(np.int16) - second).max())


def launch(
    variant: Variant, folder: Path, *, model: str, files: list[Path] | None = None, pictures: list[Path] | None = None,
    levels: list[int] | None = None, pixels_level: int | None = None,
) -> dict[str, Any]:
    """Runs a variant's process over `files` (decoded under all its settings) and `pictures` (encoded under the first).

    `folder` gets the encoded files and, as `NUMBER-STEM.npy`, the pixels of each setting's decoded files, only of those of
    `pixels_level` where that is given. Returns `runtime`, the release of ONNX Runtime, and per setting the `codes` by file stem.

    Raises RuntimeError with the process's last words when it fails, as on a mismatch of a code checksum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "settings": [dataclasses.asdict(setting) for setting in variant.settings], "folder": str(folder), "model": model, "files": list(map(str, files or [])),
        "pictures": list(map(str, pictures or [])), "levels": levels or [], "pixels_level": pixels_level,
    }  # fmt: skip
    package_home = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [package_home, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*variant.python, "-m", "looc_codec.exactness"], input=json.dumps(job), capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": paths} | variant.environment,
    )  # fmt: skip
    if done.returncode:
        last_words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"{variant.name}: {last_words}")
    return json.loads(done.stdout.splitlines()[-1])


def work(job: dict[str, Any]) -> dict[str, Any]:
    """One job, in this process: see `launch`."""
    folder, settings = Path(job["folder"]), [Setting(**values) for values in job["settings"]]
    model = api.load_model(job["model"])
    result: dict[str, Any] = {"runtime": runtime().__version__, "numpy": np.__version__, "settings": []}
    encoder = encoder_of(model, settings[0].engine(model))
    for path in map(Path, job["pictures"]):
        rgb = images.read_picture(path).rgb
        for level in job["levels"]:
            data = api.packed(model, encoder.encode(rgb, level), rgb.shape[:2], (), container.Colour.RGB)
            (folder / f"{path.stem}-q{level}.looc").write_bytes(data)
    for number, setting in enumerate(settings):
        codes = {}
        for path in map(Path, job["files"]):
            wanted = job["pixels_level"] in (None, container.read_header(path.read_bytes()).level)
            codes[path.stem], rgb = decode(path, model, setting, pixels=wanted)
            if rgb is not None:
                np.save(folder / f"{number}-{path.stem}.npy", rgb)
        result["settings"].append({"name": setting.name, "codes": codes})
    return result


if __name__ == "__main__":
    print(json.dumps(work(json.load(sys.stdin))))
