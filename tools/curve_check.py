"""Whether a model keeps its promises over the whole range of levels: codebook use, estimated against real rate, no dominated level.

    python tools/curve_check.py [--images ../shared/data/val] [--limit 8] [--step 1] [--out docs/results/curve_check.json]

Every level of 1..100 (every `--step`-th) codes every picture. Reported are the share of codevectors in use, the largest difference
between the bytes that the tables promise (-log2 of their probabilities) and those of the coded segments, and every pair of neighbouring
levels of which one is no worse in both rate and PSNR, for the mean over the pictures and for single pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from looc_codec import api, images
from looc_codec.codec.model import CodecModel
from looc_codec.format.codes import Codes
from looc_codec.format.entropy import SegmentDecoder
from looc_codec.metrics import psnr_db


def code(rgb: np.ndarray, level: int, model: CodecModel, used: np.ndarray) -> tuple[float, float, float, float]:
    """Real payload bytes, bytes promised by the tables, bytes of the filter, PSNR; counts codevectors in `used`."""
    encoder, decoder, tables = api.encoder_for(model), api.decoder_for(model), model.tables
    coding, promised = encoder.encode(rgb, level), 0.0
    read, live = type(tables).read, int(tables.live.sum())

    def watched(rows: np.ndarray, source: SegmentDecoder) -> tuple[Codes, np.ndarray]:
        nonlocal promised
        codes, symbols = read(tables, rows, source)
        picked, table_rows, _ = tables.symbols(codes, rows)
        promised += float(tables.bits[table_rows, picked].sum(dtype=np.float64))
        shifted = (table_rows >= tables.classes) & (table_rows < tables.classes + live)
        used[:] += np.bincount((picked + tables.size * shifted)[picked < tables.size], minlength=len(used))
        return codes, symbols

    groups, grid = len(model.config.groups), coding.latent.shape[1:]
    tables.read = watched
    try:
        latent = decoder.decode_latent(coding.segments[:groups], coding.checksum, grid, level)
        for segment in coding.segments[groups:]:
            decoder.decode_details(segment, latent, level)
    finally:
        del tables.read
    return sum(map(len, coding.segments)), promised / 8, len(coding.filter), psnr_db(rgb, decoder.pixels(coding, rgb.shape[:2]))


def dominated(points: list[tuple[float, float]]) -> int:
    """Neighbours (rate, PSNR) by rising level of which one is no worse in both."""
    return sum((a[0] <= b[0]) == (a[1] >= b[1]) for a, b in zip(points, points[1:], strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT.parent / "shared/data/val")
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--crop", type=int, metavar="N", help="take only N x N pixels from the upper left corner")
    parser.add_argument("--model", default="photo-psnr")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/curve_check.json")
    arguments = parser.parse_args()
    model = api.load_model(arguments.model)
    paths = sorted(arguments.images.glob("*.png"))[: arguments.limit]
    if not paths:
        parser.error("give a folder of .png files")
    used = np.zeros(len(model.tables.codevectors), np.int64)
    levels = list(range(1, 101, arguments.step))
    curves: dict[str, list[tuple[float, float]]] = {}
    worst, real_total, promised_total = 0.0, 0.0, 0.0
    for path in paths:
        rgb = images.read_picture(path).rgb[: arguments.crop, : arguments.crop].copy()
        for level in levels:
            real, promised, taps, psnr = code(rgb, level, model, used)
            curves.setdefault(path.name, []).append((8 * (real + taps) / (rgb.shape[0] * rgb.shape[1]), psnr))
            worst, real_total, promised_total = max(worst, abs(real / promised - 1)), real_total + real, promised_total + promised
        print(path.name, dominated(curves[path.name]), "dominated", flush=True)
    means = [tuple(sum(curve[index][part] for curve in curves.values()) / len(curves) for part in range(2)) for index in range(len(levels))]
    result = {
        "model": model.fingerprint.hex(), "pictures": len(paths), "levels": len(levels),
        "codevectors": len(used), "codevectors_used": int((used > 0).sum()), "codevector_perplexity": float(np.exp(-(p := used[used > 0] / used.sum()) @ np.log(p))),
        "real_against_promised_percent": 100 * (real_total / promised_total - 1), "largest_difference_percent": 100 * worst,
        "dominated_mean": dominated(means), "dominated_by_picture": {name: dominated(curve) for name, curve in curves.items()},
        "mean_curve": means,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "mean_curve"}, indent=1))


if __name__ == "__main__":
    main()
