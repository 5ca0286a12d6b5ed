"""Peak memory and seconds of whole `looc compress` and `looc decompress` processes on large pictures, and of one process in which
many threads work at once, as in a server.

    python tools/memory.py --concurrent 20 [--picture ../shared/data/kodak/kodim05.png] [--out docs/results/memory_concurrent.json]
    python tools/memory.py [--photographs ../shared/data/train] [--megapixels 12,24,100] [--out docs/results/memory.json]

The pictures are photographs enlarged to the size, with noise added, stored as JPEG; besides them there is a strip of
65,000 x 20 pixels. Memory is what the kernel counted as the largest resident set of the process, from its start to its
end, file reading and writing included. Seconds mean little on a busy machine; the load is written beside them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif")
STRIP = (65_000, 20)
NOISE_LEVELS = 3.0

# numpy and Pillow are imported by `make` alone: a process inherits the peak of the one that started it, so this one stays small.


def first_photograph(folder: Path) -> bytes:
    """The largest of the first 50 pictures of a folder, or of its first .tar shard."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURE_SUFFIXES][:50]
    if paths:
        return max(paths, key=lambda path: path.stat().st_size).read_bytes()
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise SystemExit(f"{folder} holds neither pictures nor .tar shards; name a folder of photographs with --photographs")
    with tarfile.open(shards[0]) as shard:
        members = [member for member in shard if member.isfile() and member.name.lower().endswith(PICTURE_SUFFIXES)][:50]
        return shard.extractfile(max(members, key=lambda member: member.size)).read()


def make(photographs: Path, width: int, height: int, path: Path) -> None:
    """Writes a JPEG of this size: a photograph enlarged by bicubic interpolation, noise of 3 levels added."""
    import numpy as np
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    image = Image.open(io.BytesIO(first_photograph(photographs))).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    rgb = np.array(image)
    generator = np.random.default_rng(width)
    for top in range(0, height, 256):
        part = rgb[top : top + 256]
        part[:] = np.clip(part + generator.normal(0, NOISE_LEVELS, part.shape).astype(np.float32), 0, 255)
    Image.fromarray(rgb).save(path, "JPEG", quality=93)


REQUESTS = r"""
import io, resource, sys, threading
import numpy as np
from PIL import Image
from looc_codec import api
job, picture, packed, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
failures = []
start = threading.Barrier(count)
def request():
    start.wait()
    try:
        # As a server would: from the bytes of a request to those of the answer.
        if job == "compress":
            api.compress(Image.open(picture), level=50)
        else:
            written = io.BytesIO()
            api.decompress(packed).save(written, "PNG")
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=request) for _ in range(count)]
for thread in threads: thread.start()
for thread in threads: thread.join()
if failures: raise failures[0]
"""


def concurrent(picture: Path, count: int) -> dict[str, dict[str, float]]:
    """Peak memory of one process with so many requests at once for 1.15 megapixels, and of one with a single request."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        large, packed = Path(folder) / "a.png", Path(folder) / "a.looc"
        measured(["-c", TILED, str(ROOT / "tools"), str(picture), str(large)])
        measured(["-m", "looc_codec", "compress", str(large), "-o", str(packed)])
        for job in ("compress", "decompress"):
            for requests in (1, count):
                found[f"{requests} x {job}"] = measured(["-c", REQUESTS, job, str(large), str(packed), str(requests)])
                print(f"{requests} x {job}: {found[f'{requests} x {job}']}", flush=True)
    return found


TILED = r"""
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from compare_runtimes import SIZES, tiled
tiled(Path(sys.argv[2]), SIZES["1.15"], Path(sys.argv[3]))
"""


def measured(words: list[str]) -> dict[str, float]:
    """Peak resident memory and seconds of a process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed:\n{errors.decode()}")
    return {
        "peak_mib": round(usage.ru_maxrss / 1024), "seconds": round(time.perf_counter() - started, 1), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, default=ROOT.parent / "shared/data/train")
    parser.add_argument("--megapixels", type=lambda text: [float(part) for part in text.split(",")], default=[12, 24, 100])
    parser.add_argument("--strip", type=lambda text: tuple(map(int, text.split("x"))), default=STRIP, metavar="WIDTHxHEIGHT")
    parser.add_argument("--level", type=int, default=50)
    parser.add_argument("--out", type=Path, help="write the figures as JSON here; those of other sizes of the same level are kept")
    parser.add_argument("--concurrent", type=int, help="measure one process with so many requests at once, and nothing else")
    parser.add_argument("--picture", type=Path, default=ROOT.parent / "shared/data/kodak/kodim05.png", help="tiled to 1.15 megapixels for --concurrent")
    parser.add_argument("--make", nargs=3, metavar=("WIDTH", "HEIGHT", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        width, height, path = arguments.make
        make(arguments.photographs, int(width), int(height), Path(path))
        return
    if arguments.concurrent:
        found = {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[1], 1), "requests": concurrent(arguments.picture, arguments.concurrent)}
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")
        return
    sizes = [(round((size * 1.5e6) ** 0.5), round((size / 1.5 * 1e6) ** 0.5)) for size in arguments.megapixels] + [arguments.strip]
    report: dict = {"quality": arguments.level, "cores": os.cpu_count(), "pictures": []}
    if arguments.out and arguments.out.exists():
        earlier = json.loads(arguments.out.read_text())
        if (earlier["quality"], earlier["cores"]) == (report["quality"], report["cores"]):
            report = earlier
    with tempfile.TemporaryDirectory() as folder:
        for width, height in sizes:
            picture, packed, restored = (str(Path(folder) / name) for name in ("a.jpg", "a.looc", "a.png"))
            measured([__file__, "--photographs", str(arguments.photographs), "--make", str(width), str(height), picture])
            row = {"width": width, "height": height, "megapixels": round(width * height / 1e6, 2)}
            row["encode"] = measured(["-m", "looc_codec", "compress", picture, "-o", packed, "-f", "--level", str(arguments.level)])
            row["decode"] = measured(["-m", "looc_codec", "decompress", packed, "-o", restored, "-f"])
            row["bpp"] = round(8 * os.path.getsize(packed) / (width * height), 3)
            row["load_average"] = round(os.getloadavg()[1], 1)
            others = [other for other in report["pictures"] if (other["width"], other["height"]) != (width, height)]
            report["pictures"] = sorted([*others, row], key=lambda entry: entry["megapixels"])
            # After each size, so that a run that is stopped keeps what it has.
            if arguments.out:
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                arguments.out.write_text(json.dumps(report, indent=1) + "\n")
            print(f"{width}x{height}: encode {row['encode']['peak_mib']} MiB, {row['encode']['seconds']} s;"
                  f" decode {row['decode']['peak_mib']} MiB, {row['decode']['seconds']} s; {row['bpp']} bpp", flush=True)


if __name__ == "__main__":
    main()
