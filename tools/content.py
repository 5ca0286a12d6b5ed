"""How often `looc compress` says that a picture is no photograph: on drawn pictures, and on photographs, where it should not.

    python tools/content.py [--photographs ../shared/data/train] [--changed 15] [--shots DIR] [--out docs/results/content.json]

Drawn pictures are those of tools/drawn.py, of four seeds; `--shots` names a folder of real screenshots. Of the photographs, each of
which is looked at as it is, every `--changed`-th is also made over-exposed, dark, framed, grey, noisy, small, and so on.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import drawn
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from looc_codec.images.content import MIXED_NOTICE, content_notice

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif")


def photographs(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """The pictures of a folder and of its .tar shards."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".tar":
            with tarfile.open(path) as shard:
                for member in shard:
                    if member.name.lower().endswith(SUFFIXES):
                        yield member.name, Image.open(io.BytesIO(shard.extractfile(member).read())).convert("RGB")
        elif path.suffix.lower() in SUFFIXES:
            yield path.name, Image.open(path).convert("RGB")


def changed(image: Image.Image, seed: int) -> dict[str, np.ndarray]:
    """A photograph as people also have it, `(H, W, 3)` uint8."""
    generator, levels = np.random.default_rng(seed), np.asarray(image).astype(np.float32)
    height, width, _ = levels.shape
    grey = np.asarray(image.convert("L"))[..., None].repeat(3, 2)
    framed = np.full((height + 120, width + 120, 3), 255, np.uint8)
    framed[60:-60, 60:-60] = levels
    barred = np.zeros((height + 200, width, 3), np.uint8)
    barred[100:-100] = levels
    bright = np.clip(levels * 1.8 + 20, 0, 255).astype(np.uint8)
    return {
        "JPEG 10": np.asarray(drawn.as_jpeg(image, 10)), "JPEG 50": np.asarray(drawn.as_jpeg(image, 50)),
        "over-exposed": np.clip(levels * 2.2, 0, 255).astype(np.uint8), "over-exposed, JPEG 85": np.asarray(drawn.as_jpeg(Image.fromarray(bright), 85)),
        "dark, black cut off": np.clip(levels * 1.3 - 130, 0, 255).astype(np.uint8), "white frame": framed, "black bars": barred, "grey": grey,
        "grey, over-exposed": np.clip(grey * 1.6, 0, 255).astype(np.uint8),
        "grey, scanned": np.clip(grey + generator.normal(0, 3, (height, width, 1)), 0, 255).astype(np.uint8),
        "48 x 40": np.asarray(image.resize((48, 40), Image.Resampling.LANCZOS)), "160 x 120": np.asarray(image.resize((160, 120), Image.Resampling.LANCZOS)),
        "enlarged twice": np.asarray(image.resize((2 * width, 2 * height), Image.Resampling.BICUBIC)),
        "noise alone": generator.integers(0, 256, (200, 300, 3), np.uint8),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, default=ROOT.parent / "shared/data/train")
    parser.add_argument("--changed", type=int, default=15, help="0: photographs are only looked at as they are")
    parser.add_argument("--shots", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    said: dict[str, collections.Counter[str]] = {}
    alarms: list[str] = []
    seconds = megapixels = 0.0

    def look(kind: str, rgb: np.ndarray) -> str | None:
        nonlocal seconds, megapixels
        start = time.process_time()
        notice = content_notice(rgb)
        seconds, megapixels = seconds + time.process_time() - start, megapixels + rgb.shape[0] * rgb.shape[1] / 1e6
        said.setdefault(kind, collections.Counter())["nothing" if notice is None else "mixed" if notice == MIXED_NOTICE else "drawn"] += 1
        return notice

    for number, (name, image) in enumerate(photographs(arguments.photographs)):
        if number < arguments.seeds:
            for kind, rgb in drawn.made(number, image).items():
                look(f"drawn: {kind}", rgb)
        if look("photographs", np.asarray(image)):
            alarms.append(name)
        if arguments.changed and number % arguments.changed == 0:
            for kind, rgb in changed(image, number).items():
                look(f"photograph, {kind}", rgb)
    for _, image in photographs(arguments.shots) if arguments.shots else ():
        look("screenshots", np.asarray(image))
    for kind, counts in sorted(said.items()):
        print(f"{kind:44} {dict(counts)}")
    print(f"false alarms: {', '.join(alarms) or 'none'}; {1000 * seconds / megapixels:.1f} ms of CPU time a megapixel")
    if arguments.out:
        report = {"said": said, "false_alarms": alarms, "ms_per_megapixel": round(1000 * seconds / megapixels, 2)}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
