"""Measures rate and distortion of looc, JPEG, WebP and AVIF from real files in memory, and compares the curves.

    python tools/rd.py --images ../shared/data/kodak --out docs/results/kodak.json

Every point is the mean over the pictures of a folder at one quality: bits per pixel from the length of the actual
bytes, PSNR from the decoded 8-bit RGB picture, per picture, then averaged. Points are kept in the JSON file, so a
second run measures only what is missing; points of an older model or library (another `identity`) are measured
again. Prints Markdown tables and writes a plot beside the JSON file.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, features

from looc_codec import metrics
from looc_codec.errors import LoocError

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff"}
READING_RATES_BPP = (0.15, 0.25, 0.35, 0.5, 0.75, 1.0, 1.5)

# Chosen to cover about 0.1 to 1.6 bpp on photographs.
DEFAULT_QUALITIES = {
    "looc": (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100),
    "jpeg": (4, 6, 8, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 85, 90),
    "webp": (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 93),
    "avif": (15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85),
}
SETTINGS = {
    "looc": "looc_codec.compress on the CPU",
    "jpeg": "Pillow, optimize, progressive, 4:2:0",
    "webp": "Pillow, method 6",
    "avif": "Pillow, speed 4, 4:2:0, one thread",
}


class LoocCodec:
    """looc through its Python interface; the model is loaded once per process."""

    def __init__(self, spec: str) -> None:
        from looc_codec import codec

        self.codec = codec
        self.model = codec.load_model(spec)

    def compress(self, image: Image.Image, quality: int) -> bytes:
        return self.codec.compress(image, quality=quality, model=self.model)

    def decompress(self, data: bytes) -> Image.Image:
        return self.codec.decompress(data, model=self.model)


class PillowCodec:
    """A file format that Pillow reads and writes."""

    OPTIONS = {
        "jpeg": {"format": "JPEG", "optimize": True, "progressive": True},
        "webp": {"format": "WEBP", "method": 6},
        # One thread: libavif cuts the picture into as many tiles as there are threads, which changes the bytes.
        "avif": {"format": "AVIF", "speed": 4, "max_threads": 1},
    }

    def __init__(self, name: str) -> None:
        self.options = self.OPTIONS[name]

    def compress(self, image: Image.Image, quality: int) -> bytes:
        target = io.BytesIO()
        image.save(target, quality=quality, **self.options)
        return target.getvalue()

    def decompress(self, data: bytes) -> Image.Image:
        return Image.open(io.BytesIO(data))


@functools.cache
def open_codec(name: str, model: str) -> LoocCodec | PillowCodec:
    return LoocCodec(model) if name == "looc" else PillowCodec(name)


def identity_of(name: str, model: str) -> str:
    """What decides the bytes of a codec: points measured under another identity are not comparable."""
    if name == "looc":
        from looc_codec.registry import find_model

        entry = find_model(model)
        # The whole file, not the fingerprint: a better synthesis changes the picture and keeps the fingerprint.
        digest = hashlib.sha256(entry.path.read_bytes()).hexdigest()[:16]
        return f"{entry.name} version {entry.version}, weights {digest}"
    if name == "jpeg":
        turbo = features.version_feature("libjpeg_turbo")
        library = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
        return f"Pillow {PIL.__version__}, {library}"
    library = {"webp": "libwebp", "avif": "libavif"}[name]
    return f"Pillow {PIL.__version__}, {library} {features.version_module(name)}"


def measure_picture(name: str, model: str, quality: int, path: Path) -> dict[str, float]:
    """One picture at one quality: the length of the real bytes and the 8-bit RGB PSNR."""
    codec = open_codec(name, model)
    with Image.open(path) as file:
        image = file.convert("RGB")
    data = codec.compress(image, quality)
    restored = codec.decompress(data).convert("RGB")
    return {
        "bytes": len(data),
        "bpp": metrics.bits_per_pixel(len(data), image.width, image.height),
        "psnr_db": metrics.psnr_db(np.asarray(image), np.asarray(restored)),
    }


def mean_point(quality: int, pictures: list[dict[str, float]]) -> dict:
    """The point of one quality: means over the pictures, and the pictures' own figures in the order of their names."""
    mean = {key: float(np.mean([picture[key] for picture in pictures])) for key in pictures[0]}
    return {
        "quality": quality,
        "bpp": round(mean["bpp"], 6),
        "psnr_db": round(mean["psnr_db"], 5),
        "bytes_by_picture": [int(picture["bytes"]) for picture in pictures],
        "psnr_db_by_picture": [round(picture["psnr_db"], 4) for picture in pictures],
    }


def read_results(path: Path, images: list[Path]) -> dict:
    """The stored results, or a fresh record when there are none or they belong to other pictures."""
    names = [image.name for image in images]
    if path.exists():
        results = json.loads(path.read_text())
        if results["pictures"] == names:
            return results
        raise SystemExit(f"{path} holds results of other pictures; choose another --out or delete it")
    return {"pictures": names, "codecs": {}}


def write_results(path: Path, results: dict) -> None:
    """Writes the record with one point a line, so that a change of one point is a one-line difference."""
    lines = ["{", f' "pictures": {json.dumps(results["pictures"])},', ' "codecs": {']
    codecs = []
    for name, record in results["codecs"].items():
        points = ",\n".join("    " + json.dumps(point) for point in record["points"])
        head = f'"settings": {json.dumps(record["settings"])}, "identity": {json.dumps(record["identity"])}'
        codecs.append(f'  "{name}": {{{head}, "points": [\n{points}\n  ]}}')
    lines += [",\n".join(codecs), " }", "}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("\n".join(lines) + "\n")
    unfinished.replace(path)


def measure(options: argparse.Namespace, images: list[Path], results: dict) -> None:
    """Adds every missing point of the chosen codecs to `results`, storing after each."""
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(options.jobs, mp_context=context) if options.jobs > 1 else None
    try:
        for name in options.codecs:
            identity = identity_of(name, options.model)
            record = results["codecs"].get(name)
            if record is None or record["identity"] != identity or name in options.refresh:
                record = {"settings": SETTINGS[name], "identity": identity, "points": []}
                results["codecs"][name] = record
            known = {point["quality"] for point in record["points"]}
            for quality in options.qualities or DEFAULT_QUALITIES[name]:
                if quality in known:
                    continue
                one = functools.partial(measure_picture, name, options.model, quality)
                point = mean_point(quality, list(pool.map(one, images) if pool else map(one, images)))
                record["points"] = sorted([*record["points"], point], key=lambda entry: entry["quality"])
                write_results(options.out, results)
                print(f"{name} {quality}: {point['bpp']:.4f} bpp, {point['psnr_db']:.3f} dB", file=sys.stderr)
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def curve(record: dict) -> list[metrics.Point]:
    return [(point["bpp"], point["psnr_db"]) for point in record["points"]]


def reading(points: list[metrics.Point], bpp: float) -> str:
    try:
        return f"{metrics.psnr_at_bpp(points, bpp):.2f}"
    except LoocError:
        return "-"


def comparison(measure_of, anchor: list[metrics.Point], test: list[metrics.Point], form: str) -> str:
    try:
        return format(measure_of(anchor, test), form)
    except LoocError:
        return "-"


def is_rising(points: list[dict], key: str) -> bool:
    """Whether a figure rises strictly with the quality setting."""
    values = [point[key] for point in points]
    return all(before < after for before, after in zip(values, values[1:], strict=False))


def markdown_report(results: dict) -> str:
    """Tables of all points, readings at fixed rates, BD-rates of every pair, and the monotony of looc."""
    codecs = {name: record for name, record in results["codecs"].items() if len(record["points"]) >= 2}
    lines = [f"{len(results['pictures'])} pictures, means over the pictures, real bytes, 8-bit RGB PSNR.", ""]
    lines += ["| PSNR dB at bpp | " + " | ".join(f"{rate:g}" for rate in READING_RATES_BPP) + " |"]
    lines += ["|---|" + "---|" * len(READING_RATES_BPP)]
    for name, record in codecs.items():
        cells = " | ".join(reading(curve(record), rate) for rate in READING_RATES_BPP)
        lines.append(f"| {name} ({record['settings']}) | {cells} |")
    lines += ["", "| BD-rate (BD-PSNR) of | " + " | ".join(f"against {name}" for name in codecs) + " |"]
    lines += ["|---|" + "---|" * len(codecs)]
    for name, record in codecs.items():
        cells = []
        for other, anchor in codecs.items():
            rate = comparison(metrics.bd_rate_percent, curve(anchor), curve(record), "+.1f")
            gain = comparison(metrics.bd_psnr_db, curve(anchor), curve(record), "+.2f")
            cells.append("0" if other == name else f"{rate}% ({gain} dB)")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name, record in codecs.items():
        lines += ["", f"{name}: {record['identity']}", ""]
        lines += ["| quality | " + " | ".join(str(point["quality"]) for point in record["points"]) + " |"]
        lines += ["|---|" + "---|" * len(record["points"])]
        lines += ["| bpp | " + " | ".join(f"{point['bpp']:.3f}" for point in record["points"]) + " |"]
        lines += ["| PSNR dB | " + " | ".join(f"{point['psnr_db']:.2f}" for point in record["points"]) + " |"]
    if "looc" in codecs:
        points = codecs["looc"]["points"]
        for key in ("bpp", "psnr_db"):
            verdict = "rises with every step of -q" if is_rising(points, key) else "DOES NOT RISE with every step of -q"
            lines += ["", f"looc: {key} {verdict}."]
    return "\n".join(lines)


def write_plot(results: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    for name, record in results["codecs"].items():
        bpp, psnr = zip(*curve(record), strict=True)
        axes.plot(bpp, psnr, marker="o", markersize=3.5, linewidth=2.2 if name == "looc" else 1.2, label=name)
    axes.set_xlim(0, 1.7)
    visible = [psnr for record in results["codecs"].values() for bpp, psnr in curve(record) if bpp <= 1.7]
    axes.set_ylim(min(visible) - 0.5, max(visible) + 0.5)
    axes.set_xlabel("bits per pixel (real files)")
    axes.set_ylabel("RGB PSNR, dB")
    axes.set_title(f"{path.stem}: mean of {len(results['pictures'])} pictures")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        chosen = text.split(",") if text else []
        for name in chosen:
            if name not in DEFAULT_QUALITIES:
                raise argparse.ArgumentTypeError(f"unknown codec {name!r}, known: {', '.join(DEFAULT_QUALITIES)}")
        return chosen

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder with the pictures")
    parser.add_argument("--codecs", type=names, default=list(DEFAULT_QUALITIES), help="comma-separated (default: all)")
    parser.add_argument("--qualities", type=lambda text: [int(part) for part in text.split(",")],
                        help="comma-separated, used for every chosen codec (default: a list per codec)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file that keeps the points")
    parser.add_argument("--model", default="photo", help="name or path of looc's model (default: photo)")
    parser.add_argument("--refresh", type=names, default=[], help="measure these codecs again even where points are stored")
    parser.add_argument("--limit", type=int, help="use only the first N pictures")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    images = sorted(path for path in options.images.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES)[: options.limit]
    if not images:
        raise SystemExit(f"no pictures in {options.images}")
    results = read_results(options.out, images)
    try:
        measure(options, images, results)
    except LoocError as error:
        raise SystemExit(str(error)) from None
    print(markdown_report(results))
    write_plot(results, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
