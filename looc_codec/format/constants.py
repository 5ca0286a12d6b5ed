"""The numbers that decide how the codes of a file are read, each declared here and nowhere else.

`digest()` goes into every model's fingerprint: a looc that differed in any of them would not read a file by mistake.
docs/FORMAT.md states the same numbers for people who write another reader.
"""

from __future__ import annotations

import hashlib
import json

from looc_codec.config import TRELLIS_STATES as TRELLIS_STATES

PATCH = 16
"""Pixels per latent position along each axis."""

# --- units of integers ------------------------------------------------------------------------------------------------

LATENT_ONE = 16
"""Integer value of one quantisation step in latents, means, residuals and codevectors."""
LATENT_LIMIT = 32767
"""Largest magnitude of a decoded latent."""
ACTIVATION_ONE = 32
"""Integer value of 1.0 in activations and natural logarithms of scales."""
ACTIVATION_LIMIT = 255
COMPANDED_LIMIT = 127
WEIGHT_LIMIT = 127
NEIGHBOUR_BITS = 7
"""Binary digits after the point of the weights of neighbouring latents."""
MEAN_GAIN_BITS = 1
"""A mean's unit is 1/16 step where an activation's is 1/32."""

# --- rows of tables ---------------------------------------------------------------------------------------------------

TABLE_BITS = 24
"""Frequencies of a row add up to 2^24, the precision of the range coder, so rare codevectors cost peaked rows nothing."""
SCALE_LOG_LOW = -192
"""Sum of two log scales (1/32 each) below which a unit falls into class 0: mean log scale -3.0."""
SCALE_LOG_WIDTH = 9
RATIO_LOG_SPAN = 110
"""Width of all ratio classes together: a ratio class is 110 // ratio_classes wide, and the outer ones are open."""

# --- symbols of a unit ------------------------------------------------------------------------------------------------

ESCAPE_FACTOR = 32
"""What the coarse digit of an escaped unit counts."""
SET_TAPS, PARITY_TAPS = 0b1110100, 0b0010011
"""What an odd state and an odd parity turn over in the next state. Of all 4,032 machines of so many states the one that
saves the most of the cost of codes of 48 training crops; decoders take no longer for more states (docs/EXPERIMENTS.md,
section 20)."""
SETS = 2
PATH_UNITS = 256
"""Longest path. Paths of a step begin at state 0 and do not know of each other, so that a step has only so many codes one
after the other. Each loses some bits at its beginning, where few states can be reached: paths of 64, 128 and 512 units take
1.3, 0.5 and -0.2% more bits than 256."""

# --- coding order -----------------------------------------------------------------------------------------------------

Level = tuple[tuple[tuple[int, int], ...], int, tuple[tuple[int, int], ...], int]
PYRAMID: tuple[Level, ...] = (
    (((0, 0),), 4, (), 1),
    (((2, 2),), 4, ((-2, -2), (-2, 2), (2, -2), (2, 2)), 2),
    (((0, 2), (2, 0)), 4, ((-2, 0), (2, 0), (0, -2), (0, 2)), 2),
    (((1, 1),), 2, ((-1, -1), (-1, 1), (1, -1), (1, 1)), 1),
    (((0, 1), (1, 0)), 2, ((-1, 0), (1, 0), (0, -1), (0, 1)), 1),
)
"""Levels of the first channel group: corners (row, column) of its lattices, their stride, the offsets of the four nearest
known neighbours, and the dilation of the network's 3x3 window, which meets the known positions."""
CHECKERBOARD: tuple[Level, ...] = (
    (((0, 0), (1, 1)), 2, (), 1),
    (((0, 1), (1, 0)), 2, ((-1, 0), (1, 0), (0, -1), (0, 1)), 1),
)
"""Levels of every other group."""
DETAIL_STEP_POSITIONS = 2**14
"""Details are coded in steps of as many whole rows as have no more positions than this, or of one row."""


def all_constants() -> dict[str, object]:
    """Every constant above by name."""
    return {name: value for name, value in globals().items() if name.isupper() and not name.startswith("_")}


def digest() -> bytes:
    """SHA-256 of all constants, 32 bytes."""
    return hashlib.sha256(json.dumps(all_constants(), sort_keys=True).encode()).digest()
