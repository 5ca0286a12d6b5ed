"""What the size and dimension of the shared codebook cost: the same transforms and prior with other codebooks.

    python tools/codebook_search.py --train DIR [--images ../shared/data/val] [--books 1x256,2x1024,4x4096] [--out docs/results/codebooks.json]

Each book d* x K is fitted to the training pictures as `looc train --stage codes` does at its end, with tables of its own; then
the pictures are coded for real. BD-rate in PSNR is against the first book, per picture, then the mean.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def with_book(model, dim: int, size: int, store, batches: int):
    """The model with a fresh codebook of `size` codevectors of `dim` dimensions, fitted to its residuals."""
    from looc_codec.training.grow import grown
    from looc_codec.training.export import export
    from looc_codec.training.run import fit_codes

    # The new name makes it another model, also where the book's sizes are the same.
    ratios = model.config.ratio_classes if dim == 2 else 1
    other = grown(model, dataclasses.replace(model.config, name="codebook search", codevector_dim=dim, codebook_size=size, ratio_classes=ratios, trellis_states=1))
    fit_codes(other, store, "cpu", lambda kind, row: None, batches=batches)
    return export(other.eval().requires_grad_(False))


def measure(model, path: Path, levels: list[int]) -> list[dict]:
    from looc_codec import api, images
    from looc_codec.metrics import psnr_db

    encoder, decoder = api.encoder_for(model, threads=1), api.decoder_for(model, threads=1)
    rgb = images.read_picture(path).rgb
    rows = []
    for level in levels:
        coding = encoder.encode_latent(encoder.transforms.analyse(rgb, level), level)
        decoded = decoder.decode_latent(coding.segments, coding.checksum, coding.latent.shape[1:], level)
        assert np.array_equal(decoded, coding.latent), "the codes must come back"
        restored = decoder.pixels(coding, rgb.shape[:2])
        rows.append({"picture": path.name, "quality": level, "bpp": 8 * coding.payload_bytes / (rgb.shape[0] * rgb.shape[1]), "psnr_db": psnr_db(rgb, restored)})
    return rows


def main() -> None:
    from looc_codec.data import PictureStore, load_pictures
    from looc_codec.metrics import bd_rate_percent
    from looc_codec.training.run import model_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="training pictures, which the books are fitted to")
    parser.add_argument("--images", type=Path, default=ROOT.parent / "shared/data/val")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights/looc-photo-psnr.safetensors")
    parser.add_argument("--books", default="1x256,1x64,2x256,2x1024,2x4096,4x1024,4x4096")
    parser.add_argument("--levels", type=lambda text: [int(part) for part in text.split(",")], default=[10, 30, 50, 70, 90])
    parser.add_argument("--limit", type=int, default=8, help="pictures to code")
    parser.add_argument("--train-limit", type=int, default=600)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/codebooks.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    paths = sorted(arguments.images.glob("*.png"))[: arguments.limit]
    if not paths or len(arguments.levels) < 2:
        parser.error("give a folder of .png files and two levels or more")
    store = PictureStore(load_pictures(arguments.train, min_side=64, limit=arguments.train_limit), "cpu")
    model = model_of(arguments.weights)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    books, anchor = [], None
    for text in arguments.books.split(","):
        dim, size = map(int, text.split("x"))
        started = time.process_time()
        fitted = with_book(model, dim, size, store, arguments.batches)
        points = [row for path in paths for row in measure(fitted, path, arguments.levels)]
        curves = {path.name: [(row["bpp"], row["psnr_db"]) for row in points if row["picture"] == path.name] for path in paths}
        anchor = anchor or curves
        rate = 0.0 if curves is anchor else statistics.mean(bd_rate_percent(anchor[name], curves[name]) for name in curves)
        tables = fitted.core["codebook.frequencies"]
        books.append({"dim": dim, "size": size, "bd_rate_percent": rate, "table_rows": len(tables), "table_entries": tables.size,
                      "cpu_seconds": round(time.process_time() - started, 1), "points": points})
        print(f"d* = {dim}, K = {size}: {rate:+.2f}% against the first, {len(tables)} table rows", flush=True)
        # After every book, because some take minutes.
        arguments.out.write_text(json.dumps({"levels": arguments.levels, "pictures": [path.name for path in paths], "books": books}, indent=1) + "\n")


if __name__ == "__main__":
    main()
