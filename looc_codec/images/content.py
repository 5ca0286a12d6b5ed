"""Whether a picture is drawn (text, diagrams, screenshots, pixel art) rather than photographed, which a codec for photographs is bad at.

Only pixels are looked at, and of large pictures only some rows, so it takes some milliseconds whatever the size. Three things tell
drawings from photographs: neighbouring pixels are equal to the last bit right beside strong contrast, where a photograph has noise
and blur; runs of equal pixels end with a jump, where those of a photograph, which is clipped at white or black, end gradually;
and colours come back, where each pixel of a photograph has one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CELL = 16
"""Rows and columns of a cell; strips of so many rows are looked at."""
SAMPLED_PIXELS = 250_000
"""Pixels that are looked at, in strips spread over the picture."""
LEAST_PIXELS = 4096
"""Smaller pictures are taken as they are: an icon says too little."""
CONTRAST_LEVELS = 40
"""Range of the levels in a cell from which it shows something, of 255."""
RUN_PIXELS = 4
"""Equal pixels side by side that make a run."""
JUMP_LEVELS = 32
"""Step from one pixel to the next that is a jump."""
EQUAL_SHARE = 0.4
"""Share of neighbouring pixels of a drawn cell that are equal."""
_WHITE, _BLACK = 0x00FFFFFF, 0
_SPARSE_PIXELS = 10_000

DRAWN_ALONE, DRAWN_PART = 0.85, 0.3
"""Share of drawn cells from which a picture is a drawing, and from which a part of it may be one."""
JUMPS_PART, JUMPS_ALONE = 0.08, 0.25
SPREAD_MOST, SPREAD_EXACT = 0.13, 0.05
"""Photographs with clipped whites spread more, those in JPEG 10 jump less. Counts: docs/WHAT_PEOPLE_MEET_CLI.md."""
FEW_COLOURS, FEW_GREYS = 64, 16
TONES = 256
"""Colours of a picture that is of one hue, whose spread says nothing."""

DRAWN_NOTICE = (
    "it looks like text, a drawing or a screenshot, and looc is made for photographs:"
    " lossless WebP keeps it exact, mostly in fewer bytes"
)
MIXED_NOTICE = (
    "it looks like a screenshot or a smooth drawing, and looc is made for photographs: AVIF shows it better in as many bytes"
)


def content_notice(rgb: np.ndarray) -> str | None:
    """A sentence about what serves pixels `(H, W, 3)` uint8 better, or None for a photograph."""
    signs = signs_of(rgb)
    if signs is None:
        return None
    if signs.colours <= (FEW_GREYS if signs.grey else FEW_COLOURS):
        return DRAWN_NOTICE
    alone, jumpy = signs.drawn >= DRAWN_ALONE, signs.jumps >= JUMPS_ALONE
    part = signs.colours > TONES and signs.drawn >= DRAWN_PART
    if alone and jumpy and signs.spread <= SPREAD_EXACT:
        return DRAWN_NOTICE
    drawn = (alone or part) and signs.jumps >= JUMPS_PART and signs.spread <= SPREAD_MOST
    return MIXED_NOTICE if drawn or alone and jumpy else None


@dataclass(frozen=True)
class Signs:
    """What tells drawings from photographs. `drawn` is the share of cells with contrast in which at least 40% of the neighbouring pixels
    are equal. Of these cells, `jumps` is the share of runs that end with a jump, and `spread` the number of colours for each pixel
    that is neither white nor black. `colours` is the number of colours in a sparse sample of the whole. Where `drawn` is small,
    `jumps` and `spread` are left at 0 and 1."""

    drawn: float
    jumps: float
    spread: float
    colours: int
    grey: bool


def signs_of(rgb: np.ndarray) -> Signs | None:
    """The signs of pixels `(H, W, 3)` uint8 without their even borders; None where there is too little to tell."""
    strips = _strips(_without_borders(rgb))
    if strips is None:
        return None
    count, _, width, _ = strips.shape
    packed = np.zeros((*strips.shape[:3], 4), np.uint8)
    packed[..., :3] = strips
    colours = packed.view(np.dtype("<u4"))[..., 0]
    right, below = colours[:, :, 1:] == colours[:, :, :-1], colours[:, 1:] == colours[:, :-1]
    equal = below.sum(1, dtype=np.uint8)
    equal[:, 1:] += right.sum(1, dtype=np.uint8)
    cells = (count, width // CELL, CELL)
    share = equal.reshape(cells).sum(2) / (CELL * (2 * CELL - 1))
    highest, lowest = (found.reshape(*cells, 3) for found in (strips.max(1), strips.min(1)))
    busy = (highest.max(2) - lowest.min(2)).max(-1) >= CONTRAST_LEVELS
    drawn = busy & (share >= EQUAL_SHARE)
    drawn_share = float(drawn.sum() / max(1, busy.sum()))
    sparse = colours[:, :: (step := max(1, round((colours.size / _SPARSE_PIXELS) ** 0.5))), ::step]
    grey = all(np.array_equal(strips[:, ::step, ::step, 1], strips[:, ::step, ::step, plane]) for plane in (0, 2))
    several = _different(sparse.ravel())
    if drawn_share < DRAWN_PART:
        return Signs(drawn_share, 0.0, 1.0, several, grey)
    steps = _steps_at_ends(strips, right)
    by_cell = colours.reshape(count, CELL, width // CELL, CELL).swapaxes(1, 2)[drawn].ravel()
    inked = by_cell[(by_cell != _WHITE) & (by_cell != _BLACK)]
    jumps = float((steps >= JUMP_LEVELS).mean()) if len(steps) else 0.0
    return Signs(drawn_share, jumps, _different(inked) / max(1, len(inked)), several, grey)


def _different(values: np.ndarray) -> int:
    """How many values there are. `np.unique` loads `numpy.ma` first, which takes longer than all of this."""
    ordered = np.sort(values)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + (len(ordered) > 0)


def _steps_at_ends(strips: np.ndarray, right: np.ndarray) -> np.ndarray:
    """By how many levels the pixels beside the ends of runs differ from the run, in the channel that differs most."""
    length = RUN_PIXELS - 1
    # `run` at x: pixels x to x + length are equal.
    run = right[:, :, : right.shape[2] - length + 1].copy()
    for shift in range(1, length):
        run &= right[:, :, shift : right.shape[2] - length + 1 + shift]
    levels, found = strips.astype(np.int16), []
    strip, row, x = np.nonzero(run[:, :, :-1] & ~right[:, :, length:])
    found.append(levels[strip, row, x + length + 1] - levels[strip, row, x + length])
    strip, row, x = np.nonzero(run[:, :, 1:] & ~right[:, :, :-length])
    found.append(levels[strip, row, x] - levels[strip, row, x + 1])
    return np.abs(np.concatenate(found)).max(1, initial=0)


def _strips(rgb: np.ndarray) -> np.ndarray | None:
    """Strips `(n, CELL, W, 3)` spread over the picture, W a multiple of CELL."""
    rows, width = rgb.shape[0] // CELL, rgb.shape[1] // CELL * CELL
    if rows * CELL * width < LEAST_PIXELS:
        return None
    count = max(1, min(rows, SAMPLED_PIXELS // (CELL * width)))
    tops = [(2 * index + 1) * rows // (2 * count) * CELL for index in range(count)]
    return np.stack([rgb[top : top + CELL, :width] for top in tops])


def _without_borders(rgb: np.ndarray) -> np.ndarray:
    """The picture without rows and columns of one colour at its sides, such as black bars or a white frame."""
    for _ in range(4):
        if not rgb.size:
            break
        # Some of the columns are enough to tell: what is cut off too much is a pixel of margin.
        even = (rgb[:, :: max(1, rgb.shape[1] // 256)] == rgb[:1, :1]).all((1, 2))
        rgb = np.rot90(rgb[len(even) if even.all() else int(even.argmin()) :])
    return rgb
