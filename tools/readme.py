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

from looc_codec.report.codecs import CODECS
from looc_codec.report.distortion import METRICS
from looc_codec.report.results import Results, read_results
from looc_codec.report.summary import Summary, bd_table, summarise

BEGIN, END = "<!-- kodak -->\n", "<!-- /kodak -->"
PEERS = ("jpeg", "webp", "avif", "jxl")
LOOCS = ("looc", "looc-effort1", "looc-effort3")
_LEVELS, _EFFORT_LEVELS = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100), (1, 10, 25, 40, 60, 80, 100)
MEASURED_QUALITIES = {
    "looc": _LEVELS, "looc-effort1": _EFFORT_LEVELS, "looc-effort3": _EFFORT_LEVELS,
    "jpeg": (6, 8, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 85, 90),
    "webp": (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 93),
    "avif": (15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85),
    "jxl": (5, 10, 15, 30, 50, 65, 80, 90),
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


def rates(summary: Summary, model: str, loocs: tuple[str, ...]) -> list[list[str]]:
    """BD-rates of looc with a model against each peer, a row for each metric and effort; "-" where it was not measured."""
    rows = []
    # How pictures look comes first.
    for metric in sorted(METRICS.values(), key=lambda metric: metric.key != "ssimulacra2"):
        for name in loocs:
            if name not in summary.curves.get(metric.key, {}):
                continue
            table = bd_table(summary, metric.key)[name]
            cells = []
            for peer in PEERS:
                found = table.get(peer)
                word = "-" if found is None else f"{found[0].value:+.1f}%" if found[0].value is not None else found[0].word
                cells.append(f"**{word}**" if word.startswith("-") and len(word) > 1 else word)
            rows.append([f"`{model}`{summary.labels[name].removeprefix('looc')}, {metric.label}", *cells])
    return rows


def figures(structure: Summary, fidelity: Summary) -> str:
    """BD-rates of both models against each peer in every metric."""
    header = ["bits at equal quality", *(CODECS[peer].label for peer in PEERS)]
    # The effort of photo serves another distortion since its points were measured (docs/EXPERIMENTS.md, section 23).
    return rows_to_markdown([header, *rates(structure, "photo", ("looc",)), *rates(fidelity, "photo-psnr", LOOCS)])


def filled(readme: str, *results: Results) -> str:
    """README with the tables of these results, of `photo-psnr` and of `photo`, between its markers."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + figures(*map(summary_of, results)) + END + rest.split(END)[1]


if __name__ == "__main__":
    path = ROOT / "README.md"
    old = path.read_text(encoding="utf-8")
    new = filled(old, *(read_results(ROOT / "docs" / "results" / name / "results.json") for name in ("kodak-ssim", "kodak")))
    if "--check" in sys.argv[1:]:
        sys.exit(0 if new == old else "README.md does not hold the figures of docs/results/kodak; run tools/readme.py")
    path.write_text(new, encoding="utf-8")
    print(f"{path}: {'as it was' if new == old else 'updated'}")
