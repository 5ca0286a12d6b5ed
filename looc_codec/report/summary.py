"""What the points say: mean curves, readings at fixed rates, BD-rates, speeds, and the gain of every picture.

All means are over the same pictures for every codec: a picture on which any point failed is left out of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from looc_codec import metrics
from looc_codec.report.codecs import effort_of, is_looc
from looc_codec.report.distortion import METRICS
from looc_codec.report.results import Results

READING_RATES_BPP = (0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0, 1.5)
EMPTY = "–"


@dataclass(frozen=True)
class CurvePoint:
    """Means over the pictures at one quality; published curves name their levels in words of their own."""

    quality: int | str
    bpp: float
    value: float


@dataclass(frozen=True)
class Curve:
    """A rate-distortion curve of one codec in one metric; `source` is set for curves that others published."""

    name: str
    label: str
    points: tuple[CurvePoint, ...]
    source: str | None = None

    def pairs(self, *, higher_is_better: bool = True) -> list[metrics.Point]:
        """(bpp, value) with rising values for better pictures, as the BD functions take them."""
        sign = 1.0 if higher_is_better else -1.0
        return [(point.bpp, sign * point.value) for point in self.points]


@dataclass(frozen=True)
class Comparison:
    """A number that compares two curves, or the word and the sentence why there is none."""

    value: float | None
    word: str = ""
    reason: str = ""


@dataclass
class Summary:
    """Everything that tables, plots and page show. Curves by metric key, then codec."""

    names: list[str]
    labels: dict[str, str]
    picture_names: list[str]
    excluded: list[str]
    metric_names: list[str]
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    empty_metrics: dict[str, str] = field(default_factory=dict)
    published: dict[str, list[Curve]] = field(default_factory=dict)
    speeds: dict[str, dict[str, float | None]] = field(default_factory=dict)
    points: list[dict[str, Any]] = field(default_factory=list)


def summarise(results: Results, wanted: Collection[str], qualities: Mapping[str, Sequence[int]], metric_names: Sequence[str]) -> Summary:
    """The summary of the pictures, codecs and qualities asked for; a codec without a single point is left out."""
    working = {p["codec"] for p in results.points}
    # A codec that fails on everything is simply not there; it must not take the others' pictures away.
    failed = {failure["picture"] for failure in results.failures if failure["codec"] is None or failure["codec"] in working}
    points = [p for p in results.points if p["picture"] in wanted and p["quality"] in qualities.get(p["codec"], ())]
    used = [p for p in points if p["picture"] not in failed]
    names = [name for name in qualities if any(p["codec"] == name for p in used)]
    pictures = [picture["name"] for picture in results.pictures if picture["name"] in wanted and picture["name"] not in failed]
    summary = Summary(
        names=names, labels={name: results.codecs[name]["label"] for name in names}, picture_names=pictures,
        excluded=sorted(failed), metric_names=list(metric_names), points=points,
    )
    for name in metric_names:
        key = METRICS[name].key
        reason = results.metrics[key].get("missing")
        # A picture that is too small for a metric has it nowhere; it does not take the others' curve away.
        having = {p["picture"] for p in used if p.get(key) is not None}
        if reason is None and not having:
            reason = next((p["empty"][key] for p in used if key in p.get("empty", {})), "nothing was measured")
        if reason is not None:
            summary.empty_metrics[key] = reason
            continue
        summary.curves[key] = {}
        for codec in names:
            curve = _mean_curve(codec, summary.labels[codec], key, [p for p in used if p["codec"] == codec and p["picture"] in having])
            if curve.points:
                summary.curves[key][codec] = curve
    pixels = {picture["name"]: picture["width"] * picture["height"] for picture in results.pictures}
    for codec in names:
        summary.speeds[codec] = _speed([p for p in used if p["codec"] == codec], pixels)
    return summary


def _mean_curve(name: str, label: str, key: str, points: Sequence[dict[str, Any]]) -> Curve:
    by_quality: dict[int, list[dict[str, Any]]] = {}
    for point in points:
        by_quality.setdefault(point["quality"], []).append(point)
    means = [
        CurvePoint(quality, float(np.mean([p["bpp"] for p in same])), float(np.mean([p[key] for p in same])))
        for quality, same in sorted(by_quality.items())
        # An equal picture has no finite PSNR, and then this quality has no mean.
        if all(p.get(key) is not None for p in same)
    ]
    return Curve(name, label, tuple(means))


def _speed(points: Sequence[dict[str, Any]], pixels: Mapping[str, int]) -> dict[str, float | None]:
    """Mean seconds of a picture and megapixels per second, over all qualities; None where nothing was timed."""
    timed = [p for p in points if p.get("encode_seconds") is not None]
    megapixels = sum(pixels[p["picture"]] for p in timed) / 1e6
    figures: dict[str, float | None] = {}
    for kind in ("encode", "decode"):
        total = sum(p[f"{kind}_seconds"] for p in timed)
        figures[f"{kind}_seconds"] = total / len(timed) if timed else None
        figures[f"{kind}_megapixels_per_second"] = megapixels / total if total else None
    return figures


def compare(measure: Callable[..., float], anchor: Sequence[metrics.Point], test: Sequence[metrics.Point]) -> Comparison:
    """A BD figure of two lists of points, or the reason why there is none; `measure` is bd_rate_percent or bd_psnr_db."""
    try:
        return Comparison(measure(anchor, test))
    except metrics.CurveError as error:
        few = min(len(anchor), len(test)) < 2
        word = "too few points" if few else "no overlap" if "in common" in str(error) else "no curve"
        return Comparison(None, word, str(error))


def bd_table(summary: Summary, key: str) -> dict[str, dict[str, tuple[Comparison, Comparison]]]:
    """BD-rate in % and BD gain in the metric's unit: table[test][anchor], for measured codecs and published anchors."""
    better_up = next(metric.higher_is_better for metric in METRICS.values() if metric.key == key)
    tests = list(summary.curves.get(key, {}).values())
    anchors = tests + summary.published.get(key, [])
    return {
        test.name: {
            anchor.name: (
                compare(metrics.bd_rate_percent, anchor.pairs(higher_is_better=better_up), test.pairs(higher_is_better=better_up)),
                compare(metrics.bd_psnr_db, anchor.pairs(higher_is_better=better_up), test.pairs(higher_is_better=better_up)),
            )
            for anchor in anchors
            if anchor.name != test.name
        }
        for test in tests
    }


def picture_points(summary: Summary, codec: str, picture: str, key: str = "psnr_db") -> list[metrics.Point]:
    """(bpp, value) of one picture with one codec, by rising rate; values that are missing or repeated are left out."""
    own = [p for p in summary.points if p["codec"] == codec and p["picture"] == picture and p.get(key) is not None]
    pairs: dict[float, float] = {}
    for point in sorted(own, key=lambda p: p["quality"]):
        pairs.setdefault(point["bpp"], point[key])
    unique = {value: bpp for bpp, value in reversed(pairs.items())}
    return sorted((bpp, value) for value, bpp in unique.items())


def picture_gains(summary: Summary, test: str, anchor: str) -> dict[str, Comparison]:
    """BD-rate in PSNR of every picture."""
    return {
        name: compare(metrics.bd_rate_percent, picture_points(summary, anchor, name), picture_points(summary, test, name))
        for name in summary.picture_names
    }


def reading(curve: Curve, bpp: float) -> float | None:
    """The value that a curve has at a rate, None where it does not reach it."""
    try:
        return metrics.psnr_at_bpp(curve.pairs(), bpp)
    except metrics.CurveError:
        return None


def lead(summary: Summary) -> str | None:
    """The first looc of a report, which the others are compared with; None without one."""
    return next((name for name in summary.names if is_looc(name)), None)


def strongest_peer(summary: Summary) -> str | None:
    """The codec beside looc with the highest PSNR at equal rate: looc's hardest comparison. None without one."""
    curves = summary.curves.get("psnr_db", {})
    first = lead(summary)
    if first not in curves:
        return None
    rates = {
        name: compare(metrics.bd_rate_percent, curve.pairs(), curves[first].pairs()).value
        for name, curve in curves.items()
        if not is_looc(name)
    }
    known = {name: rate for name, rate in rates.items() if rate is not None}
    return max(known, key=known.__getitem__) if known else next(iter(rates), None)


# --- verdicts ---------------------------------------------------------------------------------------------------------

SAME_PERCENT = 0.5
"""BD-rates nearer to 0 are called the same bits."""


def verdicts(summary: Summary) -> list[str]:
    """What the curves say of looc in every metric, one sentence for each other codec.

    Of several looc each has a sentence against its strongest peer alone; the table says the rest. Efforts are left to it.
    """
    ours = [name for name in summary.names if is_looc(name) and effort_of(name) == 0]
    peers = [name for name in summary.names if not is_looc(name)]
    if len(ours) > 1:
        peers = [name for name in peers if name == strongest_peer(summary)]
    rates = {METRICS[name].label: bd_table(summary, METRICS[name].key) for name in summary.metric_names}
    return [
        _verdict(
            summary.labels[own], summary.labels[peer],
            {label: table[own][peer][0] for label, table in rates.items() if peer in table.get(own, {})},
        )
        for own in ours for peer in peers
    ]  # fmt: skip


def _verdict(own: str, peer: str, rates: Mapping[str, Comparison]) -> str:
    parts = []
    for better in (True, False):
        words = "fewer" if better else "more"
        side = [(label, rate.value) for label, rate in rates.items() if rate.value is not None and abs(rate.value) >= SAME_PERCENT and (rate.value < 0) == better]
        named = [f"{abs(value):.0f}% {words + ' bits ' if number == 0 else ''}at equal {label}" for number, (label, value) in enumerate(side)]
        if named:
            parts.append(_listed(named))
    needs = ", but ".join(parts)
    same = [label for label, rate in rates.items() if rate.value is not None and abs(rate.value) < SAME_PERCENT]
    if same:
        needs += f"{', and ' if needs else ''}as many bits at equal {_listed(same)}"
    unknown = [f"{label} ({rate.word})" for label, rate in rates.items() if rate.value is None]
    if not needs:
        return f"{own} and {peer} cannot be compared{': ' + _listed(unknown) if unknown else ''}."
    return f"Against {peer}, {own} needs {needs}{'; no comparison in ' + _listed(unknown) if unknown else ''}."


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def verdict_table(summary: Summary) -> Table | None:
    """BD-rates in all metrics of every looc against all other codecs, and against the loocs before it; None where there is nothing to compare."""
    rates = {name: bd_table(summary, METRICS[name].key) for name in summary.metric_names if METRICS[name].key in summary.curves}
    rows = []
    ours = [name for name in summary.names if is_looc(name)]
    for number, own in enumerate(ours):
        # Two loocs are compared once, the later with the earlier.
        for peer in [*ours[:number], *(name for name in summary.names if not is_looc(name))]:
            cells = [table.get(own, {}).get(peer, (Comparison(None, EMPTY),))[0] for table in rates.values()]
            rows.append([f"{summary.labels[own]} against {summary.labels[peer]}", *(cell.word if cell.value is None else f"{cell.value:+.1f}%" for cell in cells)])
    if not rows:
        return None
    note = "Bits that looc needs at equal quality (BD-rate): minus means fewer, which is better."
    return Table("BD-rate in every metric", ["", *(METRICS[name].label for name in rates)], rows, note)


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table for people: a title, column heads, rows of text, the first cell of a row its name."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


def tables(summary: Summary) -> list[Table]:
    """The tables of a report, in the order of interest."""
    found = []
    for name in summary.metric_names:
        metric = METRICS[name]
        if metric.key in summary.curves:
            found.append(_bd_text(summary, name))
    for name in summary.metric_names:
        metric = METRICS[name]
        if metric.key not in summary.curves:
            continue
        curves = [*summary.curves[metric.key].values(), *summary.published.get(metric.key, [])]
        rows = [
            [curve.label, *(_number(reading(curve, rate), f".{metric.decimals}f") for rate in READING_RATES_BPP)] for curve in curves
        ]
        found.append(Table(f"{metric.axis} at bits per pixel", ["codec", *(f"{rate:g}" for rate in READING_RATES_BPP)], rows))
    single = [
        [f"{curve.label}, {METRICS[name].axis}", f"{point.bpp:.3f}", _number(point.value, f".{METRICS[name].decimals}f")]
        for name in summary.metric_names for curve in summary.curves.get(METRICS[name].key, {}).values() if len(curve.points) == 1 for point in curve.points
    ]  # fmt: skip
    if single:
        # They have no curve to be read from.
        found.append(Table("Codecs with one quality", ["codec and metric", "bits per pixel", "value"], single))
    if any(speed["encode_seconds"] is not None for speed in summary.speeds.values()):
        rows = [
            [
                summary.labels[codec],
                *(_number(speed[f"{kind}_{unit}"], form) for kind in ("encode", "decode") for unit, form in (("seconds", ".3f"), ("megapixels_per_second", ".2f"))),
            ]
            for codec, speed in summary.speeds.items()
        ]
        head = ["codec", "encode s", "encode MP/s", "decode s", "decode MP/s"]
        found.append(Table("Speed, mean of a picture over all qualities, one thread", head, rows))
    if summary.empty_metrics:
        labels = {metric.key: metric.label for metric in METRICS.values()}
        found.append(Table("Metrics without values", ["metric", "why"], [[labels[key], why] for key, why in summary.empty_metrics.items()]))
    return found


def _bd_text(summary: Summary, name: str) -> Table:
    metric = METRICS[name]
    table = bd_table(summary, metric.key)
    published = summary.published.get(metric.key, [])
    labels = {**summary.labels, **{curve.name: curve.label for curve in published}}
    unit = metric.unit if metric.unit == "dB" else ""
    # One row for an anchor keeps the table narrow, however many curves were published.
    columns = list(table)
    rows = []
    for anchor in [*columns, *(curve.name for curve in published)]:
        cells = []
        for test in columns:
            if test == anchor:
                cells.append("0")
                continue
            rate, gain = table[test][anchor]
            if rate.value is None:
                cells.append(rate.word)
            else:
                sign = 1 if metric.higher_is_better else -1
                extra = gain.word if gain.value is None else f"{sign * gain.value:+.2f} {unit}".strip()
                cells.append(f"{rate.value:+.1f}% ({extra})")
        rows.append([f"against {labels[anchor]}", *cells])
    note = "Bits needed at equal quality: minus means fewer bits than the codec of the row. In brackets the gain at equal bits."
    return Table(f"BD-rate in {metric.label}", ["", *(labels[test] for test in columns)], rows, note)


def _number(value: float | None, form: str) -> str:
    return EMPTY if value is None else format(value, form)


def markdown(summary: Summary, results: Results) -> str:
    """The tables as Markdown, with what was measured and what failed."""
    count = len(summary.picture_names)
    lines = [f"{'One picture' if count == 1 else f'{count} pictures, means over the pictures'}, real bytes, 8-bit RGB.", ""]
    for codec in summary.names:
        record = results.codecs[codec]
        lines.append(f"- {record['label']}: {record['settings']}; {record['identity']}")
    lines += [f"- {record['label']}: {record['missing']}" for record in results.codecs.values() if "missing" in record]
    lines += [f"- {failure_sentence(failure)}" for failure in results.failures]
    lines += [f"- {sentence}" for sentence in verdicts(summary)]
    overview = verdict_table(summary)
    for table in [*([overview] if overview else []), *tables(summary)]:
        lines += ["", f"**{table.title}**", ""]
        lines += ["| " + " | ".join(head.replace("|", "\\|") for head in table.head) + " |", "|---|" + "--:|" * (len(table.head) - 1)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
        if table.note:
            lines += ["", table.note]
    return "\n".join(lines) + "\n"


def failure_sentence(failure: Mapping[str, Any]) -> str:
    """One failure in words, with the picture's name in front."""
    if failure["codec"] is None and failure["error"].startswith(failure["picture"]):
        return failure["error"]
    where = failure["picture"] if failure["codec"] is None else f"{failure['picture']} ({failure['codec']}, quality {failure['quality']})"
    return f"{where}: {failure['error']}"
