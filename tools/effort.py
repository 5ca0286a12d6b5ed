"""What `looc compress --effort` gains and costs: BD-rate against effort 0 and CPU seconds per megapixel of each effort.

    python tools/effort.py [--images ../shared/data/val] [--limit 8] [--levels 20,50,80] [--crop 256] [--model photo] [--metrics psnr] [--out docs/results/effort.json]

Each picture is refined once per level; an effort's figures are those of the cheapest coding among its rounds, as `--effort` picks it,
with the CPU time up to there (one thread). BD-rate by each metric per picture, then the mean.
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


def measure(path: Path, level: int, model_name: str, crop: int | None, metric_names: list[str]) -> list[dict[str, float]]:
    """One row for each effort."""
    from looc_codec import api, images
    from looc_codec.effort import EFFORT_ROUNDS, Refinement
    from looc_codec.report.distortion import METRICS

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
        rounds[-1] |= {"cost": cost, "bpp": 8 * coded.payload_bytes / pixels}
        # Only what an effort may end with.
        if len(rounds) == 1 or cost < min(row["cost"] for row in rounds[:-1]):
            decoded = decoder.pixels(coded, rgb.shape[:2])
            rounds[-1] |= {METRICS[name].key: METRICS[name].compute(rgb, decoded) for name in metric_names}
        # A refinement does without this picture.
        spent += time.process_time() - began

    refine = Refinement(model, len(EFFORT_ROUNDS) - 1, 1, report)
    refine(latent, rgb, encode)
    for effort, last in enumerate(EFFORT_ROUNDS):
        best = min(rounds[: last + 1], key=lambda row: row["cost"])
        # Without refinement nothing is synthesised; with it the last coding is, to be judged.
        seconds = rounds[last]["megapixel_seconds"] if last == 0 else rounds[min(last + 1, len(rounds) - 1)]["megapixel_seconds"]
        rows.append({"picture": path.name, "quality": level, "effort": effort, "seconds_per_megapixel": seconds, **{key: value for key, value in best.items() if key != "megapixel_seconds"}})
    return rows


def main() -> None:
    from looc_codec import api
    from looc_codec.effort import EFFORT_ROUNDS
    from looc_codec.metrics import bd_rate_percent
    from looc_codec.report.distortion import METRICS, parse_metrics

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT.parent / "shared/data/val")
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--levels", type=lambda text: [int(part) for part in text.split(",")], default=[20, 50, 80])
    parser.add_argument("--crop", type=int, metavar="N", help="take only N x N pixels from the middle of each picture")
    parser.add_argument("--model", default="photo-psnr")
    parser.add_argument("--metrics", type=parse_metrics, default=["psnr"], help="of " + ", ".join(METRICS))
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
            rows += measure(path, level, arguments.model, arguments.crop, arguments.metrics)
            print(path.name, level, *(round(row["cost"], 4) for row in rows[-len(EFFORT_ROUNDS) :]), flush=True)
    summary = []

    def gain(effort: int, name: str) -> float:
        """Mean BD-rate of the pictures in a metric, in per cent, against effort 0."""
        metric, rates = METRICS[name], []
        for path in paths:
            curves = [
                [(row["bpp"], row[metric.key] if metric.higher_is_better else -row[metric.key]) for row in rows if (row["picture"], row["effort"]) == (path.name, compared)]
                for compared in (0, effort)
            ]
            rates.append(bd_rate_percent(*curves))
        return round(statistics.mean(rates), 2)

    for effort, rounds in enumerate(EFFORT_ROUNDS):
        own = [row for row in rows if row["effort"] == effort]
        before = [row for row in rows if row["effort"] == 0]
        summary.append({
            "effort": effort, "rounds": rounds,
            "bd_rate_percent": {name: gain(effort, name) for name in arguments.metrics},
            "cost_percent": round(100 * (statistics.mean(row["cost"] / old["cost"] for row, old in zip(own, before, strict=True)) - 1), 2),
            "cpu_seconds_per_megapixel": round(statistics.median(row["seconds_per_megapixel"] for row in own), 2),
        })  # fmt: skip
        print(summary[-1], flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"summary": summary, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
