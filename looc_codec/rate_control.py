"""Rate control: the file of a wanted size, rate or PSNR, found by coding the picture a few times.

The quality is bisected first (with interpolated guesses, since the logarithm of the size and the PSNR are nearly linear
in it). Neighbouring qualities are 3-4% apart in size, so the rest is filled by the encoder's Lagrangian: a smaller one
picks nearer, dearer codevectors at the same quality. Decoders know nothing of it, the files are ordinary ones.

    trial = compress_to_size(picture, 50_000)
    trial.data, trial.quality
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from looc_codec import codec, images, progress
from looc_codec.config import QUALITY_MAX, QUALITY_MIN
from looc_codec.format.container import Colour, Container, pack
from looc_codec.errors import ImageError
from looc_codec.images import Picture
from looc_codec.metrics import bits_per_pixel, psnr_db
from looc_codec.model import LoocModel

SIZE_TOLERANCE = 0.01
"""Share of a target size that may stay unused before the search goes on; half of the 2% that is promised."""
PSNR_TOLERANCE_DB = 0.05
"""A quarter of what neighbouring qualities differ by."""

# Refining from the quality below with a smaller Lagrangian costs nothing: on four pictures at three qualities 0.7 times
# the usual one gave 3-13% more bytes at 0.04 dB above the curve of plain qualities, half of it 5-24% more at -0.06 to
# +0.1 dB. Larger ones from the quality above lay below the curve, 0.05 dB at 1.2 times, 0.26 dB at twice.
_MAX_HALVINGS = 1.0
_MAX_REFINEMENTS = 8
# From here on halving replaces interpolation, which could creep on a picture whose sizes are far from the usual curve.
_MAX_GUESSES = 6
# A flat picture can come back exactly, at infinite PSNR, with which one cannot interpolate.
_PSNR_CEILING_DB = 1000.0


@dataclass(frozen=True)
class Trial:
    """One coding of a picture: the bytes of the whole .looc file and what they came from.

    `psnr_db` is that of the decoded RGB samples, transparent ones included; None where the search did not need it.
    `notice` is a sentence for a person when the target lies beyond the end of the quality scale.
    """

    data: bytes
    quality: int
    lagrangian: float
    psnr_db: float | None = None
    notice: str | None = None


def compress_to_size(picture: Picture, target_bytes: int, *, model: LoocModel | str | Path | None = None, effort: int = 0) -> Trial:
    """The .looc file, header and metadata included, of at most `target_bytes` and close to it.

    Never larger; smaller by at most 2% where the codes' granularity allows (a file of some hundred bytes has few
    sizes to choose from). When even quality 100 takes less, that file is the result, with a notice. Costs 2 to 8
    encodings of a photo. Raises ImageError when quality 1 gives a larger file, ModelError when there is no such model.
    """
    _require_positive(target_bytes, "size", "bytes")
    return _compress_to_size(picture, math.floor(target_bytes), model, effort, f"{math.floor(target_bytes)} bytes")


def compress_to_bpp(picture: Picture, target_bpp: float, *, model: LoocModel | str | Path | None = None, effort: int = 0) -> Trial:
    """The .looc file of at most `target_bpp` bits per pixel, header and metadata included; see `compress_to_size`."""
    _require_positive(target_bpp, "rate", "bits per pixel")
    target_bytes = math.floor(target_bpp * picture.width * picture.height / 8)
    return _compress_to_size(picture, target_bytes, model, effort, f"{target_bpp:g} bpp ({target_bytes} bytes)")


def compress_to_psnr(picture: Picture, target_db: float, *, model: LoocModel | str | Path | None = None, effort: int = 0) -> Trial:
    """The smallest .looc file found whose decoded picture has at least `target_db` dB PSNR, most often within 0.05 dB.

    When quality 1 gives more already, that file is the result, with a notice. Costs 2 to 8 encodings of a photo, each
    with the synthesis of the decoder. Raises ImageError when quality 100 gives less, ModelError when there is no such
    model.
    """
    _require_positive(target_db, "PSNR", "dB")
    code = _Coder(picture, model, effort, measure_psnr=True)
    goal = _Goal(
        value=lambda trial: min(trial.psnr_db, _PSNR_CEILING_DB),
        low=target_db,
        high=target_db + PSNR_TOLERANCE_DB,
        per_quality=0.15,
        per_halving=0.7,
    )
    below, above = _search(code, goal)
    if above is None:
        raise ImageError(
            f"a PSNR of {target_db:g} dB cannot be reached: quality {below.quality}, the best, gives {below.psnr_db:.2f} dB"
            f" at {_size_text(below, picture)}"
        )
    if below is None:
        return replace(above, notice=f"even quality {above.quality} gives {above.psnr_db:.2f} dB, more than the {target_db:g} dB asked for")
    return min((trial for trial in code.trials if trial.psnr_db >= target_db), key=lambda trial: len(trial.data))


def _compress_to_size(picture: Picture, target_bytes: int, model: LoocModel | str | Path | None, effort: int, target: str) -> Trial:
    code = _Coder(picture, model, effort)
    high = math.log(max(1, target_bytes))
    goal = _Goal(
        value=lambda trial: math.log(len(trial.data)),
        low=high + math.log1p(-SIZE_TOLERANCE),
        high=high,
        per_quality=0.035,
        per_halving=0.2,
    )
    below, above = _search(code, goal)
    if below is None:
        extra = sum(len(chunk.data) for chunk in code.chunks)
        metadata = f", {extra} bytes of it metadata and transparency" if extra else ""
        raise ImageError(
            f"a target of {target} cannot be reached: quality {above.quality}, the smallest file, takes"
            f" {_size_text(above, picture)}{metadata}"
        )
    if above is None:
        return replace(below, notice=f"even quality {below.quality} takes only {_size_text(below, picture)}, less than the {target} allowed")
    return max((trial for trial in code.trials if len(trial.data) <= target_bytes), key=lambda trial: len(trial.data))


def _size_text(trial: Trial, picture: Picture) -> str:
    return f"{len(trial.data)} bytes ({bits_per_pixel(len(trial.data), picture.width, picture.height):.4g} bpp)"


def _require_positive(target: float, what: str, unit: str) -> None:
    if not math.isfinite(target) or target <= 0:
        raise ImageError(f"a target {what} of {target} {unit} makes no sense; give a number above 0")


class _Coder:
    """Codes one picture again and again; what does not depend on the knobs is done once.

    `trials` are all codings so far. The latent depends on the quality but not on the Lagrangian, so that of the last
    quality is kept (3 bytes per pixel); analysis is a third of an encoding.
    """

    def __init__(self, picture: Picture, model: LoocModel | str | Path | None, effort: int = 0, *, measure_psnr: bool = False) -> None:
        if not isinstance(model, LoocModel):
            model = codec.load_model(codec.DEFAULT_MODEL if model is None else model)
        codec.require_effort(effort)
        self.picture, self.model, self.effort, self.measure_psnr = picture, model, effort, measure_psnr
        self.chunks, self.colour = images.chunks_of_picture(picture), images.colour_of_picture(picture)
        self.trials: list[Trial] = []
        self._latent: tuple[int, Tensor] | None = None

    def __call__(self, quality: int, halvings: float = 0.0) -> Trial:
        """The picture at `quality` with 2^-halvings times the usual Lagrangian."""
        picture, model, lagrangian = self.picture, self.model, codec.ENCODER_LAMBDA * 2.0**-halvings
        grey, coded_share = self.colour != Colour.RGB, 0.6 if self.measure_psnr else 1.0
        # How many trials there will be is not known: each takes a quarter of what is left of the bar.
        with progress.part(*(1 - 0.75 ** (len(self.trials) + more) for more in (0, 1))):
            if self._latent is None or self._latent[0] != quality:
                with progress.part(0, coded_share / 3):
                    self._latent = (quality, codec.analyse(picture.rgb, quality, model))
            with progress.part(coded_share / 3, coded_share):
                coded = codec.encode_picture(
                    self._latent[1], picture.rgb, quality, model, lagrangian=lagrangian, effort=self.effort, grey=grey
                )
            psnr = None
            if self.measure_psnr:
                with progress.part(coded_share, 1):
                    rgb = codec.synthesise(coded.latent_hat, picture.rgb.shape[:2], quality, model, details=coded.details, wiener=coded.wiener, grey=grey)
                    psnr = psnr_db(picture.rgb, rgb)
        data = pack(Container(picture.width, picture.height, quality, model.fingerprint, coded.segments, coded.checksum, self.chunks, self.colour, coded.filter))
        self.trials.append(Trial(data, quality, lagrangian, psnr))
        return self.trials[-1]


@dataclass(frozen=True)
class _Goal:
    """Trials whose `value` lies in low..high are good. `per_quality` and `per_halving` are the usual change of the value
    with the quality and with each halving of the Lagrangian; they only make first guesses better."""

    value: Callable[[Trial], float]
    low: float
    high: float
    per_quality: float
    per_halving: float

    @property
    def aim(self) -> float:
        return (self.low + self.high) / 2

    def met_by(self, trial: Trial) -> bool:
        return self.low <= self.value(trial) <= self.high


def _search(code: _Coder, goal: _Goal) -> tuple[Trial | None, Trial | None]:
    """The trials of neighbouring qualities below and above the goal; None where no quality lies on that side.

    When a trial met the goal it is given twice. All codings, the refined ones too, are in `code.trials`.
    """
    below: Trial | None = None
    above: Trial | None = None
    first, last = QUALITY_MIN, QUALITY_MAX
    quality = codec.DEFAULT_QUALITY
    while first <= last:
        trial = code(quality)
        if goal.met_by(trial):
            return trial, trial
        if goal.value(trial) < goal.low:
            below, first = trial, quality + 1
        else:
            above, last = trial, quality - 1
        quality = min(max(_next_quality(code, goal, below, above, first, last), first), last)
    # Nothing is refined beyond the ends of the quality scale: what to do there is the caller's to decide.
    if below is not None and above is not None:
        _refine(code, goal, below)
    return below, above


def _next_quality(code: _Coder, goal: _Goal, below: Trial | None, above: Trial | None, first: int, last: int) -> int:
    if len(code.trials) >= _MAX_GUESSES:
        return (first + last) // 2
    if below is not None and above is not None:
        low, high = goal.value(below), goal.value(above)
        return round(below.quality + (above.quality - below.quality) * (goal.aim - low) / (high - low))
    known = below or above
    steps = (goal.aim - goal.value(known)) / goal.per_quality
    return round(known.quality + float(np.clip(steps, -QUALITY_MAX, QUALITY_MAX)))


def _refine(code: _Coder, goal: _Goal, below: Trial) -> None:
    """Codes the quality just below the goal with smaller Lagrangians until a trial meets the goal or none can."""
    near, near_value = 0.0, goal.value(below)
    far: float | None = None
    far_value = 0.0
    slope = goal.per_halving
    halvings = (goal.aim - near_value) / slope
    for _ in range(_MAX_REFINEMENTS):
        halvings = min(max(halvings, 0.01), _MAX_HALVINGS)
        trial = code(below.quality, halvings)
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
