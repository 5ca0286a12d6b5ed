"""Rate-distortion curves as PNG and SVG files by matplotlib, and as interactive plots by plotly where it is installed."""

from __future__ import annotations

import io
from importlib import util
from pathlib import Path

from looc_codec.files import write_atomically
from looc_codec.report.distortion import METRICS, Metric
from looc_codec.report.summary import Curve, Summary

MAX_BPP = 1.7
COLOURS = {
    "looc": "#c2185b", "looc-effort1": "#f48fb1", "looc-effort2": "#f06292", "looc-effort3": "#ad1457",
    "jpeg": "#616161", "webp": "#1e88e5", "avif": "#2e7d32", "jxl": "#ef6c00",
}  # fmt: skip
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
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, curve in enumerate(_curves(summary, metric)):
        bpp = [point.bpp for point in curve.points]
        values = [point.value for point in curve.points]
        published = curve.source is not None
        axes.plot(
            bpp, values, label=curve.label, color=_colour(curve, number - len(summary.curves[metric.key])),
            marker="" if published else "o", markersize=3.5, linestyle="--" if published else "-",
            linewidth=2.6 if curve.name == "looc" else 1.1 if published else 1.5, zorder=3 if curve.name == "looc" else 2,
        )
    axes.set_xlim(0, MAX_BPP)
    axes.set_ylim(*_value_range(_curves(summary, metric), metric))
    axes.set_xlabel("bits per pixel (real files)")
    axes.set_ylabel(metric.axis)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8 if summary.published.get(metric.key) else 9)
    target = io.BytesIO()
    # The salt and the empty date make the SVG the same in every run.
    with matplotlib.rc_context({"svg.hashsalt": "looc", "svg.fonttype": "none"}):
        figure.savefig(target, format=kind, dpi=120, metadata={"Software": None} if kind == "png" else {"Date": None})
    return target.getvalue()


def interactive_plots(summary: Summary) -> list[tuple[Metric, str]] | None:
    """For each metric plotly's JSON of its figure; None when plotly is not installed."""
    if util.find_spec("plotly") is None:
        return None
    from plotly import graph_objects

    found = []
    for metric in plotted_metrics(summary):
        figure = graph_objects.Figure()
        for number, curve in enumerate(_curves(summary, metric)):
            published = curve.source is not None
            figure.add_scatter(
                x=[round(point.bpp, 5) for point in curve.points],
                y=[round(point.value, 4) for point in curve.points],
                text=[str(point.quality) for point in curve.points],
                name=curve.label,
                mode="lines+markers",
                line={
                    "color": _colour(curve, number - len(summary.curves[metric.key])),
                    "width": 3.5 if curve.name == "looc" else 1.3 if published else 2,
                    "dash": "dash" if published else "solid",
                },
                marker={"size": 3 if published else 6},
                hovertemplate=f"%{{x:.3f}} bpp, %{{y:.{metric.decimals}f}} {metric.unit}<br>quality %{{text}}",
            )
        figure.update_layout(
            template="plotly_white",
            margin={"l": 60, "r": 12, "t": 12, "b": 50},
            xaxis={"title": {"text": "bits per pixel (real files)"}, "range": [0, MAX_BPP]},
            yaxis={"title": {"text": metric.axis}, "range": _value_range(_curves(summary, metric), metric)},
            legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
            hovermode="closest",
        )
        found.append((metric, figure.to_json()))
    return found


def _curves(summary: Summary, metric: Metric) -> list[Curve]:
    return [*summary.curves[metric.key].values(), *summary.published.get(metric.key, [])]


def _value_range(curves: list[Curve], metric: Metric) -> tuple[float, float]:
    """Ends of the value axis that show what lies within `MAX_BPP`, the better end on top."""
    values = [point.value for curve in curves for point in curve.points]
    visible = [point.value for curve in curves for point in curve.points if point.bpp <= MAX_BPP] or values
    margin = 0.04 * (max(visible) - min(visible)) or 0.5
    low, high = min(visible) - margin, max(visible) + margin
    return (low, high) if metric.higher_is_better else (high, low)


def _colour(curve: Curve, published_number: int) -> str:
    if curve.source is None:
        return COLOURS[curve.name]
    return PUBLISHED_COLOURS[published_number % len(PUBLISHED_COLOURS)]
