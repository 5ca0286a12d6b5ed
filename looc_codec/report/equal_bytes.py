"""The same picture from every codec at equal real bytes, and where it looks best and worst.

The rule that keeps this honest: every other codec gets at least as many bytes as looc, never fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from looc_codec import metrics
from looc_codec.report.codecs import effort_of, info_of, only_levels, open_codec
from looc_codec.report.distortion import METRICS
from looc_codec.report.measure import Workers, read_rgb
from looc_codec.report.summary import Summary, lead, picture_gains, strongest_peer

DEFAULT_RATES_BPP = (0.15, 0.3, 0.6, 1.0)
FIRST_BPP = 0.3
"""The rate that a page shows first, or the one nearest to it."""
CROP = 96
"""Side of the crops in pixels."""


@dataclass(frozen=True, eq=False)
class Version:
    """A picture as one codec restores it.

    `rgb` is `(H, W, 3)` uint8, `data_bytes` the size of the real file. `values` are metrics by key, None where the
    picture has none.
    """

    codec: str
    label: str
    quality: int
    data_bytes: int
    psnr_db: float
    rgb: np.ndarray
    values: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Round:
    """One picture at equal bytes, at about `bpp`. `versions[0]` is looc's, or the first codec's without looc.

    `crops` are (words, left, top) of squares with a side of `CROP` pixels.
    """

    bpp: float
    versions: list[Version]
    crops: list[tuple[str, int, int]]


@dataclass(frozen=True, eq=False)
class Contest:
    """One picture at several rates, in their order; `why` says how the picture was chosen."""

    picture: str
    why: str
    original: np.ndarray
    rounds: list[Round]

    @property
    def first_round(self) -> Round:
        """The round that is shown first."""
        return min(self.rounds, key=lambda one: abs(math.log(one.bpp / FIRST_BPP)))


class _Sizes:
    """The files of one codec for one picture by quality, each encoded once. `known` are sizes in bytes measured before."""

    def __init__(self, name: str, model: str, rgb: np.ndarray, known: Mapping[int, int]) -> None:
        self.info, self.codec, self.rgb = info_of(name), open_codec(name, model), rgb
        self.scale = only_levels(name, model) or range(self.info.lowest, self.info.highest + 1)
        self._files: dict[int, bytes] = {}
        self._sizes = {quality: size for quality, size in known.items() if quality in self.scale}

    def file(self, quality: int) -> bytes:
        if quality not in self._files:
            self._files[quality] = self.codec.encode(self.rgb, quality)
            self._sizes[quality] = len(self._files[quality])
        return self._files[quality]

    def size(self, quality: int) -> int:
        """Bytes of the file; it is not made where its size is known."""
        return self._sizes[quality] if quality in self._sizes else len(self.file(quality))

    def near(self, quality: int) -> list[int]:
        return [other for other in self.scale if abs(other - quality) <= 1]

    def covering(self, wanted_bytes: int) -> int:
        """The lowest quality whose file has at least `wanted_bytes`, by the sizes that are looked at; the highest of all
        if none has.

        A search between known sizes, since an encoder can take seconds: it begins where a line through the logarithms of
        two sizes meets the wanted one, then looks beside it, at distances that double. Without two it halves.
        """
        low, high = -1, len(self.scale) - 1
        for place, quality in enumerate(self.scale):
            if quality in self._sizes:
                if self._sizes[quality] >= wanted_bytes:
                    high = place
                    break
                low = place
        below, above = self._sizes.get(self.scale[low], 0) if low >= 0 else 0, self._sizes.get(self.scale[high], 0)
        guess, step = -1, 0
        if 0 < below < wanted_bytes <= above:
            part = math.log(wanted_bytes / below) / math.log(above / below)
            guess, step = min(high - 1, math.ceil(low + part * (high - low))), 1
        while high - low > 1:
            place = guess if low < guess < high else (low + high) // 2
            if self.size(self.scale[place]) >= wanted_bytes:
                high, guess = place, place - step if step else -1
            else:
                low, guess = place, place + step if step else -1
            step *= 2
        return self.scale[high]


def versions_at_equal_bytes(
    rgb: np.ndarray,
    models: Mapping[str, str],
    bpp: float,
    *,
    metric_names: Sequence[str] = (),
    known: Mapping[str, Mapping[int, int]] | None = None,
) -> list[Version]:
    """What every codec makes of a picture at the bytes that the first needs for about `bpp`.

    Some scales are coarse (a step of AVIF can be 15% of the file). Of the first codec's qualities next to the rate, the
    one counts at which the others exceed its bytes least.

    Args:
        rgb: `(H, W, 3)` uint8.
        models: the model of every codec, in the order of the versions; it matters to looc only.
        metric_names: metrics of the versions' values.
        known: sizes in bytes of this picture's files by codec and quality, which need not be made again.
    """
    first, *others = (_Sizes(name, model, rgb, (known or {}).get(name, {})) for name, model in models.items())
    start = first.covering(int(bpp * rgb.shape[0] * rgb.shape[1] / 8))
    # Efforts have the levels of the first, and take minutes.
    coarse = [other for other in others if effort_of(other.info.name) == 0]

    def excess(quality: int) -> float:
        wanted = first.size(quality)
        found = [(other, other.covering(wanted)) for other in coarse]
        # A codec whose smallest file is too large is so at every quality of the first.
        return max((other.size(own) / wanted for other, own in found if own != other.scale[0]), default=1.0)

    chosen, least = start, excess(start)
    for quality in first.near(start):
        if least > _CLOSE and (tried := excess(quality)) < least:
            chosen, least = quality, tried
    versions = []
    for sizes, quality in [(first, chosen), *((other, other.covering(first.size(chosen))) for other in others)]:
        data = sizes.file(quality)
        restored = sizes.codec.decode(data)
        values = {METRICS[name].key: _value(name, rgb, restored) for name in metric_names}
        psnr_db = metrics.psnr_db(rgb, restored)
        versions.append(Version(sizes.info.name, sizes.info.label, quality, len(data), psnr_db, restored, values))
    return versions


_CLOSE = 1.05
"""An excess of bytes up to this is not worth the time of more encodings."""


def _value(name: str, original: np.ndarray, restored: np.ndarray) -> float | None:
    try:
        return METRICS[name].compute(original, restored)
    except ValueError:
        return None


def choose_pictures(summary: Summary, count: int = 3) -> list[tuple[str, str]]:
    """Names of pictures with the reason: where looc does best, worst and in the middle against its strongest peer."""
    peer = strongest_peer(summary)
    first = lead(summary)
    gains = picture_gains(summary, first, peer) if first and peer else {}
    known = sorted((gain.value, name) for name, gain in gains.items() if gain.value is not None)
    if not known or first is None or peer is None:
        return [(name, "") for name in summary.picture_names[:count]]
    label, own = summary.labels[peer], summary.labels[first]
    places = {0: f"the best picture of {own}", len(known) - 1: f"the worst picture of {own}", len(known) // 2: "a picture in the middle"}
    if count == 1:
        places = {len(known) // 2: "a picture in the middle"}
    chosen: dict[str, str] = {}
    for place, words in list(places.items())[:count]:
        rate, name = known[place]
        chosen.setdefault(name, f"{words} against {label}: {rate:+.0f}% bits at equal PSNR")
    return list(chosen.items())


@dataclass(frozen=True)
class RoundTask:
    """One round to be made, as a process gets it. `models` in the order of the versions; `known` as above."""

    picture: str
    path: str
    bpp: float
    models: dict[str, str]
    metric_names: tuple[str, ...]
    known: dict[str, dict[int, int]]
    rival: str | None


def make_round(task: RoundTask) -> tuple[RoundTask, Round]:
    """The versions of a task, with the crops where the first does best and worst against `rival`."""
    rgb = read_rgb(task.path)
    versions = versions_at_equal_bytes(rgb, task.models, task.bpp, metric_names=task.metric_names, known=task.known)
    crops: list[tuple[str, int, int]] = []
    other = next((version for version in versions[1:] if version.codec == task.rival), versions[-1])
    if len(versions) > 1 and min(rgb.shape[:2]) >= CROP:
        first = versions[0]
        difference = _block_errors(rgb, other.rgb) - _block_errors(rgb, first.rgb)
        for words, place in (("best", np.argmax(difference)), ("worst", np.argmin(difference))):
            row, column = np.unravel_index(int(place), difference.shape)
            text = f"where {first.label} does {words} against {other.label}"
            crops.append((text, int(column) * _STRIDE, int(row) * _STRIDE))
    return task, Round(task.bpp, versions, crops)


_STRIDE = CROP // 3


def _block_errors(original: np.ndarray, restored: np.ndarray) -> np.ndarray:
    """Mean squared error of every crop on a grid of `_STRIDE` pixels, `(rows, columns)` float64."""
    error = np.square(original.astype(np.int32) - restored.astype(np.int32)).sum(axis=2, dtype=np.int64)
    total = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    rows = np.arange(0, error.shape[0] - CROP + 1, _STRIDE)[:, None]
    columns = np.arange(0, error.shape[1] - CROP + 1, _STRIDE)[None]
    inside = total[rows + CROP, columns + CROP] - total[rows, columns + CROP] - total[rows + CROP, columns] + total[rows, columns]
    return inside / (3.0 * CROP * CROP)


def window(picture: Contest, width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of at most `width` x `height` pixels around the middle of the crops, to show of a large picture."""
    size_y, size_x = picture.original.shape[:2]
    crops = picture.first_round.crops
    centre_x = int(np.mean([left + CROP / 2 for _, left, _ in crops])) if crops else size_x // 2
    centre_y = int(np.mean([top + CROP / 2 for _, _, top in crops])) if crops else size_y // 2
    left = max(0, min(centre_x - width // 2, size_x - width))
    top = max(0, min(centre_y - height // 2, size_y - height))
    return slice(top, min(size_y, top + height)), slice(left, min(size_x, left + width))


def contests(
    summary: Summary,
    paths: Mapping[str, str],
    models: Mapping[str, str],
    rates_bpp: Sequence[float],
    *,
    workers: Workers,
    wanted: Sequence[str] = (),
    count: int = 3,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Contest]:
    """The contests of a report. `paths` by picture names; `wanted` names pictures instead of choosing. A round whose
    first file is that of another rate, since there is no smaller or larger one, is left out.

    Raises:
        MeasurementError: a process was killed.
    """
    names = sorted(summary.names, key=lambda name: name != lead(summary))
    if not names:
        return []
    chosen = [(name, "") for name in wanted] or choose_pictures(summary, count)
    usable = tuple(name for name in summary.metric_names if METRICS[name].key in summary.curves)
    sizes: dict[str, dict[str, dict[int, int]]] = {picture: {name: {} for name in names} for picture, _ in chosen}
    for point in summary.points:
        if point["picture"] in sizes and point["codec"] in names:
            sizes[point["picture"]][point["codec"]][point["quality"]] = point["bytes"]
    rival = strongest_peer(summary)
    own = {name: models[name] for name in names}
    tasks = [
        RoundTask(picture, paths[picture], bpp, own, usable, sizes[picture], rival)
        for picture, _ in chosen for bpp in sorted(rates_bpp)
    ]  # fmt: skip
    rounds: dict[tuple[str, float], Round] = {}
    for done, (task, made) in enumerate(workers.map(make_round, tasks), 1):
        rounds[task.picture, task.bpp] = made
        progress(done, len(tasks))
    found = []
    for picture, why in chosen:
        by_quality: dict[int, Round] = {}
        area = read_rgb(paths[picture]).shape[0] * read_rgb(paths[picture]).shape[1]
        for bpp in sorted(rates_bpp):
            made = rounds[picture, bpp]
            first = made.versions[0]
            before = by_quality.get(first.quality)
            away = [abs(math.log(8 * first.data_bytes / area / rate)) for rate in (bpp, before.bpp if before else bpp)]
            if before is None or away[0] < away[1]:
                by_quality[first.quality] = made
        own_rounds = sorted(by_quality.values(), key=lambda one: one.bpp)
        found.append(Contest(picture, why, read_rgb(paths[picture]), own_rounds))
    return found
