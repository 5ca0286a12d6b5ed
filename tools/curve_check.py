"""Whether a model keeps its promises over the whole range of qualities: codebook use, estimated against real rate, no dominated quality.

    python tools/curve_check.py [--images ../shared/data/val] [--limit 8] [--step 1] [--out docs/results/curve_check.json]

Every quality of 1..100 (every `--step`-th) codes every picture. Reported are the share of codevectors in use, the largest difference
between the bytes that the tables promise (-log2 of their probabilities) and those of the coded segments, and every pair of neighbouring
qualities of which one is no worse in both rate and PSNR, for the mean over the pictures and for single pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def code(rgb, quality: int, model, used: torch.Tensor) -> tuple[float, float, float, float]:
    """Real payload bytes, bytes promised by the tables, bytes of the filter, PSNR; counts codevectors in `used`."""
    from looc_codec import codec
    from looc_codec.metrics import psnr_db

    book, promised, symbols, encode_details = model.codebook, [0.0], type(model.codebook).symbols, codec.encode_details

    def watched(digits, rows):
        picked, table_rows, counts = symbols(book, digits, rows)
        promised[0] += float(book.bits[table_rows, picked].double().sum())
        shifted = (table_rows >= book.fine_rows) & (table_rows < book.fine_rows + int(book.live.sum()))
        codevectors = (picked + book.size * shifted)[picked < book.size]
        used.add_(torch.bincount(codevectors, minlength=len(used)))
        return picked, table_rows, counts

    def watched_details(*given, **named):
        before = promised[0], used.clone()
        found = encode_details(*given, **named)
        # Details that are not worth their bits are not in the file.
        if found is None:
            promised[0] = before[0]
            used.copy_(before[1])
        return found

    book.symbols, codec.encode_details = watched, watched_details
    try:
        coded = codec.encode_picture(codec.analyse(rgb, quality, model), rgb, quality, model)
    finally:
        del book.symbols
        codec.encode_details = encode_details
    decoded = codec.synthesise(coded.latent_hat, rgb.shape[:2], quality, model, details=coded.details, wiener=coded.wiener)
    return sum(map(len, coded.segments)), promised[0] / 8, len(coded.filter), psnr_db(rgb, decoded)


def dominated(points: list[tuple[float, float]]) -> int:
    """Neighbours (rate, PSNR) by rising quality of which one is no worse in both."""
    return sum((a[0] <= b[0]) == (a[1] >= b[1]) for a, b in zip(points, points[1:], strict=False))


def main() -> None:
    from looc_codec import codec, images

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT.parent / "shared/data/val")
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--crop", type=int, metavar="N", help="take only N x N pixels from the upper left corner")
    parser.add_argument("--model", default="photo")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/curve_check.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = codec.load_model(arguments.model)
    paths = sorted(arguments.images.glob("*.png"))[: arguments.limit]
    if not paths:
        parser.error("give a folder of .png files")
    used = torch.zeros(len(model.codebook.codevectors), dtype=torch.int64)
    qualities = list(range(1, 101, arguments.step))
    curves: dict[str, list[tuple[float, float]]] = {}
    worst, real_total, promised_total = 0.0, 0.0, 0.0
    for path in paths:
        rgb = images.read_picture(path).rgb[: arguments.crop, : arguments.crop].copy()
        for quality in qualities:
            real, promised, taps, psnr = code(rgb, quality, model, used)
            curves.setdefault(path.name, []).append((8 * (real + taps) / (rgb.shape[0] * rgb.shape[1]), psnr))
            worst, real_total, promised_total = max(worst, abs(real / promised - 1)), real_total + real, promised_total + promised
        print(path.name, dominated(curves[path.name]), "dominated", flush=True)
    means = [tuple(sum(curve[index][part] for curve in curves.values()) / len(curves) for part in range(2)) for index in range(len(qualities))]
    result = {
        "model": model.fingerprint.hex(), "pictures": len(paths), "qualities": len(qualities),
        "codevectors": len(used), "codevectors_used": int((used > 0).sum()), "codevector_perplexity": float(torch.exp(-(p := used[used > 0] / used.sum()) @ p.log())),
        "real_against_promised_percent": 100 * (real_total / promised_total - 1), "largest_difference_percent": 100 * worst,
        "dominated_mean": dominated(means), "dominated_by_picture": {name: dominated(curve) for name, curve in curves.items()},
        "mean_curve": means,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "mean_curve"}, indent=1))


if __name__ == "__main__":
    main()
