"""What `looc compress --effort` gains and costs: BD-rate against effort 0 and CPU seconds per megapixel of each effort.

    python tools/effort.py [--images ../shared/data/val] [--limit 8] [--levels 20,50,80] [--crop 256] [--out docs/results/effort.json]

Each picture is refined once per level; an effort's figures are those of the cheapest coding among its rounds, as `--effort` picks it,
with the CPU time up to there (one thread). BD-rate by PSNR per picture, then the mean.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def measure(path: Path, level: int, model_name: str, crop: int | None) -> list[dict[str, float]]:
    """One row for each effort."""
    from looc_codec import api, images
    from looc_codec.metrics import psnr_db
    from looc_codec.effort import EFFORT_ROUNDS, Refinement

    model = api.load_model(model_name)
    rgb = images.read_picture(path).rgb
    if crop is not None:
        top, left = (max(0, side - crop) // 2 for side in rgb.shape[:2])
        rgb = np.ascontiguousarray(rgb[top : top + crop, left : left + crop])
    pixels = rgb.shape[0] * rgb.shape[1]
    rows, rounds = [], []
    started, spent = time.process_time(), 0.0
    encoder, decoder = api.encoder_for(model, threads=1), api.decoder_for(model, threads=1)
    latent = encoder.transforms.analyse(rgb, level)

    def encode(target):
        coded = encoder.encode_latent(target, level)
        rounds.append({"megapixel_seconds": (time.process_time() - started - spent) / pixels * 1e6})
        return coded

    def report(coded, cost):
        nonlocal spent
        began = time.process_time()
        size, decoded = coded.payload_bytes, decoder.pixels(coded, rgb.shape[:2])
        rounds[-1] |= {"cost": cost, "bpp": 8 * size / pixels, "psnr_db": psnr_db(rgb, decoded)}
        # A refinement does without this picture.
        spent += time.process_time() - began

    refine = Refinement(model, len(EFFORT_ROUNDS) - 1, 1, report)
    refine(latent, rgb, encode)
    for effort, last in enumerate(EFFORT_ROUNDS):
        best = min(rounds[: last + 1], key=lambda row: row["cost"])
        # Without refinement nothing is synthesised; with it the last coding is, to be judged.
        seconds = rounds[last]["megapixel_seconds"] if last == 0 else rounds[min(last + 1, len(rounds) - 1)]["megapixel_seconds"]
        rows.append({"picture": path.name, "quality": level, "effort": effort, "seconds_per_megapixel": seconds, **{key: best[key] for key in ("cost", "bpp", "psnr_db")}})
    return rows


def main() -> None:
    from looc_codec import api
    from looc_codec.effort import EFFORT_ROUNDS
    from looc_codec.metrics import bd_rate_percent

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT.parent / "shared/data/val")
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--levels", type=lambda text: [int(part) for part in text.split(",")], default=[20, 50, 80])
    parser.add_argument("--crop", type=int, metavar="N", help="take only N x N pixels from the middle of each picture")
    parser.add_argument("--model", default="photo-psnr")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/effort.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(arguments.images.glob("*.png"))[: arguments.limit]
    if not paths or len(arguments.levels) < 2:
        parser.error("give a folder of .png files and two levels or more")
    api.compress(np.zeros((64, 64, 3), np.uint8), model=arguments.model)
    rows = []
    for path in paths:
        for level in arguments.levels:
            rows += measure(path, level, arguments.model, arguments.crop)
            print(path.name, level, *(round(row["cost"], 4) for row in rows[-len(EFFORT_ROUNDS) :]), flush=True)
    summary = []
    for effort, rounds in enumerate(EFFORT_ROUNDS):
        curves = {level: {path.name: [(row["bpp"], row["psnr_db"]) for row in rows if (row["picture"], row["effort"]) == (path.name, level)] for path in paths} for level in (0, effort)}
        own = [row for row in rows if row["effort"] == effort]
        before = [row for row in rows if row["effort"] == 0]
        summary.append({
            "effort": effort, "rounds": rounds,
            "bd_rate_percent": round(statistics.mean(bd_rate_percent(curves[0][path.name], curves[effort][path.name]) for path in paths), 2),
            "cost_percent": round(100 * (statistics.mean(row["cost"] / old["cost"] for row, old in zip(own, before, strict=True)) - 1), 2),
            "cpu_seconds_per_megapixel": round(statistics.median(row["seconds_per_megapixel"] for row in own), 2),
        })  # fmt: skip
        print(summary[-1], flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"summary": summary, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
