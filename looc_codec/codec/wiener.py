"""Fits the picture's own filter (format/filter.py) and applies it."""

from __future__ import annotations

import functools
import math

import numpy as np

from looc_codec.codec.engine import Engine
from looc_codec.codec.tiles import Margins
from looc_codec.config import COLOUR_AXES
from looc_codec.format.filter import (
    AXES, AXIS_TAPS, CONSTANT, EXPONENTS, FEATURES, GREY_CENTRE, REACH, STEPS_LOG2, TAP_LIMIT, WINDOW, Wiener, golomb_number,
)  # fmt: skip

STRIP_ROWS = 32
"""Rows whose features are made at a time: those of 32 rows of 768 pixels stay in a core's caches."""
_FIRST_EXPONENT = 6
_SIDE_BITS = 16
"""What announcing a filter costs: its length and, in most files, the flags."""


def apply_filter(engine: Engine, wiener: Wiener, pixels: np.ndarray, context: Margins) -> np.ndarray:
    """Decoded pixels `(3, H, W)` float32 of 0..255 with so many pixels of context → filtered ones without the context.

    A side has at least two pixels of context, or none where the picture ends: there its last pixels are repeated.
    """
    weight, bias = wiener.kernel
    framed = framed_pixels(pixels, context)[None]
    shape = (1, 3, framed.shape[2] - 2 * REACH, framed.shape[3] - 2 * REACH)
    (filtered,) = engine.run("filter", shape, pixels=framed, weight=weight, bias=bias)
    return filtered[0]


def framed_pixels(pixels: np.ndarray, context: Margins) -> np.ndarray:
    """`(C, H, W)` with its context → with a frame of exactly two pixels, repeated where there is no context."""
    inner = Margins(*(max(0, side - REACH) for side in context.sides)).cut_off(pixels)
    top, bottom, left, right = (0 if side else REACH for side in context.sides)
    return np.pad(inner, ((0, 0), (top, bottom), (left, right)), mode="edge")


def features_of(values: np.ndarray) -> np.ndarray:
    """The 28 features of each pixel: values along the axes `(3, h + 4, w + 4)` float32 → `(28, h * w)`. As sums of shifted rows
    and columns, which take a fifth of the time of a convolution."""
    height, width = values.shape[1] - 2 * REACH, values.shape[2] - 2 * REACH
    features = np.ones((CONSTANT + 1, height, width), np.float32)
    maps = features[:CONSTANT].reshape(AXES, len(WINDOW), height, width)
    # Along the rows first: the pixel itself, and the sums of the two that are one and two columns away.
    columns = [values[:, :, REACH:-REACH]] + [values[:, :, REACH - far : REACH - far + width] + values[:, :, REACH + far : REACH + far + width] for far in (1, 2)]
    own = columns[0][:, REACH:-REACH]
    for index, (rows, across) in enumerate(WINDOW):
        source, target = columns[across], maps[:, index]
        if rows == 0:
            target[...] = source[:, REACH:-REACH]
        else:
            np.add(source[:, REACH - rows : REACH - rows + height], source[:, REACH + rows : REACH + rows + height], out=target)
        if index:
            target -= np.float32((1 + (rows > 0)) * (1 + (across > 0))) * own
    return features.reshape(CONSTANT + 1, -1)


class Statistics:
    """Sums over pixels from which filters are fitted: of products of the 28 features with each other and with the errors of the three axes."""

    def __init__(self, grey: bool = False) -> None:
        self.grey, self.pixels = grey, 0
        self.products, self.errors = np.zeros((CONSTANT + 1, CONSTANT + 1)), np.zeros((CONSTANT + 1, AXES))

    def add(self, decoded: np.ndarray, context: Margins, original: np.ndarray) -> None:
        """Takes in decoded pixels `(3, H, W)` float32, with context as in `apply_filter`, and the original ones `(3, h, w)` without.

        These may end before the decoded ones, as a picture does that is no multiple of 16 high or wide.
        """
        axes = np.array(COLOUR_AXES, np.float32)
        height, width = original.shape[1:]
        framed = framed_pixels(decoded, context)[:, : height + 2 * REACH, : width + 2 * REACH]
        for top in range(0, height, STRIP_ROWS):
            bottom = min(top + STRIP_ROWS, height)
            strip = framed[:, top : bottom + 2 * REACH]
            # What is beyond 0 and 255 is cut off after the filter, so there is nothing to mend.
            missed = original[:, top:bottom] - np.clip(strip[:, REACH:-REACH, REACH:-REACH], 0, 255)
            error = axes @ missed.reshape(AXES, -1)
            features = features_of((axes @ (strip - np.float32(GREY_CENTRE)).reshape(AXES, -1)).reshape(strip.shape))
            self.products += features @ features.T
            self.errors += features @ error.T
        self.pixels += height * width

    def fit(self, bits_per_error: float) -> tuple[Wiener | None, float]:
        """The filter that saves the most, and by how much it lowers the sum of squared errors over the pixels taken in; None and 0 where none pays.

        `bits_per_error` is what one unit of squared error, summed over channels, is worth in bits. Only the first axis where the picture is grey.
        """

        @functools.cache
        def trial(exponent: int) -> tuple[float, list[int], float]:
            taps, bits, gain = self._taps_at(exponent, bits_per_error)
            return bits + _SIDE_BITS - bits_per_error * gain, taps, gain

        # Downhill from the usual exponent: the larger the picture and the higher the quality, the finer the steps that pay.
        exponent = _FIRST_EXPONENT
        while exponent + 1 < EXPONENTS and trial(exponent + 1)[0] < trial(exponent)[0]:
            exponent += 1
        while 0 < exponent <= _FIRST_EXPONENT and trial(exponent - 1)[0] < trial(exponent)[0]:
            exponent -= 1
        cost, taps, gain = trial(exponent)
        return (Wiener(exponent, tuple(taps)), gain) if cost < 0 and any(taps) else (None, 0.0)

    def _taps_at(self, exponent: int, bits_per_error: float) -> tuple[list[int], int, float]:
        """Taps, their bits and the error that they take off, by coordinate descent on squared error and bits from the rounded least squares."""
        taps, bits, gain = [], 4, 0.0
        for axis in range(AXES):
            chosen = slice(axis * AXIS_TAPS, (axis + 1) * AXIS_TAPS)
            features, steps = list(FEATURES[chosen]), 2.0 ** (np.array(STEPS_LOG2[chosen]) - exponent)
            if self.grey and axis:
                own, taken = [0] * AXIS_TAPS, 0.0
            else:
                products = self.products[np.ix_(features, features)] * np.outer(steps, steps)
                own, taken = _descend(products, self.errors[features, axis] * steps, bits_per_error)
            taps += own
            bits += sum(map(_tap_bits, own))
            gain += taken
        return taps, bits, gain


def _tap_bits(tap: int) -> int:
    return 2 * golomb_number(tap).bit_length() - 1


def _descend(products: np.ndarray, errors: np.ndarray, bits_per_error: float, sweeps: int = 8) -> tuple[list[int], float]:
    """Whole numbers x that nearly minimise bits_per_error (x' P x - 2 x' e) + bits(x), and 2 x' e - x' P x."""
    count, diagonal = len(errors), np.diag(products)
    ridge = np.diag(diagonal * 1e-6 + 1e-9)
    start = np.linalg.solve(products + ridge, errors)
    taps = [int(tap) for tap in np.clip(np.rint(start), -TAP_LIMIT, TAP_LIMIT)]
    slope = products @ np.array(taps, float) - errors
    for _ in range(sweeps):
        changed = False
        for index in range(count):
            old, curve = taps[index], max(float(diagonal[index]), 1e-9)
            target = min(max(old - float(slope[index]) / curve, -TAP_LIMIT), TAP_LIMIT)
            candidates = {math.floor(target), math.ceil(target), 0, old}
            new = min(candidates, key=lambda tap: bits_per_error * ((tap - old) ** 2 * curve + 2 * (tap - old) * float(slope[index])) + _tap_bits(tap))
            if new != old:
                slope += products[:, index] * (new - old)
                taps[index], changed = new, True
        if not changed:
            break
    x = np.array(taps, float)
    return taps, float(2 * x @ errors - x @ products @ x)
