"""Writes the measured figures into README.md from the committed report, so that nobody copies a number by hand.

    python tools/readme.py [--check]

Everything between `<!-- kodak -->` and `<!-- /kodak -->` is replaced by tables made from docs/results/kodak/results.json, the model for
structure's from docs/results/kodak-ssim.
`--check` writes nothing and fails when README differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from looc_codec.report.distortion import METRICS
from looc_codec.report.results import Results, read_results
from looc_codec.report.summary import (
    READING_RATES_BPP,
    Summary,
    bd_table,
    reading,
    summarise,
)

BEGIN, END = "<!-- kodak -->\n", "<!-- /kodak -->"
PEERS = ("jpeg", "webp", "avif")
LOOCS = ("looc", "looc-effort1", "looc-effort3")
_LEVELS, _EFFORT_LEVELS = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100), (1, 10, 25, 40, 60, 80, 100)
MEASURED_QUALITIES = {
    "looc": _LEVELS, "looc-effort1": _EFFORT_LEVELS, "looc-effort3": _EFFORT_LEVELS,
    "jpeg": (6, 8, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 85, 90),
    "webp": (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 93),
    "avif": (15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85),
}  # fmt: skip
"""The ladders of the committed report, which are denser than the default ones."""


def summary_of(results: Results) -> Summary:
    """Means over all pictures at the qualities of the committed report."""
    names = [name for name, metric in METRICS.items() if metric.key in results.metrics]
    measured = {point["codec"] for point in results.points}
    qualities = {name: MEASURED_QUALITIES[name] for name in (*LOOCS, *PEERS) if name in measured}
    return summarise(results, [picture["name"] for picture in results.pictures], qualities, names)


def rows_to_markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + "--:|" * (len(rows[0]) - 1), *lines[1:]]) + "\n"


def rates(summary: Summary, label: str) -> list[list[str]]:
    """BD-rates of looc against each peer, a row for each metric and effort."""
    rows = [[label, *(summary.labels[peer] for peer in PEERS)]]
    for metric in METRICS.values():
        for name in LOOCS:
            if name in summary.curves.get(metric.key, {}):
                table = bd_table(summary, metric.key)[name]
                cells = [f"{table[peer][0].value:+.1f}%" if table[peer][0].value is not None else table[peer][0].word for peer in PEERS]
                rows.append([metric.label + summary.labels[name].removeprefix("looc"), *(f"**{cell}**" if cell.startswith("-") else cell for cell in cells)])
    return rows


def figures(summary: Summary, structure: Summary) -> str:
    """PSNR at fixed rates, BD-rates of both models against each peer, rate and PSNR of each quality."""
    curves = summary.curves["psnr_db"]
    readings = [["PSNR dB at bits per pixel", *(f"{rate:g}" for rate in READING_RATES_BPP)]]
    for name in curves:
        values = [reading(curves[name], rate) for rate in READING_RATES_BPP]
        label = f"**{curves[name].label}**" if name.startswith("looc") else curves[name].label
        readings.append([label, *("-" if value is None else f"{value:.2f}" for value in values)])
    points = curves["looc"].points
    qualities = [
        ["quality", *(str(point.quality) for point in points)],
        ["bpp", *(f"{point.bpp:.3f}" for point in points)],
        ["PSNR dB", *(f"{point.value:.2f}" for point in points)],
    ]
    both = (rates(summary, "bits at equal quality (BD-rate), model `photo`"), rates(structure, "the same, model `photo-ssim`"))
    return "\n".join(rows_to_markdown(rows) for rows in (readings, *both, qualities))


def filled(readme: str, *results: Results) -> str:
    """README with the tables of these results, of `photo` and of `photo-ssim`, between its markers."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + figures(*map(summary_of, results)) + END + rest.split(END)[1]


if __name__ == "__main__":
    path = ROOT / "README.md"
    old = path.read_text(encoding="utf-8")
    new = filled(old, *(read_results(ROOT / "docs" / "results" / name / "results.json") for name in ("kodak", "kodak-ssim")))
    if "--check" in sys.argv[1:]:
        sys.exit(0 if new == old else "README.md does not hold the figures of docs/results/kodak; run tools/readme.py")
    path.write_text(new, encoding="utf-8")
    print(f"{path}: {'as it was' if new == old else 'updated'}")
