"""The papers' figures from the rows that are there: codebook usage, sharing, t-SNE, PSNR over K, rate against PSNR."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from looc_codec.datasets import SMALL_SETS, load_small
from looc_codec.errors import ImageError
from looc_codec.files import write_atomically
from looc_codec.reproduction.backbones import SmallBackbone
from looc_codec.reproduction.evaluation import errors, psnr_of
from looc_codec.reproduction.rows import PAPER_NAMES, SMALL_CHANNELS, SMALL_TABLES, paper_rows, parse_row
from looc_codec.reproduction.run import CODES, FORMAT, RESULT, ReproductionError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

MOSAIC_SIDE = 16
"""Pictures along each side of the mosaic that file formats compress: headers of a file for each would drown the rate."""
CODEC_QUALITIES = {"jpeg": (30, 50, 70, 80, 90, 95, 98), "webp": (30, 50, 70, 80, 90, 95, 100), "looc": (20, 40, 55, 70, 85, 100)}
COLOURS = {"vq": "#9e9e9e", "hvq": "#795548", "sq": "#5c6bc0", "cvq": "#00897b", "pq": "#f9a825", "rq": "#ef6c00", "looc": "#c2185b"}
FILE_COLOURS = {"jpeg": "#616161", "webp": "#1e88e5", "looc": "#4a148c"}
TSNE_SEED = 0


def stored_results(out: Path, datasets: Sequence[str] | None) -> dict[str, list[dict[str, Any]]]:
    """Results of finished rows by data set.

    Raises:
        ReproductionError: there are none, or matplotlib is missing.
    """
    if util.find_spec("matplotlib") is None:
        raise ReproductionError("plots need the package matplotlib, which is not installed (pip install 'looc[reproduce]')")
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((out / "rows").glob(f"*/*/{RESULT}")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            fits = result["format"] == FORMAT
        except (ValueError, KeyError, TypeError):
            raise ReproductionError(f"{path} holds no result of looc reproduce; delete it or give another --out") from None
        if fits and (not datasets or result["dataset"] in datasets):
            found.setdefault(result["dataset"], []).append(result)
    if not found:
        raise ReproductionError(f"{out} holds no finished rows; run looc reproduce 1 --out {out} first")
    return found


def draw_analyses(out: Path, data: Path, datasets: Sequence[str] | None = None) -> list[Path]:
    """Writes every plot that the finished rows below `out` allow into `out`/plots, and the numbers as analyses.json."""
    folder = out / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    numbers: dict[str, Any] = {}
    for dataset, results in stored_results(out, datasets).items():
        segments = {result["row"]: segment_counts(out, result) for result in results if result["code_shape"][1] > 1 and len(result["codebook_sizes"]) == 1}
        own: dict[str, Any] = {"usage": {name: usage_of_segments(counts) for name, counts in segments.items()}, "sharing": {name: sharing(counts) for name, counts in segments.items()}}
        own |= {"codecs": codec_points(dataset, data), "printed": printed_points(dataset)}
        numbers[dataset] = own
        title = PAPER_NAMES.get(dataset, dataset)
        looc = {name: counts for name, counts in segments.items() if parse_row(name).method == "looc"}
        figures = [("rate-psnr", rate_figure(results, own["codecs"], title)), ("psnr-over-k", size_figure(results, title))]
        if looc:
            figures += [("segment-usage", usage_figure({name: own["usage"][name] for name in looc}, title)), ("sharing", sharing_figure({name: own["sharing"][name] for name in looc}, title))]
        if util.find_spec("sklearn") is not None:
            figures.append(("tsne", tsne_figure(out, results, title)))
        else:
            own["tsne"] = "scikit-learn is not installed (pip install scikit-learn)"
        for name, figure in figures:
            if figure is not None:
                written.append(_save(figure, folder / f"{dataset}-{name}.png"))
    path = folder / "analyses.json"
    with write_atomically(path, force=True) as file:
        file.write((json.dumps(numbers, indent=1) + "\n").encode())
    return [*written, path]


# --- numbers --------------------------------------------------------------------------------------------------------


def segment_counts(out: Path, result: dict[str, Any]) -> np.ndarray:
    """How often each segment (code plane) holds each codevector on the test pictures: `(p, K)` int64."""
    codes = stored_codes(out, result)["codes"]
    size = max(result["codebook_sizes"])
    return np.stack([np.bincount(codes[:, plane].reshape(-1), minlength=size) for plane in range(codes.shape[1])])


def stored_codes(out: Path, result: dict[str, Any]) -> dict[str, np.ndarray]:
    """`codes` `(n, p, h', w')` and `codevectors` `(1 or p, K, d)` of a finished row."""
    path = out / "rows" / result["dataset"] / result["row"] / CODES
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in ("codes", "codevectors")}
    except (OSError, ValueError, KeyError) as error:
        raise ReproductionError(f"{path} cannot be read ({error}); delete the row's folder and run looc reproduce again") from None


def usage_of_segments(counts: np.ndarray) -> list[float]:
    """Share of the codebook that each segment uses (paper, Fig. 7)."""
    return [float(share) for share in (counts > 0).mean(1)]


def sharing(counts: np.ndarray) -> list[float]:
    """For n = 1, 2, ..., p: the share of codevectors that at least n segments use (paper, Fig. 8)."""
    users = (counts > 0).sum(0)
    return [float((users >= least).mean()) for least in range(1, len(counts) + 1)]


def mosaic(pictures: np.ndarray) -> np.ndarray:
    """The first side² pictures `(n, H, W, c)` as one `(side H, side W, 3)` uint8, side at most MOSAIC_SIDE."""
    side = min(MOSAIC_SIDE, int(len(pictures) ** 0.5))
    _, height, width, channels = pictures.shape
    grid = pictures[: side * side].reshape(side, side, height, width, channels).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(np.broadcast_to(grid.reshape(side * height, side * width, channels), (side * height, side * width, 3)))


def codec_points(dataset: str, data: Path) -> dict[str, list[dict[str, float]]]:
    """(bpp, PSNR) of file formats on a mosaic of the first 256 test pictures, PSNR as the mean over the pictures.

    Small data sets only, and only where they are found. A format that is not installed is left out.
    """
    from looc_codec.report.codecs import CODECS, missing_reason, open_codec

    if dataset not in SMALL_SETS:
        return {}
    try:
        pictures = load_small(dataset, data, "test").pictures
    except ImageError:
        return {}
    whole = mosaic(pictures)
    height, width = pictures.shape[1:3]
    found: dict[str, list[dict[str, float]]] = {}
    for name, qualities in CODEC_QUALITIES.items():
        if missing_reason(name) is not None:
            continue
        codec = open_codec(name, "photo-psnr")
        points = []
        for quality in qualities:
            coded = codec.encode(whole, quality)
            decoded = codec.decode(coded)
            _, squared = errors(_cut(whole, height, width), _cut(decoded, height, width))
            points.append({"quality": quality, "bpp": 8 * len(coded) / (whole.shape[0] * whole.shape[1]), "psnr_db": float(psnr_of(squared).mean())})
        found[CODECS[name].label] = points
    return found


def _cut(whole: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = whole.shape[0] // height, whole.shape[1] // width
    return whole.reshape(rows, height, columns, width, 3).transpose(0, 2, 1, 3, 4).reshape(-1, height, width, 3)


# --- figures --------------------------------------------------------------------------------------------------------


def _figure(title: str, x: str, y: str) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=110, metadata={"Software": None})
    with write_atomically(path, force=True) as file:
        file.write(target.getvalue())
    return path


def printed_points(dataset: str) -> list[dict[str, Any]]:
    """The paper's own rows of a small data set: method, bpp by its count (h w m log2 K bits, beta left out) and PSNR."""
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    for table in SMALL_TABLES if dataset in SMALL_SETS else ():
        for row in paper_rows(table):
            if row.dataset == PAPER_NAMES[dataset] and row.size is not None and row.figures.get("PSNR") is not None:
                bpp = SMALL_CHANNELS / row.dim * np.log2(row.size) / SmallBackbone.positions_per_side**2
                name = row.method.removesuffix("-VAE")
                found[(name, row.size, row.dim)] = {"row": f"{name} {row.size} × {row.dim}", "bpp": float(bpp), "psnr_db": row.figures["PSNR"]}
    return list(found.values())


def rate_figure(results: Sequence[dict[str, Any]], codecs: dict[str, list[dict[str, float]]], title: str) -> Figure:
    """Clean PSNR against real bytes; a thin line leads from the uniform rate to the entropy-coded one.

    Crosses are the paper's printed figures (its protocol) at the rate that it counts.
    """
    figure, axes = _figure(f"{title}: rate against PSNR", "bits per pixel", "PSNR, dB (clean)")
    labels: list[Annotation] = []
    for result in results:
        row, psnr, rates = parse_row(result["row"]), result["quality"]["clean"]["PSNR"], result["rates"]
        coded = min(rates["static"]["bpp"], rates["conditional"]["bpp"])
        axes.plot([rates["uniform"]["bpp"], coded], [psnr, psnr], color=COLOURS[row.method], linewidth=0.8)
        axes.plot(rates["uniform"]["bpp"], psnr, "o", markerfacecolor="none", color=COLOURS[row.method], markersize=5)
        axes.plot(coded, psnr, "o", color=COLOURS[row.method], markersize=6)
        labels.append(axes.annotate(result["label"], (coded, psnr), textcoords="offset points", xytext=(4, 4), fontsize=7))
    for (label, points), colour in zip(codecs.items(), FILE_COLOURS.values(), strict=False):
        axes.plot([point["bpp"] for point in points], [point["psnr_db"] for point in points], "-s", markersize=3, color=colour, label=f"{label}, mosaic")
    printed = printed_points(results[0]["dataset"])
    axes.plot([point["bpp"] for point in printed], [point["psnr_db"] for point in printed], "x", color="#90a4ae", markersize=5, label="printed in the paper")
    axes.set_xscale("log")
    axes.plot([], [], "o", color="black", label="entropy-coded")
    axes.plot([], [], "o", color="black", markerfacecolor="none", label="uniform bits")
    axes.legend(fontsize=8)
    _spread(figure, labels)
    return figure


def _spread(figure: Figure, labels: Sequence[Annotation]) -> None:
    """Moves labels up or down, a line at a time, until none covers another."""
    figure.canvas.draw()
    placed: list[Any] = []
    for label in sorted(labels, key=lambda label: label.xy):
        for points in (4, -11, 13, -20, 22, -29, 31):
            label.set_position((4, points))
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in placed):
                break
        placed.append(box)


def size_figure(results: Sequence[dict[str, Any]], title: str) -> Figure:
    """Paper-protocol PSNR over K, one line for each method and d* (paper, Fig. 1 right and Fig. 6)."""
    figure, axes = _figure(f"{title}: PSNR over the number of codevectors", "codevectors K", "PSNR, dB (paper protocol)")
    series: dict[tuple[str, int, int, int | None, tuple[str, ...]], list[tuple[int, float]]] = {}
    for result in results:
        row = parse_row(result["row"])
        series.setdefault((row.method, row.dim, row.repeat, row.beta, row.options), []).append((row.size, result["quality"]["paper"]["PSNR"]))
    for key, points in series.items():
        points.sort()
        first = next(result for result in results if (row := parse_row(result["row"])) and (row.method, row.dim, row.repeat, row.beta, row.options) == key)
        label = first["label"].replace(f" {parse_row(first['row']).size} × ", ", d* = ", 1)
        axes.plot([size for size, _ in points], [psnr for _, psnr in points], "-o", color=COLOURS[key[0]], alpha=1 if key[1] <= 4 else 0.7, label=label)
    axes.set_xscale("log", base=2)
    axes.legend(fontsize=8)
    return figure


def usage_figure(usage: dict[str, list[float]], title: str) -> Figure:
    figure, axes = _figure(f"{title}: codebook usage of each segment", "segment", "share of codevectors used")
    for name, shares in usage.items():
        axes.step(range(1, len(shares) + 1), shares, where="mid", label=f"{parse_row(name).label}, mean {np.mean(shares):.2f}")
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=8)
    return figure


def sharing_figure(shares: dict[str, list[float]], title: str) -> Figure:
    figure, axes = _figure(f"{title}: codevectors shared by at least n segments", "n", "share of codevectors")
    for name, values in shares.items():
        axes.plot(range(1, len(values) + 1), values, "-o", markersize=3, label=parse_row(name).label)
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=8)
    return figure


def tsne_figure(out: Path, results: Sequence[dict[str, Any]], title: str) -> Figure | None:
    """t-SNE of the codebook of each row with one book and at least 32 codevectors, used and unused ones (paper, Fig. 5)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    shown = [result for result in results if len(result["codebook_sizes"]) == 1 and result["codebook_sizes"][0] >= 32]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4 * columns, 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: t-SNE of the codebooks")
    for axes, result in zip(figure.subplots(rows, columns, squeeze=False).flat, shown, strict=False):
        stored = stored_codes(out, result)
        vectors = stored["codevectors"][0]
        used = np.bincount(stored["codes"].reshape(-1), minlength=len(vectors)) > 0
        perplexity = min(30.0, (len(vectors) - 1) / 3)
        places = TSNE(perplexity=perplexity, random_state=TSNE_SEED).fit_transform(vectors)
        for group, colour, label in ((~used, "#81c784", "unused"), (used, "#c62828", "used")):
            axes.scatter(*places[group].T, s=6, color=colour, label=label)
        axes.set_title(f"{result['label']}, {100 * result['usage']:.1f}% used", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.legend(fontsize=7)
    return figure
