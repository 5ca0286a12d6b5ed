"""How good a preview is: PSNR over bytes when a file is cut after each of its segments.

    python tools/progressive.py [--images ../shared/data/val] [--levels 20,50,80] [--limit N] [--out docs/results/progressive]

Each picture is coded, without metadata, once per level and restored from its first 1, 2, ... channel groups; the bytes are those of the
file that `looc truncate` makes. Writes means over the pictures to progressive.json and draws them into progressive.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def measure(paths: list[Path], level: int, model_name: str) -> list[dict[str, float]]:
    """One row for each number of kept segments, means over the pictures: the channel groups, and details at levels that have them."""
    from looc_codec import api, images
    from looc_codec.format import container
    from looc_codec.metrics import psnr_db

    model = api.load_model(model_name)
    count = len(model.config.groups) + (model.has_details and level >= model.config.detail_quality)
    rows: list[list[tuple[float, float]]] = [[] for _ in range(count)]
    for path in paths:
        picture = images.read_picture(path).without_metadata()
        data = api.compress_picture(picture, level=level, model=model, threads=1).data
        for groups in range(1, count + 1):
            # Not every file of a level that may have details has them.
            cut = groups < len(container.unpack(data).segments)
            size = len(container.truncate(data, groups=groups) if cut else data)
            preview = api.restore_picture(data, model=model, groups=groups if cut else None, threads=1)
            rows[groups - 1].append((8 * size / (picture.width * picture.height), psnr_db(picture.rgb, preview.rgb)))
    means = [[round(statistics.mean(column), 4) for column in zip(*row, strict=True)] for row in rows]
    whole = means[-1][0]
    return [{"groups": groups, "bpp": bpp, "share_of_bytes": round(bpp / whole, 4), "psnr_db": psnr} for groups, (bpp, psnr) in enumerate(means, start=1)]


def draw(curves: dict[str, list[dict[str, float]]], target: Path) -> None:
    """Cut files as curves, whole files as the dashed line that joins their ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), dpi=120, layout="constrained")
    for level, rows in curves.items():
        axes.plot([row["bpp"] for row in rows], [row["psnr_db"] for row in rows], "o-", markersize=4, label=f"level {level}, cut")
    whole = [rows[-1] for rows in curves.values()]
    axes.plot([row["bpp"] for row in whole], [row["psnr_db"] for row in whole], "k--", linewidth=1, label="whole files")
    axes.set(xlabel="bits per pixel", ylabel="PSNR dB")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT.parent / "shared/data/val")
    parser.add_argument("--levels", type=lambda text: [int(part) for part in text.split(",")], default=[20, 50, 80])
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument("--model", default="photo-psnr")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/progressive")
    arguments = parser.parse_args()
    paths = sorted(arguments.images.glob("*.png"))[: arguments.limit]
    if not paths:
        parser.error(f"no .png files in {arguments.images}; give a folder with --images")
    curves = {}
    for level in arguments.levels:
        curves[str(level)] = measure(paths, level, arguments.model)
        for row in curves[str(level)]:
            print(f"level {level}, {row['groups']} groups: {row['bpp']:.3f} bpp ({100 * row['share_of_bytes']:.0f}%), {row['psnr_db']:.2f} dB", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {"pictures": [path.name for path in paths], "model": arguments.model, "levels": curves}
    (arguments.out / "progressive.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(curves, arguments.out / "progressive.png")


if __name__ == "__main__":
    main()
