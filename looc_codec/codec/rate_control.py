"""Rate control: the file of a wanted size, rate, PSNR or SSIMULACRA 2, found by coding the picture a few times.

The level is bisected first (with interpolated guesses, since the logarithm of the size and the scores are nearly linear
in it). Neighbouring levels are 3-4% apart in size, so the rest is filled by the encoder's Lagrangian: a smaller one
picks nearer, dearer codevectors at the same level. Decoders know nothing of it, the files are ordinary ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import util

import numpy as np

from looc_codec import progress
from looc_codec.codec.coding import Coding
from looc_codec.codec.encoder import Encoder
from looc_codec.codec.grid import GridCoding
from looc_codec.codec.kinds import AnyModel
from looc_codec.codec.search import ENCODER_LAMBDA
from looc_codec.errors import ImageError, OptionError
from looc_codec.format.container import Chunk, Colour, Container, pack
from looc_codec.metrics import SSIMULACRA2_MIN_SIDE, bits_per_pixel, psnr_db, ssimulacra2
from looc_codec.quality import LEVEL_MAX, LEVEL_MIN, QUALITY_MAX, QUALITY_MIN

FIRST_LEVEL = 50
"""Where the search begins."""
SIZE_TOLERANCE = 0.01
"""Share of a target size that may stay unused before the search goes on; half of the 2% that is promised."""
PSNR_TOLERANCE_DB = 0.05
"""A quarter of what neighbouring levels differ by."""
SSIMULACRA2_TOLERANCE = 0.25
"""The same of its score."""

# Refining from the level below with a smaller Lagrangian costs nothing: on four pictures at three levels 0.7 times
# the usual one gave 3-13% more bytes at 0.04 dB above the curve of plain levels, half of it 5-24% more at -0.06 to
# +0.1 dB. Larger ones from the level above lay below the curve, 0.05 dB at 1.2 times, 0.26 dB at twice.
_MAX_HALVINGS = 1.0
_MAX_REFINEMENTS = 8
# From here on halving replaces interpolation, which could creep on a picture whose sizes are far from the usual curve.
_MAX_GUESSES = 6
# A flat picture can come back exactly, at infinite PSNR, with which one cannot interpolate.
_SCORE_CEILING = 1000.0


@dataclass(frozen=True)
class Target:
    """What a file is to have: `kind` is "size" (bytes), "bpp" (bits per pixel), both of the whole file and never
    exceeded, "psnr" (dB) or "ssimulacra2" (its score), both of the decoded RGB samples, transparent ones included."""

    kind: str
    value: float


@dataclass(frozen=True)
class _Score:
    """A measure of the decoded picture that a search can aim at: how to compute it of two `(H, W, 3)` uint8 pictures,
    the original first, how to write it, what may be left over, and its usual change with the level and with each
    halving of the Lagrangian."""

    article: str
    name: str
    unit: str
    compute: Callable[[np.ndarray, np.ndarray], float]
    tolerance: float
    per_level: float
    per_halving: float

    def text(self, value: float) -> str:
        return f"{value:.2f}{self.unit}"


SCORES = {
    "psnr": _Score("a", "PSNR", " dB", psnr_db, PSNR_TOLERANCE_DB, 0.15, 0.7),
    "ssimulacra2": _Score("an", "SSIMULACRA 2", "", ssimulacra2, SSIMULACRA2_TOLERANCE, 0.8, 3.0),
}
"""Scores by the kind of their target."""


@dataclass(frozen=True)
class Trial:
    """One coding of a picture: the bytes of the whole .looc file and what they came from.

    `score` is that of a target of PSNR or SSIMULACRA 2, else None. `notice` is a sentence for a person when the target
    lies beyond the end of the scale.
    """

    data: bytes
    coding: Coding | GridCoding
    lagrangian: float = ENCODER_LAMBDA
    score: float | None = None
    notice: str | None = None

    @property
    def level(self) -> int:
        return self.coding.level


def packed(model: AnyModel, coding: Coding | GridCoding, size: tuple[int, int], chunks: tuple[Chunk, ...], colour: Colour) -> bytes:
    """The .looc file of a coding of a picture of `size` (H, W)."""
    return pack(Container(size[1], size[0], coding.level, model.fingerprint, coding.segments, coding.checksum, chunks, colour, coding.filter))


def compress_to_target(encoder: Encoder, rgb: np.ndarray, target: Target, chunks: tuple[Chunk, ...], colour: Colour) -> Trial:
    """The .looc file of the pixels `(H, W, 3)` uint8 that meets a target, with these chunks.

    Of a size or rate: at most as large, and smaller by at most 2% where the codes' granularity allows (a file of some hundred
    bytes has few sizes to choose from). Of a PSNR or SSIMULACRA 2: the smallest file found whose picture has at least as
    much, most often within 0.05 dB or a quarter of a point. Where the end of the scale does better than that, its file is
    the result, with a notice. Costs 2 to 8 encodings of a photo. Raises ImageError for a target that makes no sense or
    cannot be reached, OptionError where the package of its measure is missing.
    """
    score = SCORES.get(target.kind)
    if score is not None:
        _require_positive(target.value, score.name, score.unit)
        if target.kind == "ssimulacra2":
            _require_ssimulacra2(rgb)
        return _compress_to_score(_Coder(encoder, rgb, chunks, colour, score), score, target.value)
    _require_positive(target.value, *{"size": ("size", " bytes"), "bpp": ("rate", " bits per pixel")}[target.kind])
    pixels = rgb.shape[0] * rgb.shape[1]
    target_bytes = math.floor(target.value if target.kind == "size" else target.value * pixels / 8)
    text = f"{target_bytes} bytes" if target.kind == "size" else f"{target.value:g} bpp ({target_bytes} bytes)"
    return _compress_to_size(_Coder(encoder, rgb, chunks, colour), target_bytes, text)


def _require_ssimulacra2(rgb: np.ndarray) -> None:
    if util.find_spec("ssimulacra2") is None:
        raise OptionError(
            "a target of SSIMULACRA 2 needs the package ssimulacra2, which is not installed; pip install ssimulacra2"
        )
    if min(rgb.shape[:2]) < SSIMULACRA2_MIN_SIDE:
        raise ImageError(f"SSIMULACRA 2 needs both sides of {SSIMULACRA2_MIN_SIDE} pixels or more; give a quality")


def _compress_to_score(code: _Coder, score: _Score, target: float) -> Trial:
    goal = _Goal(
        value=lambda trial: min(trial.score, _SCORE_CEILING), low=target, high=target + score.tolerance,
        per_level=score.per_level, per_halving=score.per_halving,
    )  # fmt: skip
    first = FIRST_LEVEL
    if score is SCORES["ssimulacra2"]:
        # What the model's table gives is right for photographs on average.
        first = code.encoder.model.quality_scale.level(min(max(round(target), QUALITY_MIN), QUALITY_MAX))
    below, above = _search(code, goal, first)
    wanted = f"{target:g}{score.unit}"
    if above is None:
        raise ImageError(
            f"{score.article} {score.name} of {wanted} cannot be reached: quality {LEVEL_MAX}, the best, gives"
            f" {score.text(below.score)} at {_size_text(below, code.rgb)}"
        )
    if below is None:
        notice = f"even quality {LEVEL_MIN} gives {score.text(above.score)}, more than the {wanted} asked for"
        return replace(above, notice=notice)
    return min((trial for trial in code.trials if trial.score >= target), key=lambda trial: len(trial.data))


def _compress_to_size(code: _Coder, target_bytes: int, target: str) -> Trial:
    high = math.log(max(1, target_bytes))
    low = high + math.log1p(-SIZE_TOLERANCE)
    goal = _Goal(lambda trial: math.log(len(trial.data)), low, high, per_level=0.035, per_halving=0.2)
    below, above = _search(code, goal)
    if below is None:
        extra = sum(len(chunk.data) for chunk in code.chunks)
        metadata = f", {extra} bytes of it metadata and transparency" if extra else ""
        raise ImageError(
            f"a target of {target} cannot be reached: quality {LEVEL_MIN}, the smallest file, takes"
            f" {_size_text(above, code.rgb)}{metadata}"
        )
    if above is None:
        notice = f"even quality {LEVEL_MAX} takes only {_size_text(below, code.rgb)}, less than the {target} allowed"
        return replace(below, notice=notice)
    return max((trial for trial in code.trials if len(trial.data) <= target_bytes), key=lambda trial: len(trial.data))


def _size_text(trial: Trial, rgb: np.ndarray) -> str:
    return f"{len(trial.data)} bytes ({bits_per_pixel(len(trial.data), rgb.shape[1], rgb.shape[0]):.4g} bpp)"


def _require_positive(target: float, what: str, unit: str) -> None:
    if not math.isfinite(target) or target <= 0:
        raise ImageError(f"a target {what} of {target}{unit} makes no sense; give a number above 0")


class _Coder:
    """Codes one picture again and again; what does not depend on the knobs is done once.

    `trials` are all codings so far, with their `score` if one is given. The latent depends on the level but not on the
    Lagrangian, so that of the last level is kept (6 bytes per pixel); analysis is a third of an encoding.
    """

    def __init__(
        self, encoder: Encoder, rgb: np.ndarray, chunks: tuple[Chunk, ...], colour: Colour, score: _Score | None = None
    ) -> None:
        self.encoder, self.rgb, self.chunks, self.colour, self.score = encoder, rgb, chunks, colour, score
        self.trials: list[Trial] = []
        self._latent: tuple[int, np.ndarray] | None = None

    def __call__(self, level: int, halvings: float = 0.0) -> Trial:
        """The picture at `level` with 2^-halvings times the usual Lagrangian."""
        encoder, rgb, lagrangian = self.encoder, self.rgb, ENCODER_LAMBDA * 2.0**-halvings
        coded_share = 0.6 if self.score is not None else 1.0
        # How many trials there will be is not known: each takes a quarter of what is left of the bar.
        with progress.part(*(1 - 0.75 ** (len(self.trials) + more) for more in (0, 1))):
            if self._latent is None or self._latent[0] != level:
                with progress.part(0, coded_share / 3):
                    self._latent = (level, encoder.transforms.analyse(rgb, level))
            with progress.part(coded_share / 3, coded_share):
                coding = encoder.encode_analysed(self._latent[1], rgb, level, lagrangian=lagrangian, grey=self.colour != Colour.RGB)
            score = None
            if self.score is not None:
                with progress.part(coded_share, 1):
                    decoded = encoder.transforms.synthesise(
                        coding.latent, rgb.shape[:2], level, details=coding.details, wiener=coding.wiener, grey=coding.grey
                    )
                    score = self.score.compute(rgb, decoded)
        data = packed(encoder.model, coding, rgb.shape[:2], self.chunks, self.colour)
        self.trials.append(Trial(data, coding, lagrangian, score))
        return self.trials[-1]


@dataclass(frozen=True)
class _Goal:
    """Trials whose `value` lies in low..high are good. `per_level` and `per_halving` are the usual change of the value
    with the level and with each halving of the Lagrangian; they only make first guesses better."""

    value: Callable[[Trial], float]
    low: float
    high: float
    per_level: float
    per_halving: float

    @property
    def aim(self) -> float:
        return (self.low + self.high) / 2

    def met_by(self, trial: Trial) -> bool:
        return self.low <= self.value(trial) <= self.high


def _search(code: _Coder, goal: _Goal, level: int = FIRST_LEVEL) -> tuple[Trial | None, Trial | None]:
    """The trials of neighbouring levels below and above the goal; None where no level lies on that side.

    The search begins at `level`. When a trial met the goal it is given twice. All codings, the refined ones too, are in
    `code.trials`.
    """
    below: Trial | None = None
    above: Trial | None = None
    first, last = LEVEL_MIN, LEVEL_MAX
    while first <= last:
        trial = code(level)
        if goal.met_by(trial):
            return trial, trial
        if goal.value(trial) < goal.low:
            below, first = trial, level + 1
        else:
            above, last = trial, level - 1
        level = min(max(_next_level(code, goal, below, above, first, last), first), last)
    # Nothing is refined beyond the ends of the scale: what to do there is the caller's to decide.
    if below is not None and above is not None:
        _refine(code, goal, below)
    return below, above


def _next_level(code: _Coder, goal: _Goal, below: Trial | None, above: Trial | None, first: int, last: int) -> int:
    if len(code.trials) >= _MAX_GUESSES:
        return (first + last) // 2
    if below is not None and above is not None:
        low, high = goal.value(below), goal.value(above)
        return round(below.level + (above.level - below.level) * (goal.aim - low) / (high - low))
    known = below or above
    steps = (goal.aim - goal.value(known)) / goal.per_level
    return round(known.level + float(np.clip(steps, -LEVEL_MAX, LEVEL_MAX)))


def _refine(code: _Coder, goal: _Goal, below: Trial) -> None:
    """Codes the level just below the goal with smaller Lagrangians until a trial meets the goal or none can."""
    near, near_value = 0.0, goal.value(below)
    far: float | None = None
    far_value = 0.0
    slope = goal.per_halving
    halvings = (goal.aim - near_value) / slope
    for _ in range(_MAX_REFINEMENTS):
        halvings = min(max(halvings, 0.01), _MAX_HALVINGS)
        trial = code(below.level, halvings)
        value = goal.value(trial)
        if goal.met_by(trial):
            return
        if value < goal.low:
            if halvings >= _MAX_HALVINGS:
                return
            # No less than a quarter of the usual slope, or a flat stretch would send the next guess to the limit.
            slope = max((value - near_value) / (halvings - near), goal.per_halving / 4)
            near, near_value = halvings, value
        else:
            far, far_value = halvings, value
        if far is None:
            halvings = near + (goal.aim - near_value) / slope
        elif near_value < far_value:
            share = (goal.aim - near_value) / (far_value - near_value)
            # Off the ends, where the curve is not straight and a guess could stay for ever.
            halvings = near + (far - near) * min(max(share, 0.1), 0.9)
        else:
            halvings = (near + far) / 2
