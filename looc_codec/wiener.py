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
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from looc_codec.errors import MalformedError
from looc_codec.transforms import COLOUR_AXES, without_tf32

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
STRIP_ROWS = 32
"""Rows whose features are made at a time: those of 32 rows of 768 pixels stay in a core's caches."""
_MALFORMED = "the .looc file is malformed: its filter is not one that looc writes; get a fresh copy"
_FIRST_EXPONENT = 6
_SIDE_BITS = 16
"""What announcing a filter costs: its length and, in most files, the flags."""


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
    @torch.inference_mode(False)
    def kernel(self) -> tuple[Tensor, Tensor]:
        """The filter on decoded pixels of 0..255: weights `(3, 3, 5, 5)` and biases `(3,)` float32, the picture itself included."""
        side = 2 * REACH + 1
        axes = torch.tensor(COLOUR_AXES, dtype=torch.float64)
        weight, constant = torch.zeros(AXES, AXES, side, side, dtype=torch.float64), torch.zeros(AXES, dtype=torch.float64)
        maps = window_maps()
        for index, (tap, feature, step) in enumerate(zip(self.taps, FEATURES, STEPS_LOG2, strict=True)):
            value = tap * 2.0 ** (step - self.exponent)
            axis = index // AXIS_TAPS
            if feature == CONSTANT:
                constant[axis] += value
            else:
                source, window = divmod(feature, len(WINDOW))
                weight[axis, source] += value * maps[window]
        weight = torch.einsum("co,csyx,si->oiyx", axes, weight, axes)
        weight[range(AXES), range(AXES), REACH, REACH] += 1
        bias = axes.T @ constant + GREY_CENTRE * (1 - weight.sum((1, 2, 3)))
        return weight.float(), bias.float()

    def apply(self, pixels: Tensor, context: tuple[int, int, int, int]) -> Tensor:
        """Decoded pixels `(3, H, W)` float32 of 0..255 with so many pixels of context at top, bottom, left and right → filtered ones without the context.

        A side has at least two pixels of context, or none where the picture ends: there its last pixels are repeated.
        """
        weight, bias = (value.to(pixels.device) for value in self.kernel)
        framed = framed_pixels(pixels, context)[None]
        weight = weight.contiguous(memory_format=torch.channels_last)
        with without_tf32():
            return F.conv2d(framed.contiguous(memory_format=torch.channels_last), weight, bias)[0]


def _number(tap: int) -> int:
    """Taps 0, 1, -1, 2, -2, ... as 1, 2, 3, 4, 5, ..."""
    return 2 * tap if tap > 0 else 1 - 2 * tap


def _golomb(tap: int) -> str:
    number = _number(tap)
    return "0" * (number.bit_length() - 1) + f"{number:b}"


def framed_pixels(pixels: Tensor, context: tuple[int, int, int, int]) -> Tensor:
    """`(C, H, W)` with its context → with a frame of exactly two pixels, repeated where there is no context."""
    top, bottom, left, right = context
    _, height, width = pixels.shape
    cut = [max(0, side - REACH) for side in context]
    pixels = pixels[:, cut[0] : height - cut[1], cut[2] : width - cut[3]]
    return F.pad(pixels[None], [0 if side else REACH for side in (left, right, top, bottom)], mode="replicate")[0]


def window_maps() -> Tensor:
    """The windows of the nine features of an axis `(9, 5, 5)` float64."""
    maps = torch.zeros(len(WINDOW), 2 * REACH + 1, 2 * REACH + 1, dtype=torch.float64)
    for index, (rows, columns) in enumerate(WINDOW):
        for row in {-rows, rows}:
            for column in {-columns, columns}:
                maps[index, REACH + row, REACH + column] = 1
        if index:
            maps[index, REACH, REACH] = -maps[index].sum()
    return maps


def features_of(values: Tensor) -> Tensor:
    """The 28 features of each pixel: values along the axes `(3, h + 4, w + 4)` float32 → `(28, h * w)`. As sums of shifted rows and columns, which take
    a fifth of the time of a convolution."""
    height, width = values.shape[1] - 2 * REACH, values.shape[2] - 2 * REACH
    features = values.new_ones(CONSTANT + 1, height, width)
    maps = features[:CONSTANT].view(AXES, len(WINDOW), height, width)
    # Along the rows first: the pixel itself, and the sums of the two that are one and two columns away.
    columns = [values[:, :, REACH:-REACH]] + [values[:, :, REACH - far : REACH - far + width] + values[:, :, REACH + far : REACH + far + width] for far in (1, 2)]
    own = columns[0][:, REACH:-REACH]
    for index, (rows, across) in enumerate(WINDOW):
        source, target = columns[across], maps[:, index]
        if rows == 0:
            target.copy_(source[:, REACH:-REACH])
        else:
            torch.add(source[:, REACH - rows : REACH - rows + height], source[:, REACH + rows : REACH + rows + height], out=target)
        if index:
            target.sub_(own, alpha=(1 + (rows > 0)) * (1 + (across > 0)))
    return features.flatten(1)


class Statistics:
    """Sums over pixels from which filters are fitted: of products of the 28 features with each other and with the errors of the three axes."""

    def __init__(self, grey: bool = False) -> None:
        self.grey, self.pixels = grey, 0
        self.products, self.errors = np.zeros((CONSTANT + 1, CONSTANT + 1)), np.zeros((CONSTANT + 1, AXES))

    def add(self, decoded: Tensor, context: tuple[int, int, int, int], original: Tensor) -> None:
        """Takes in decoded pixels `(3, H, W)` float32, with context as in `Wiener.apply`, and the original ones `(3, h, w)` without.

        These may end before the decoded ones, as a picture does that is no multiple of 16 high or wide.
        """
        axes = torch.tensor(COLOUR_AXES, device=decoded.device)
        height, width = original.shape[1:]
        framed = framed_pixels(decoded, context)[:, : height + 2 * REACH, : width + 2 * REACH]
        for top in range(0, height, STRIP_ROWS):
            bottom = min(top + STRIP_ROWS, height)
            strip = framed[:, top : bottom + 2 * REACH]
            # What is beyond 0 and 255 is cut off after the filter, so there is nothing to mend.
            error = torch.einsum("ci,iyx->cyx", axes, original[:, top:bottom] - strip[:, REACH:-REACH, REACH:-REACH].clamp(0, 255)).flatten(1)
            features = features_of(torch.einsum("ci,iyx->cyx", axes, strip - GREY_CENTRE))
            self.products += (features @ features.T).double().cpu().numpy()
            self.errors += (features @ error.T).double().cpu().numpy()
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
    return 2 * _number(tap).bit_length() - 1


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
