"""Rate-distortion curves by matplotlib: PNG and SVG files, and SVG to stand in the page.

In the page a curve's colour is the CSS variable `--curve-N`, text and axes have the colour of the text around them, and
each point is a group with its words in `<title>`, so that the page can show, hide and tell them.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from looc_codec.files import write_atomically
from looc_codec.report.codecs import is_looc
from looc_codec.report.distortion import METRICS, Metric
from looc_codec.report.summary import Curve, Summary, lead

MAX_BPP = 1.7
COLOURS = {"jpeg": "#616161", "webp": "#1e88e5", "avif": "#2e7d32", "jxl": "#ef6c00"}
LOOC_COLOURS = ("#c2185b", "#7b1fa2", "#f06292", "#4527a0", "#ba68c8", "#880e4f")
"""Of the loocs of a report in their order."""
PUBLISHED_COLOURS = ("#8d6e63", "#5c6bc0", "#00897b", "#f9a825", "#7e57c2", "#78909c", "#d84315", "#43a047", "#ec407a")


def plotted_metrics(summary: Summary) -> list[Metric]:
    """The metrics that have a curve, in the order asked for."""
    return [METRICS[name] for name in summary.metric_names if summary.curves.get(METRICS[name].key)]


def write_plots(summary: Summary, title: str, folder: Path) -> list[Path]:
    """Writes `rd-<metric>.png` and `.svg` for every metric with curves, and gives their paths."""
    written = []
    for metric in plotted_metrics(summary):
        for kind in ("png", "svg"):
            path = folder / f"rd-{metric.name}.{kind}"
            with write_atomically(path, force=True) as file:
                file.write(render(summary, metric, title, kind))
            written.append(path)
    return written


def render(summary: Summary, metric: Metric, title: str, kind: str) -> bytes:
    """One plot as the bytes of a `png` or `svg` file; equal results give equal bytes with the same matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = curve_colours(summary, metric)
    for curve, colour in zip(_curves(summary, metric), colours, strict=True):
        bpp = [point.bpp for point in curve.points]
        values = [point.value for point in curve.points]
        published = curve.source is not None
        axes.plot(
            bpp, values, label=curve.label, color=colour, marker="" if published else "o", markersize=3.5,
            **_line(summary, curve),
        )  # fmt: skip
    _set_axes(axes, summary, metric)
    axes.set_title(title)
    axes.legend(fontsize=8 if summary.published.get(metric.key) else 9)
    return _saved(figure, kind, salt="looc")


def page_plot(summary: Summary, metric: Metric, *, size_inches: tuple[float, float]) -> str:
    """One plot as an `<svg>` element without legend; curve N of `curve_colours` is the groups of the class `curve-N`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_inches, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _set_axes(axes, summary, metric)
    low, high = sorted(axes.get_ylim())
    words: dict[str, str] = {}
    for number, curve in enumerate(_curves(summary, metric)):
        colour = f"#0100{number:02x}"
        x, y = [point.bpp for point in curve.points], [point.value for point in curve.points]
        axes.plot(x, y, color=colour, gid=f"curve-{number}", **_line(summary, curve))
        for place, point in enumerate(curve.points):
            # What lies outside has no mark that could be pointed at.
            if not (0 <= point.bpp <= MAX_BPP and low <= point.value <= high):
                continue
            gid = f"curve-{number}-{place}"
            side = 3 if curve.source else 5
            axes.plot([point.bpp], [point.value], "o", color=colour, markersize=side, gid=gid, zorder=4)
            value = f"{point.value:.{metric.decimals}f} {metric.unit}".strip()
            words[gid] = f"{curve.label}, quality {point.quality}: {point.bpp:.3f} bpp, {metric.label} {value}"
    # Identifiers in one document must differ from plot to plot.
    salt = f"{metric.name} {size_inches}"
    return _for_page(_saved(figure, "svg", salt=salt, transparent=True).decode(), words)


_SVG = "{http://www.w3.org/2000/svg}"


def _for_page(text: str, words: dict[str, str]) -> str:
    text = re.sub(r"#0100([0-9a-f]{2})", lambda match: f"var(--curve-{int(match[1], 16)})", text)
    text = text.replace("#000000", "currentColor").replace("#b0b0b0", "var(--line)")
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(text)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    for metadata in root.findall(f"{_SVG}metadata"):
        root.remove(metadata)
    used = set(re.findall(r"[#](\w+)", text))
    for element in root.iter():
        own = element.get("id", "")
        if own not in used:
            element.attrib.pop("id", None)
        if match := re.fullmatch(r"(curve-\d+)(-\d+)?", own):
            element.set("class", match[1] + (" point" if match[2] else ""))
        if own in words:
            title = ElementTree.Element(f"{_SVG}title")
            title.text = words[own]
            element.insert(0, title)
        # Text has the page's fonts.
        if element.tag == f"{_SVG}text" and (style := element.get("style")):
            element.set("style", re.sub(r"font:\s*([\d.]+px)[^;]*", r"font-size: \1", style))
    return ElementTree.tostring(root, encoding="unicode")


def _saved(figure: Any, kind: str, *, salt: str, transparent: bool = False) -> bytes:
    import matplotlib

    target = io.BytesIO()
    # The salt and the empty date make the SVG the same in every run.
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        metadata = {"Software": None} if kind == "png" else {"Date": None}
        figure.savefig(target, format=kind, dpi=120, metadata=metadata, transparent=transparent)
    return target.getvalue()


def _set_axes(axes: Any, summary: Summary, metric: Metric) -> None:
    axes.set_xlim(0, MAX_BPP)
    axes.set_ylim(*_value_range(_curves(summary, metric), metric))
    axes.set_xlabel("bits per pixel (real files)")
    axes.set_ylabel(metric.axis)
    axes.grid(alpha=0.3)


def _line(summary: Summary, curve: Curve) -> dict[str, Any]:
    first, published = curve.name == lead(summary), curve.source is not None
    return {
        "linestyle": "--" if published else "-",
        "linewidth": 2.6 if first else 1.1 if published else 1.5,
        "zorder": 3 if first else 2,
    }


def curve_labels(summary: Summary, metric: Metric) -> list[str]:
    """Names of the curves of a plot in their order, published ones last."""
    return [curve.label for curve in _curves(summary, metric)]


def curve_colours(summary: Summary, metric: Metric) -> list[str]:
    """Colours of those curves; a codec has the same one in every metric."""
    ours = [name for name in summary.names if is_looc(name)]
    published = 0
    colours = []
    for curve in _curves(summary, metric):
        if curve.source is not None:
            colours.append(PUBLISHED_COLOURS[published % len(PUBLISHED_COLOURS)])
            published += 1
        elif is_looc(curve.name):
            colours.append(LOOC_COLOURS[ours.index(curve.name) % len(LOOC_COLOURS)])
        else:
            colours.append(COLOURS[curve.name])
    return colours


def _curves(summary: Summary, metric: Metric) -> list[Curve]:
    return [*summary.curves[metric.key].values(), *summary.published.get(metric.key, [])]


def _value_range(curves: list[Curve], metric: Metric) -> tuple[float, float]:
    """Ends of the value axis that show what lies within `MAX_BPP`, the better end on top."""
    values = [point.value for curve in curves for point in curve.points]
    visible = [point.value for curve in curves for point in curve.points if point.bpp <= MAX_BPP] or values
    margin = 0.04 * (max(visible) - min(visible)) or 0.5
    low, high = min(visible) - margin, max(visible) + margin
    return (low, high) if metric.higher_is_better else (high, low)
