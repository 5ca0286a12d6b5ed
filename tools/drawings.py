"""Draws the pictures of docs/HOW_IT_WORKS.md: `python tools/drawings.py --out docs/drawings`.

Needs matplotlib (`pip install '.[report]'`). What can be wrong is taken from the code and not drawn by hand: the coding order from
format/order.py, the state machine from format/trellis.py, the codebook from the shipped weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from looc_codec import api
from looc_codec.config import LoocConfig
from looc_codec.format.constants import TRELLIS_STATES
from looc_codec.format.order import CHECKERBOARD, PYRAMID, Level
from looc_codec.format.trellis import NEXT_STATE

INK, EXACT, FLOAT, FILE, FAINT = "#222222", "#cfe3f7", "#fbe3c8", "#dcefd5", "#9a9a9a"
"""Colours: text and lines; what is exact; what is floating point; bytes; what matters less."""
LEVEL_COLOURS = ("#0b3c6f", "#2b74b8", "#6fa9d8", "#aecfea", "#e3eff8")
"""Of coding levels, the first the darkest."""


def sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty drawing of so many inches whose axes count in tenths of inches."""
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 10 * width)
    axes.set_ylim(0, 10 * height)
    axes.axis("off")
    return figure, axes


def box(axes: Axes, x: float, y: float, text: str, colour: str, *, width: float = 15, height: float = 7) -> None:
    """A labelled box whose lower left corner is (x, y)."""
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=1", fc=colour, ec=INK, lw=0.8))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8.5, color=INK, linespacing=1.35)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], label: str = "", *, bend: float = 0.0) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, lw=0.9, color=INK, connectionstyle=f"arc3,rad={bend}"))
    if label:
        axes.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.9, label, ha="center", va="bottom", fontsize=7.5, color=INK)


def legend(axes: Axes, x: float, y: float) -> None:
    for number, (colour, text) in enumerate(((FLOAT, "floating point"), (EXACT, "exact integers"), (FILE, "bytes in the file"))):
        axes.add_patch(Rectangle((x + 17 * number, y), 2.4, 2.0, fc=colour, ec=INK, lw=0.6))
        axes.text(x + 17 * number + 3.2, y + 1.0, text, va="center", fontsize=8, color=INK)


def pipeline() -> Figure:
    """From pixels to bytes in the upper row, back in the lower one."""
    figure, axes = sheet(10.2, 4.6)
    top, bottom, step = 33, 7, 20
    names = ("pixels", "analysis\ntransform", "latent in\nquantisation steps", "search for codes\n(Viterbi)", "range\ncoder")
    for number, (name, colour) in enumerate(zip(names, (FLOAT, FLOAT, FLOAT, FLOAT, EXACT), strict=True)):
        box(axes, 2 + step * number, top, name, colour)
        if number:
            arrow(axes, (2 + step * number - 5, top + 3.5), (2 + step * number, top + 3.5))
    back = ("pixels", "filter and\ndetails", "synthesis\ntransform", "latent of\ninteger steps", "range\ndecoder")
    for number, (name, colour) in enumerate(zip(back, (FLOAT, FLOAT, FLOAT, EXACT, EXACT), strict=True)):
        box(axes, 2 + step * number, bottom, name, colour)
        if number:
            arrow(axes, (2 + step * number, bottom + 3.5), (2 + step * number - 5, bottom + 3.5))
    box(axes, 52, 20, "prior: mean and table row\nof each unit, from what\nis already known", EXACT, width=25, height=8)
    arrow(axes, (70, 28), (70, top))
    arrow(axes, (77, 26), (84, top), "")
    arrow(axes, (69.5, bottom + 7), (69.5, 20))
    arrow(axes, (77, 22), (84, bottom + 7))
    box(axes, 85, 20, "file", FILE, width=12, height=8)
    arrow(axes, (91, top), (91, 28))
    arrow(axes, (91, 20), (91, bottom + 7))
    axes.text(2, top + 9.3, "Compressing", fontsize=10, weight="bold", color=INK)
    axes.text(2, bottom + 9.3, "Restoring", fontsize=10, weight="bold", color=INK)
    legend(axes, 2, 1.5)
    return figure


def number_grid(axes: Axes, levels: tuple[Level, ...], x: float, y: float, side: int, cell: float) -> None:
    """The grid of positions with the number of the level in which each is coded."""
    for number, level in enumerate(levels):
        for row, column in zip(*level.mask(side, side).nonzero(), strict=True):
            corner = (x + column * cell, y + (side - 1 - row) * cell)
            axes.add_patch(Rectangle(corner, cell, cell, fc=LEVEL_COLOURS[number if len(levels) > 2 else 2 * number], ec="white", lw=0.8))
            axes.text(
                corner[0] + cell / 2, corner[1] + cell / 2, str(number + 1), ha="center", va="center", fontsize=7.5,
                color="white" if number < 2 and len(levels) > 2 or not number else INK,
            )  # fmt: skip


def coding_order() -> Figure:
    """Channel groups, one after the other, and the levels in a group."""
    figure, axes = sheet(10.2, 4.0)
    groups = LoocConfig().groups
    axes.text(2, 36.5, "Channel groups: from low to high frequencies", fontsize=9.5, weight="bold", color=INK)
    y = 30.0
    for number, channels in enumerate(groups):
        width = 4 + channels / 5
        box(axes, 2, y - 5.6 * number, f"{channels} channels", EXACT, width=max(width, 12), height=4.2)
        axes.text(2 + max(width, 12) + 1.5, y - 5.6 * number + 2.1, "five levels" if not number else "two levels", va="center", fontsize=8, color=INK)
    axes.text(48, 36.5, "First group", fontsize=9.5, weight="bold", color=INK)
    number_grid(axes, PYRAMID, 48, 11, 8, 2.9)
    axes.text(76, 36.5, "Every other group", fontsize=9.5, weight="bold", color=INK)
    number_grid(axes, CHECKERBOARD, 76, 11, 8, 2.9)
    axes.text(
        48, 7.5, "A square is a position, 16 x 16 pixels; its number is the level. All positions of a\n"
        "level are coded at once, each with a mean and a table row that the prior derives\n"
        "from earlier groups and earlier levels.",
        va="top", fontsize=8.5, color=INK, linespacing=1.4,
    )  # fmt: skip
    return figure


def trellis() -> Figure:
    """The states that a path can be in after its first units."""
    figure, axes = sheet(10.2, 4.4)
    steps, left, low, high = 6, 9.0, 5.0, 37.0

    def place(step: int, state: int) -> tuple[float, float]:
        return left + 14.6 * step, high - (high - low) * state / (TRELLIS_STATES - 1)

    states = {0}
    for step in range(steps):
        following = set()
        for state in sorted(states):
            for parity in range(2):
                after = int(NEXT_STATE[state, parity])
                following.add(after)
                axes.plot(*zip(place(step, state), place(step + 1, after), strict=True), color="#2b74b8" if parity else FAINT, lw=0.35 if len(states) > 16 else 0.9, zorder=1)
        states = following
    states = {0}
    for step in range(steps + 1):
        for state in states:
            axes.plot(*place(step, state), "o", ms=3.2 if len(states) <= 32 else 1.9, mfc=INK if state & 1 else "white", mec=INK, mew=0.6, zorder=2)
        axes.text(place(step, 0)[0], low - 2.6, f"unit {step + 1}" if step < steps else "...", ha="center", fontsize=8, color=INK)
        states = {int(after) for state in states for after in NEXT_STATE[state]}
    axes.text(
        left, 40.2, "White states take codevectors from set 0, black ones from set 1. An even code follows the grey line, an odd one the blue line.",
        fontsize=8.5, color=INK,
    )  # fmt: skip
    axes.text(2.5, high, "state 0", va="center", fontsize=8, color=INK)
    axes.text(1.5, low, f"state {TRELLIS_STATES - 1}", va="center", fontsize=8, color=INK)
    return figure


def codebook() -> Figure:
    """The codevectors of both sets of the shipped model, near zero."""
    model = api.load_model()
    size = model.config.codebook_size
    points = model.tables.codevectors / 16
    figure, axes = plt.subplots(figsize=(5.2, 4.6))
    for number, (colour, mark) in enumerate((("#0b3c6f", "o"), ("#d9822b", "x"))):
        part = points[number * size : (number + 1) * size]
        part = part[(abs(part) < 6).all(1)]
        axes.plot(part[:, 0], part[:, 1], mark, ms=3.4, mfc="none" if mark == "o" else colour, mec=colour, mew=0.8, ls="none", label=f"set {number}")
    axes.set(xlim=(-6, 6), ylim=(-6, 6), aspect="equal", xlabel="first channel, quantisation steps", ylabel="second channel")
    axes.legend(loc="upper right", frameon=True, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def training() -> Figure:
    """The stages of training and what each one changes."""
    figure, axes = sheet(10.2, 3.3)
    parts = ("analysis", "prior", "codebook, tables", "synthesis", "details")
    stages = (
        ("continuous", (1, 1, 0, 1, 0), "noise for codes"),
        ("codes", (1, 1, 1, 1, 0), "real codes,\nstraight-through"),
        ("details", (0, 0, 1, 0, 1), "errors of the\nsynthesis"),
        ("synthesis", (0, 0, 0, 1, 0), "files as\nthey are coded"),
    )  # fmt: skip
    for row, part in enumerate(parts):
        axes.text(2, 25.2 - 4.6 * row, part, va="center", fontsize=8.5, color=INK)
    for column, (name, changed, seen) in enumerate(stages):
        x = 24 + 19 * column
        axes.text(x + 7, 29.6, f"stage {name}", ha="center", fontsize=9, weight="bold", color=INK)
        for row, is_trained in enumerate(changed):
            axes.add_patch(Rectangle((x, 23.4 - 4.6 * row), 14, 3.6, fc=FLOAT if is_trained else "#f1f1f1", ec=INK, lw=0.6))
            axes.text(x + 7, 25.2 - 4.6 * row, "trained" if is_trained else "kept", ha="center", va="center", fontsize=8, color=INK if is_trained else FAINT)
        axes.text(x + 7, 2.2, seen, ha="center", va="center", fontsize=8, color=INK)
        if column:
            arrow(axes, (x - 5, 16), (x - 0.4, 16))
    axes.text(2, 2.2, "it learns from", va="center", fontsize=8.5, color=INK)
    return figure


DRAWINGS = {"pipeline": pipeline, "coding-order": coding_order, "trellis": trellis, "codebook": codebook, "training": training}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/drawings"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    # The same drawing gives the same bytes; text stays text.
    plt.rcParams.update({"svg.hashsalt": "looc", "svg.fonttype": "none", "font.family": "sans-serif"})
    for name, draw in DRAWINGS.items():
        figure = draw()
        figure.savefig(arguments.out / f"{name}.svg", facecolor="white", metadata={"Date": None, "Creator": None})
        plt.close(figure)
        print(arguments.out / f"{name}.svg")


if __name__ == "__main__":
    main()
