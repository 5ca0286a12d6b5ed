"""The picture's own Wiener filter: a few numbers, fitted by the encoder and sent with the codes, that bring the decoded picture closer.

The synthesis is trained for all pictures; what is left of its error in one picture is partly linear in the decoded pixels around, in a way that
differs from picture to picture (sharpness, noise, colour). As in video codecs (adaptive loop filter: Tsai et al. 2013; AV1's Wiener filter) the
encoder solves for the filter and sends its taps. In the colour axes of the transforms, each axis gets a 5x5 window over itself and 3x3 windows over
the other two, all symmetric in both directions, and a constant: 54 taps.

    >>> wiener = Wiener(5, (3,) + (0,) * 53)
    >>> Wiener.from_bytes(wiener.to_bytes()) == wiener, len(wiener.to_bytes())
    (True, 2)
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from looc_codec.config import COLOUR_AXES
from looc_codec.errors import MalformedError

REACH = 2
"""Pixels to each side that the filter sees."""
AXES = 3
GREY_CENTRE = 128.0
WINDOW = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (2, 2))
"""Distances (rows, columns) of a tap's pixels; the first is the pixel itself, the first four are within 3x3. Every other tap weighs the differences
of its two or four pixels from the pixel itself."""
NEAR = 4
CONSTANT = AXES * len(WINDOW)
"""Index of the constant among the features."""
STEP_LOG2 = {"luma": -4, "luma difference": -2, "chroma": -2, "chroma difference": -1, "constant": 2}
"""Binary logarithm of a tap's step at exponent 0. From the features' energies on validation pictures, in powers of two: +0.02 points of BD-rate
against steps from the energies themselves; one step for all taps costs 0.08 points."""
EXPONENTS = 16
TAP_LIMIT = 127
_MALFORMED = "the .looc file is malformed: its filter is not one that looc writes; get a fresh copy"


def _taps() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The feature of each tap, axis by axis, and the logarithm of its step: of the axis itself, of the other two, the constant."""
    features, steps = [], []
    for axis in range(AXES):
        for source in (axis, *(other for other in range(AXES) if other != axis)):
            kind = "luma" if source == 0 else "chroma"
            for index in range(len(WINDOW) if source == axis else NEAR):
                features.append(source * len(WINDOW) + index)
                steps.append(STEP_LOG2[kind if index == 0 else f"{kind} difference"])
        features.append(CONSTANT)
        steps.append(STEP_LOG2["constant"])
    return tuple(features), tuple(steps)


FEATURES, STEPS_LOG2 = _taps()
TAPS = len(FEATURES)
AXIS_TAPS = TAPS // AXES


@dataclass(frozen=True)
class Wiener:
    """Taps as whole numbers of -127..127 in units of 2^(step - exponent), axis by axis (see `_taps`)."""

    exponent: int
    taps: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """Four bits of exponent and an exponential Golomb code for each tap (0, 1, -1, 2, -2, ... as 1, 010, 011, 00100, ...), the highest bit first;
        then ones, whose bytes are left out at the end: a one is a tap of 0."""
        bits = f"{self.exponent:04b}" + "".join(_golomb(tap) for tap in self.taps)
        bits += "1" * (-len(bits) % 8)
        data = int(bits, 2).to_bytes(len(bits) // 8, "big").rstrip(b"\xff")
        return data or b"\xff"

    @classmethod
    def from_bytes(cls, data: bytes) -> Wiener:
        """Raises MalformedError for anything that `to_bytes` does not write."""
        longest = 4 + TAPS * (2 * (2 * TAP_LIMIT + 1).bit_length() - 1)
        bits = "".join(f"{byte:08b}" for byte in data) + "1" * longest
        exponent, position, taps = int(bits[:4], 2), 4, []
        for _ in range(TAPS):
            zeros = bits.find("1", position) - position
            if zeros > TAP_LIMIT.bit_length():
                raise MalformedError(_MALFORMED)
            end = position + 2 * zeros + 1
            number = int(bits[position:end], 2)
            taps.append(number // 2 if number % 2 == 0 else -(number // 2))
            position = end
        wiener = cls(exponent, tuple(taps))
        if max(map(abs, taps)) > TAP_LIMIT or not any(taps) or wiener.to_bytes() != data:
            raise MalformedError(_MALFORMED)
        return wiener

    @functools.cached_property
    def kernel(self) -> tuple[np.ndarray, np.ndarray]:
        """The filter on decoded pixels of 0..255: weights `(3, 3, 5, 5)` and biases `(3,)` float32, the picture itself included."""
        side = 2 * REACH + 1
        axes = np.array(COLOUR_AXES)
        weight, constant = np.zeros((AXES, AXES, side, side)), np.zeros(AXES)
        maps = window_maps()
        for index, (tap, feature, step) in enumerate(zip(self.taps, FEATURES, STEPS_LOG2, strict=True)):
            value = tap * 2.0 ** (step - self.exponent)
            axis = index // AXIS_TAPS
            if feature == CONSTANT:
                constant[axis] += value
            else:
                source, window = divmod(feature, len(WINDOW))
                weight[axis, source] += value * maps[window]
        weight = np.einsum("co,csyx,si->oiyx", axes, weight, axes)
        weight[range(AXES), range(AXES), REACH, REACH] += 1
        bias = axes.T @ constant + GREY_CENTRE * (1 - weight.sum((1, 2, 3)))
        return weight.astype(np.float32), bias.astype(np.float32)


def window_maps() -> np.ndarray:
    """The windows of the nine features of an axis `(9, 5, 5)` float64."""
    maps = np.zeros((len(WINDOW), 2 * REACH + 1, 2 * REACH + 1))
    for index, (rows, columns) in enumerate(WINDOW):
        for row in {-rows, rows}:
            for column in {-columns, columns}:
                maps[index, REACH + row, REACH + column] = 1
        if index:
            maps[index, REACH, REACH] = -maps[index].sum()
    return maps


def golomb_number(tap: int) -> int:
    """Taps 0, 1, -1, 2, -2, ... as 1, 2, 3, 4, 5, ..."""
    return 2 * tap if tap > 0 else 1 - 2 * tap


def _golomb(tap: int) -> str:
    number = golomb_number(tap)
    return "0" * (number.bit_length() - 1) + f"{number:b}"
