"""Whether our SSIMULACRA 2 with a gradient says what the PyPI package `ssimulacra2` says, on distorted training pictures.

    python tools/structure_check.py [--data ../shared/data/train ../shared/data/train2] [--pictures 10] [--out docs/results/structure_check.json]

Each picture is distorted in twenty ways: JPEG, WebP and AVIF at three qualities each, looc (`photo-psnr` and `photo`) at four levels, blur, noise, fewer levels of colour, contrast. Reported are the
rank correlation of the two scores, in all and in each picture, the absolute differences, and what cutting the pictures into tiles does to the error (the mean of tiles against the whole).
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from scipy.stats import spearmanr

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from looc_codec import api
from looc_codec.data import load_pictures
from looc_codec.networks.ssimulacra2 import score, visible_error
from looc_codec.report.distortion import METRICS

CROP = 512
TILES = (256, 128)


def distorted(rgb: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and pixels of each distortion of a picture `(H, W, 3)` uint8."""
    image = Image.fromarray(rgb)
    for kind, qualities in (("jpeg", (20, 50, 85)), ("webp", (15, 50, 85)), ("avif", (25, 50, 75))):
        for quality in qualities:
            file = io.BytesIO()
            image.save(file, kind, quality=quality)
            yield f"{kind} {quality}", np.asarray(Image.open(file).convert("RGB"))
    for model, quality in (("photo-psnr", 10), ("photo-psnr", 60), ("photo", 30), ("photo", 85)):
        yield f"{model} {quality}", np.asarray(api.decompress(api.compress(rgb, quality=quality, model=model)).convert("RGB"))
    for radius in (0.6, 1.5):
        yield f"blur {radius}", np.asarray(image.filter(ImageFilter.GaussianBlur(radius)))
    generator = np.random.default_rng(seed)
    for sigma in (3, 12):
        yield f"noise {sigma}", np.clip(np.rint(rgb + generator.normal(0, sigma, rgb.shape)), 0, 255).astype(np.uint8)
    yield "banding 16", (rgb // 16 * 16 + 8).astype(np.uint8)
    for factor in (0.85, 1.1):
        yield f"contrast {factor}", np.clip(np.rint((rgb - 128.0) * factor + 128), 0, 255).astype(np.uint8)


def tensor(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float()


def tiled(decoded: np.ndarray, rgb: np.ndarray, side: int) -> float:
    """Mean error of whole tiles, each weighed by its pixels."""
    errors = [
        float(visible_error(*(tensor(picture[top : top + side, left : left + side]) for picture in (decoded, rgb))))
        for top in range(0, rgb.shape[0] // side * side, side)
        for left in range(0, rgb.shape[1] // side * side, side)
    ]
    return statistics.mean(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", default=[ROOT.parent / "shared/data" / name for name in ("train", "train2")])
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/structure_check.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    package, rows, pictures = METRICS["ssimulacra2"].compute, [], []
    for index, folder in enumerate(arguments.data):
        count = (arguments.pictures + index) // len(arguments.data)
        pictures += load_pictures(folder, min_side=256, limit=count) if count else []
    for index, picture in enumerate(pictures):
        rgb = np.ascontiguousarray(picture[:CROP, :CROP])
        for name, decoded in distorted(rgb, index):
            with torch.inference_mode():
                error = float(visible_error(tensor(decoded), tensor(rgb)))
                row = {"picture": index, "distortion": name, "package": package(rgb, decoded), "own": float(score(torch.tensor(error, dtype=torch.float64))), "error": error}
                rows.append(row | {f"tiles_{side}": tiled(decoded, rgb, side) / error for side in TILES})
        print(index, rgb.shape, *(f"{row['own'] - row['package']:+.2f}" for row in rows if row["picture"] == index), flush=True)
    apart = [abs(row["own"] - row["package"]) for row in rows]
    summary = {
        "pictures": len(pictures), "pairs": len(rows),
        "rank_correlation": round(float(spearmanr([row["package"] for row in rows], [row["own"] for row in rows]).statistic), 5),
        "lowest_rank_correlation_of_a_picture": round(min(
            float(spearmanr(*zip(*((row["package"], row["own"]) for row in rows if row["picture"] == index), strict=True)).statistic) for index in range(len(pictures))
        ), 5),
        "difference_median": round(statistics.median(apart), 3), "difference_mean": round(statistics.mean(apart), 3), "difference_largest": round(max(apart), 3),
        "scores": [round(pick(row["package"] for row in rows), 1) for pick in (min, max)],
        **{f"tiles_{side}": [round(float(value), 3) for value in np.quantile([row[f"tiles_{side}"] for row in rows], (0.05, 0.5, 0.95))] for side in TILES},
    }  # fmt: skip
    print(summary)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"summary": summary, "rows": [{key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()} for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
