"""Two checkouts of looc side by side, on the same pictures in the same run: seconds and memory of pixels to bytes and back, of
whole commands, and of several commands at once.

    git worktree add ../old 8281704          # the last state whose codec ran on torch
    python tools/compare_runtimes.py --old ../old --picture ../shared/data/kodak/kodim05.png --out docs/results/runtimes.json

Both are run by the interpreter that runs this, or by `--old-python`. The picture is tiled in mirror image to 0.4, 1, 1.15, 12 and 24
megapixels. Runs of both alternate, and the least of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"0.4": (768, 512), "1": (1224, 816), "1.15": (1229, 936), "12": (4240, 2832), "24": (6000, 4000)}

WORKER = r"""
import json, sys, time
import numpy as np
from PIL import Image
path, threads, runs, wanted = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(",")
try:
    from looc_codec import api as codec
    load = codec.load_model
    options = {"threads": threads}
    compress = lambda picture, quality: codec.compress_picture(picture, level=quality, model=model, **options).data
    decompress = lambda data: codec.restore_picture(data, model=model, **options)
    from looc_codec.format import container
    codes = lambda data: codec.decoder_for(model, **options).decode(container.unpack(data))
except ImportError:
    import torch
    torch.set_num_threads(threads)
    from looc_codec import codec, container
    compress = lambda picture, quality: codec.compress_picture(picture, quality=quality, model=model)
    decompress = lambda data: codec.decompress_picture(data, model=model)
    codes = lambda data: codec.decode_codes(container.unpack(data), model)
from looc_codec import images
model = codec.load_model("photo-psnr")
picture = images.read_picture(path, max_pixels=10**9)
pixels = picture.width * picture.height / 1e6
def best(work):
    least = 1e9
    for _ in range(runs):
        start = time.perf_counter(); found = work(); least = min(least, time.perf_counter() - start)
    return least / pixels, found
small = images.Picture(rgb=np.ascontiguousarray(picture.rgb[:64, :64]))
decompress(compress(small, 50))
result = {}
if "whole" in wanted:
    result["encode"], data = best(lambda: compress(picture, 50))
    result["decode"], _ = best(lambda: decompress(data))
if "codes" in wanted:
    for quality in (20, 50, 80):
        data = compress(picture, quality)
        codes(data)
        result[f"codes_q{quality}"], _ = best(lambda: codes(data))
print(json.dumps(result))
"""


def environment(root: Path, threads: int | None) -> dict[str, str]:
    values = {"PYTHONPATH": str(root)}
    if threads is not None:
        values |= {"LOOC_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    return os.environ | values


def in_process(python: str, root: Path, picture: Path, threads: int, runs: int, wanted: str) -> dict[str, float]:
    """Seconds a megapixel after loading, the least of some runs."""
    done = subprocess.run(
        [python, "-c", WORKER, str(picture), str(threads), str(runs), wanted], env=environment(root, None), cwd=root, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def command(python: str, root: Path, arguments: list[str], threads: int | None = None) -> subprocess.Popen:
    return subprocess.Popen(
        [python, "-m", "looc_codec", *arguments], env=environment(root, threads), cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def finished(process: subprocess.Popen) -> tuple[float, float]:
    """CPU seconds and peak memory in MiB of a command that ends."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a command failed: {process.args}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def timed(python: str, root: Path, commands: list[list[str]], threads: int | None = None) -> dict[str, float]:
    """Wall seconds of commands started together, and the largest peak memory of one."""
    start = time.perf_counter()
    running = [command(python, root, arguments, threads) for arguments in commands]
    usage = [finished(process) for process in running]
    return {"seconds": time.perf_counter() - start, "cpu_seconds": sum(cpu for cpu, _ in usage), "peak_mib": max(peak for _, peak in usage)}


def tiled(picture: Path, size: tuple[int, int], path: Path) -> Path:
    """The picture, mirrored and repeated, at a size (width, height)."""
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    quad = np.concatenate([np.concatenate([pixels, pixels[:, ::-1]], 1), np.concatenate([pixels[::-1], pixels[::-1, ::-1]], 1)], 0)
    times = (-(-size[1] // quad.shape[0]), -(-size[0] // quad.shape[1]), 1)
    Image.fromarray(np.tile(quad, times)[: size[1], : size[0]]).save(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="checkout to compare with")
    parser.add_argument("--old-python", default=sys.executable)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sizes", default=",".join(SIZES), help="megapixels, of those above")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    checkouts = {"old": (arguments.old_python, arguments.old.resolve())} if arguments.old else {}
    checkouts["new"] = (sys.executable, ROOT)
    sizes = arguments.sizes.split(",")
    results: dict[str, dict] = {name: {} for name in checkouts}

    def note(name: str, key: str, value: dict[str, float]) -> None:
        before = results[name].get(key, {})
        results[name][key] = {field: min(number, before.get(field, number)) for field, number in value.items()}
        print(name, key, {field: round(number, 3) for field, number in results[name][key].items()}, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        pictures = {size: tiled(arguments.picture, SIZES[size], home / f"{size}.png") for size in sizes}
        files = {name: {size: str(home / f"{name}-{size}.looc") for size in sizes} for name in checkouts}
        for run in range(arguments.runs):
            for name, (python, root) in checkouts.items():
                for size in ("0.4", "12"):
                    if size in sizes and (size != "12" or run == 0):
                        note(name, f"{size} MP, 2 threads", in_process(python, root, pictures[size], 2, 2 if size == "0.4" else 1, "whole"))
                if "0.4" in sizes:
                    note(name, "0.4 MP, 1 thread", in_process(python, root, pictures["0.4"], 1, 2, "whole,codes"))
                for size in sizes:
                    if run and size in ("12", "24"):
                        continue
                    note(name, f"compress {size} MP", timed(python, root, [["compress", str(pictures[size]), "-o", files[name][size], "-f"]]))
                    note(name, f"decompress {size} MP", timed(python, root, [["decompress", files[name][size], "-o", str(home / "back.png"), "-f"]]))
                if "1.15" in sizes:
                    for count in (2, 3):
                        jobs = [["compress", str(pictures["1.15"]), "-o", str(home / f"{name}{job}.looc"), "-f"] for job in range(count)]
                        note(name, f"{count} x compress 1.15 MP", timed(python, root, jobs))
                if "12" in sizes and run == 0:
                    note(name, "thumbnail 12 MP", timed(python, root, [["thumbnail", files[name]["12"], str(home / "small.png")]]))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
