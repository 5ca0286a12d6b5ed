"""What looc's qualities look like and cost beside AVIF, WebP, JPEG XL and JPEG as their own tools write them.

    python tools/quality_compare.py [--images ../shared/data/val] [--points docs/results/quality/compare-val.json]

Every picture is coded with every shipped model at the qualities of QUALITIES, and with avifenc, cwebp, cjxl and
Pillow's JPEG at their defaults; measured are SSIMULACRA 2, Butteraugli's 3-norm (butteraugli_main) and PSNR. Points are
kept and not measured again. `--markdown` writes the table to a file, too.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

QUALITIES = (30, 50, 75, 90)
_ALONE = ("--quiet", "--num_threads=0")
TOOLS = {
    "avifenc": ("AVIF", ".avif", ("avifenc", "-j", "1", "IN", "OUT"), ("avifdec", "-j", "1", "IN", "OUT")),
    "cwebp": ("WebP", ".webp", ("cwebp", "-quiet", "IN", "-o", "OUT"), ("dwebp", "-quiet", "IN", "-o", "OUT")),
    "cjxl": ("JPEG XL", ".jxl", ("cjxl", *_ALONE, "IN", "OUT"), ("djxl", *_ALONE, "IN", "OUT")),
}
"""What others write without options, and how it is read: label, suffix, commands."""

COLUMNS = ("ssimulacra2", "butteraugli_3norm", "psnr_db", "bpp", "bytes")
Coded = tuple[int, np.ndarray]
"""Bytes of a file and its pixels `(H, W, 3)` uint8."""


def by_tool(name: str, rgb: np.ndarray) -> Coded:
    _, suffix, encode, decode = TOOLS[name]
    with tempfile.TemporaryDirectory() as folder:
        source, packed, back = (Path(folder, file) for file in ("in.png", f"out{suffix}", "back.png"))
        Image.fromarray(rgb).save(source, compress_level=1)
        for command, given, made in ((encode, source, packed), (decode, packed, back)):
            words = [str(given) if word == "IN" else str(made) if word == "OUT" else word for word in command]
            subprocess.run(words, check=True, capture_output=True)
        return packed.stat().st_size, np.asarray(Image.open(back).convert("RGB"))


def by_jpeg(rgb: np.ndarray) -> Coded:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=75)
    return len(file.getvalue()), np.asarray(Image.open(file).convert("RGB"))


def by_looc(model: object, quality: int, rgb: np.ndarray) -> Coded:
    from looc_codec import api

    data = api.compress(rgb, quality=quality, model=model)
    return len(data), np.asarray(api.decompress(data, model=model).convert("RGB"))


def coders() -> dict[str, Callable[[np.ndarray], Coded]]:
    """What is compared, by name. A name of looc's holds the levels too, so that another table is measured anew."""
    from looc_codec import api
    from looc_codec.registry import DEFAULT_MODEL

    found: dict[str, Callable[[np.ndarray], Coded]] = {}
    for entry in sorted(api.models(), key=lambda entry: entry.name != DEFAULT_MODEL):
        if entry.path.parent != ROOT / "weights":
            continue
        model = api.load_model(entry.path)
        for quality in QUALITIES:
            level = entry.quality_scale.level(quality)
            name = f"{entry.name} {entry.fingerprint.hex()} -q {quality} level {level}"
            found[name] = functools.partial(by_looc, model, quality)
    found |= {name: functools.partial(by_tool, name) for name in TOOLS}
    return found | {"JPEG 75": by_jpeg}


def measure(images: Path, path: Path) -> dict[str, list[dict]]:
    """Points of every coder, by its name."""
    from looc_codec.images import read_picture
    from looc_codec.report.distortion import METRICS

    rows: list[dict] = json.loads(path.read_text()) if path.exists() else []
    known = {(row["coder"], row["picture"]) for row in rows}
    every = coders()
    for picture in sorted(images.glob("*.png")):
        rgb = read_picture(picture).rgb
        for name, code in every.items():
            if (name, picture.name) in known:
                continue
            size, back = code(rgb)
            bpp = 8 * size / (rgb.shape[0] * rgb.shape[1])
            row = {"coder": name, "picture": picture.name, "bytes": size, "bpp": round(bpp, 5)}
            for metric in ("ssimulacra2", "butteraugli", "psnr"):
                row[METRICS[metric].key] = round(METRICS[metric].compute(rgb, back), 4)
            rows.append(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
        print(picture.name, file=sys.stderr, flush=True)
    return {name: [row for row in rows if row["coder"] == name] for name in every}


def markdown(points: dict[str, list[dict]]) -> str:
    """The table: means over the pictures, the range of SSIMULACRA 2."""
    from looc_codec.quality import DEFAULT_QUALITY
    from looc_codec.registry import DEFAULT_MODEL

    lines = [
        "| | SSIMULACRA 2 (lowest to highest) | Butteraugli | PSNR | bits per pixel | kB a picture |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, rows in points.items():
        score, butteraugli, psnr, bpp, size = (statistics.mean(row[key] for row in rows) for key in COLUMNS)
        spread = [row["ssimulacra2"] for row in rows]
        words = name.split()
        label = f"{TOOLS[name][0]}, `{name}`" if name in TOOLS else name
        if "-q" in words:
            quality = words[words.index("-q") + 1]
            default = (words[0], int(quality)) == (DEFAULT_MODEL, DEFAULT_QUALITY)
            label = f"looc `{words[0]}`, `-q {quality}`{', the default' if default else ''}"
        lines.append(
            f"| {label} | {score:.1f} ({min(spread):.0f} to {max(spread):.0f}) | {butteraugli:.2f} | {psnr:.1f} dB"
            f" | {bpp:.2f} | {size / 1000:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT.parent / "shared/data/val")
    parser.add_argument("--points", type=Path, default=ROOT / "docs/results/quality/compare-val.json")
    parser.add_argument("--markdown", type=Path, help="write the table here, too")
    arguments = parser.parse_args()
    table = markdown(measure(arguments.images, arguments.points))
    print(table, end="")
    if arguments.markdown:
        arguments.markdown.write_text(table)


if __name__ == "__main__":
    main()
