"""Speed and memory of the shipped codec, as real processes: seconds per megapixel, peak memory, start-up.

    python tools/bench.py [--image ../shared/data/kodak/kodim05.png] [--megapixels 0.4,12,24] [--json OUT]

Pictures of other sizes are the given one tiled in mirror image, so that their content stays photographic. Encoding and
decoding are timed after the model is loaded, from pixels to bytes and back; the JPEG, WebP and AVIF encoders of Pillow
run on the same picture in the same process for comparison. Memory is the peak of a process that does only that job.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def mirrored(image: Path, megapixels: float) -> np.ndarray:
    """The picture repeated in mirror image to about `megapixels`, `(H, W, 3)` uint8, aspect 3:2."""
    rgb = np.asarray(Image.open(image).convert("RGB"))
    width = round((megapixels * 1e6 * 1.5) ** 0.5)
    height = round(width / 1.5)
    block = np.concatenate([np.concatenate([rgb, rgb[:, ::-1]], 1), np.concatenate([rgb[::-1], rgb[::-1, ::-1]], 1)], 0)
    repeats = (-(-height // block.shape[0]), -(-width // block.shape[1]), 1)
    return np.ascontiguousarray(np.tile(block, repeats)[:height, :width])


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def job(arguments: argparse.Namespace) -> None:
    """Runs in a process of its own, so that its peak memory is that of one job; prints one JSON line."""
    from looc_codec import api

    start = time.perf_counter()
    model = api.load_model()
    result = {"load_seconds": time.perf_counter() - start}
    megapixels = arguments.size
    rgb = mirrored(arguments.image, megapixels)
    path = Path(arguments.file)
    times = []
    for _ in range(arguments.runs):
        if arguments.job == "encode":
            start = time.perf_counter()
            data = api.compress(rgb, level=arguments.level, model=model)
            times.append(time.perf_counter() - start)
            path.write_bytes(data)
        else:
            data = path.read_bytes()
            start = time.perf_counter()
            api.decompress(data, model=model)
            times.append(time.perf_counter() - start)
    size = rgb.shape[0] * rgb.shape[1] / 1e6
    result |= {"seconds": times, "seconds_per_megapixel": statistics.median(times) / size, "peak_mib": peak_mib(), "bpp": path.stat().st_size * 8e-6 / size}
    print(json.dumps(result))


def peers(rgb: np.ndarray) -> dict[str, dict[str, float]]:
    """Seconds per megapixel of Pillow's encoders and decoders on the same picture."""
    image, size, rows = Image.fromarray(rgb), rgb.shape[0] * rgb.shape[1] / 1e6, {}
    for name, settings in {
        "JPEG": dict(format="JPEG", quality=75, optimize=True, progressive=True),
        "WebP m6": dict(format="WEBP", quality=75, method=6),
        "AVIF speed 4": dict(format="AVIF", quality=60, speed=4),
    }.items():
        start = time.perf_counter()
        buffer = io.BytesIO()
        image.save(buffer, **settings)
        middle = time.perf_counter()
        Image.open(buffer).convert("RGB").load()
        rows[name] = {"encode": (middle - start) / size, "decode": (time.perf_counter() - middle) / size}
    return rows


def startup(words: list[str]) -> float:
    """Median wall-clock seconds of a whole `looc` process."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "looc_codec", *words], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, default=ROOT.parent / "shared/data/kodak/kodim05.png")
    parser.add_argument("--megapixels", type=lambda text: [float(part) for part in text.split(",")], default=[0.4, 12, 24])
    parser.add_argument("--level", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--job", choices=["encode", "decode"], help=argparse.SUPPRESS)
    parser.add_argument("--size", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        job(arguments)
        return
    report: dict = {"cores": os.cpu_count(), "quality": arguments.level, "sizes": {}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.looc"
        print(f"level {arguments.level}, {os.cpu_count()} cores, median of {arguments.runs} runs")
        for size in arguments.megapixels:
            for name in ("encode", "decode"):
                command = [sys.executable, __file__, "--job", name, "--size", str(size), "--file", str(file), "--image", str(arguments.image),
                           "--level", str(arguments.level), "--runs", str(arguments.runs if size < 5 else 1)]
                result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
                report["sizes"].setdefault(str(size), {})[name] = result
                print(f"{size:5} MP {name}: {result['seconds_per_megapixel']:.2f} s/MP, peak {result['peak_mib']:.0f} MiB, {result['bpp']:.3f} bpp", flush=True)
        report["startup_seconds"] = {"looc --help": startup(["--help"]), "looc info": startup(["info", str(file)])}
        for name, seconds in report["startup_seconds"].items():
            print(f"{name}: {seconds:.2f} s")
        report["peers"] = peers(mirrored(arguments.image, arguments.megapixels[0]))
        for name, row in report["peers"].items():
            print(f"{name}: encode {row['encode']:.2f} s/MP, decode {row['decode']:.3f} s/MP")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
