"""Decoding the same files under other threads, libraries' switches and instruction sets, to compare codes and pixels.

Codes must be equal bit for bit (docs/FORMAT.md, "Arithmetic"); pixels, which are floating point, within one level of 255.
Some switches only work before torch is loaded, so every variant runs in a process of its own: `python -m
looc_codec.exactness` reads one job as JSON from standard input and writes one result as JSON to standard output.

Used by `looc selftest` (a few small pictures) and tools/exactness.py (Kodak, other torch releases).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from looc_codec import codec, images
from looc_codec.format import container
from looc_codec.model import LoocModel

AVX2_ENVIRONMENT = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}
NO_AVX_ENVIRONMENT = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "DNNL_MAX_CPU_ISA": "SSE41"}


@dataclass(frozen=True)
class Setting:
    """Switches that one process can change between two files. `threads` 0 leaves torch's own choice; `tile` is in latent positions."""

    name: str
    threads: int = 0
    onednn: bool = True
    tile: int = codec.TILE_POSITIONS
    device: str = "cpu"

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        threads, onednn = torch.get_num_threads(), torch.backends.mkldnn.enabled
        if self.threads:
            torch.set_num_threads(self.threads)
        # Not `mkldnn.flags`, which warns about Intel GPUs on every machine that has none.
        torch.backends.mkldnn.enabled = self.onednn
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.backends.mkldnn.enabled = onednn


@dataclass(frozen=True)
class Variant:
    """One process: its interpreter, what is added to its environment, and the settings that it goes through."""

    name: str
    settings: tuple[Setting, ...]
    environment: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable


def limits_instruction_sets() -> bool:
    """Whether the environment variables above have a meaning on this machine."""
    return platform.machine().lower() in ("x86_64", "amd64")


def codes_sha256(latent_hat: torch.Tensor) -> str:
    """Hash of a quantised latent, which is the index grid with every code replaced by its value."""
    return hashlib.sha256(latent_hat.numpy().astype("<i4").tobytes()).hexdigest()


def decode(path: Path, model: LoocModel, setting: Setting, *, pixels: bool = True) -> tuple[str, np.ndarray | None]:
    """Hash of a file's codes and, if wanted, its pixels `(H, W, 3)` uint8, decoded under a setting.

    Raises FormatError when the codes do not have the checksum in the file.
    """
    file = container.unpack(path.read_bytes())
    with setting.active():
        latent_hat, details = codec.decode_codes(file, model)
        size, wiener = (file.height, file.width), codec.filter_of(file)
        rgb = codec.synthesise(latent_hat, size, file.quality, model, details=details, wiener=wiener, tile=setting.tile) if pixels else None
    return codes_sha256(latent_hat if details is None else torch.cat([latent_hat, details])), rgb


def largest_difference(first: np.ndarray, second: np.ndarray) -> int:
    """In levels of 0..255."""
    return int(np.abs(first.astype(np.int16) - second).max())


def launch(
    variant: Variant, folder: Path, *, model: str, files: list[Path] | None = None, pictures: list[Path] | None = None,
    qualities: list[int] | None = None, pixels_quality: int | None = None,
) -> dict[str, Any]:
    """Runs a variant's process over `files` (decoded under all its settings) and `pictures` (encoded under the first).

    `folder` gets the encoded files and, as `NUMBER-STEM.npy`, the pixels of each setting's decoded files, only of those of
    `pixels_quality` where that is given. Returns `torch`, `capability`, and per setting the `codes` by file stem.

    Raises RuntimeError with the process's last words when it fails, as on a mismatch of a code checksum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "settings": [dataclasses.asdict(setting) for setting in variant.settings], "folder": str(folder), "model": model, "files": list(map(str, files or [])),
        "pictures": list(map(str, pictures or [])), "qualities": qualities or [], "pixels_quality": pixels_quality,
    }  # fmt: skip
    package_home = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [package_home, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [variant.python, "-m", "looc_codec.exactness"], input=json.dumps(job), capture_output=True, text=True, check=False,
        # On a busy machine threads that wait in a loop for one another take minutes over what passive ones do in a second.
        env=os.environ | {"PYTHONPATH": paths, "OMP_WAIT_POLICY": "passive"} | variant.environment,
    )  # fmt: skip
    if done.returncode:
        last_words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"{variant.name}: {last_words}")
    return json.loads(done.stdout.splitlines()[-1])


def work(job: dict[str, Any]) -> dict[str, Any]:
    """One job, in this process: see `launch`."""
    folder, settings = Path(job["folder"]), [Setting(**values) for values in job["settings"]]
    models = {device: codec.load_model(job["model"], device=device) for device in {setting.device for setting in settings}}
    result: dict[str, Any] = {
        "torch": torch.__version__, "threads": settings[0].threads or torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability(), "settings": [],
    }  # fmt: skip
    with settings[0].active():
        for path in map(Path, job["pictures"]):
            picture = images.read_picture(path)
            for quality in job["qualities"]:
                data = codec.compress_picture(picture, quality=quality, model=models[settings[0].device])
                (folder / f"{path.stem}-q{quality}.looc").write_bytes(data)
    for number, setting in enumerate(settings):
        codes = {}
        for path in map(Path, job["files"]):
            wanted = job["pixels_quality"] in (None, container.read_header(path.read_bytes()).quality)
            codes[path.stem], rgb = decode(path, models[setting.device], setting, pixels=wanted)
            if rgb is not None:
                np.save(folder / f"{number}-{path.stem}.npy", rgb)
        result["settings"].append({"name": setting.name, "codes": codes})
    return result


if __name__ == "__main__":
    print(json.dumps(work(json.load(sys.stdin))))
