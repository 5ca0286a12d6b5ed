"""The same picture from every codec at equal real bytes, and where it looks best and worst.

The rule that keeps this honest: every other codec gets at least as many bytes as looc, never fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from looc_codec import metrics
from looc_codec.report.codecs import CODECS, effort_of, only_levels, open_codec
from looc_codec.report.summary import Summary, picture_gains, strongest_peer

DEFAULT_BPP = 0.3
CROP = 96
"""Side of the crops in pixels."""


@dataclass(frozen=True, eq=False)
class Version:
    """A picture as one codec restores it: `rgb` is `(H, W, 3)` uint8, `data_bytes` the size of the real file."""

    codec: str
    label: str
    quality: int
    data_bytes: int
    psnr_db: float
    rgb: np.ndarray


@dataclass(frozen=True, eq=False)
class Contest:
    """One picture at equal bytes. `versions[0]` is looc's, or the first codec's without looc.

    `crops` are (words, left, top) of squares with a side of `CROP` pixels. `why` says how the picture was chosen.
    """

    picture: str
    why: str
    original: np.ndarray
    versions: list[Version]
    crops: list[tuple[str, int, int]]


class _Sizes:
    """The files of one codec for one picture by quality, each encoded once."""

    def __init__(self, name: str, model: str, rgb: np.ndarray) -> None:
        self.info, self.codec, self.rgb = CODECS[name], open_codec(name, model), rgb
        self.scale = only_levels(name, model) or range(self.info.lowest, self.info.highest + 1)
        self._files: dict[int, bytes] = {}

    def file(self, quality: int) -> bytes:
        if quality not in self._files:
            self._files[quality] = self.codec.encode(self.rgb, quality)
        return self._files[quality]

    def near(self, quality: int) -> list[int]:
        return [other for other in self.scale if abs(other - quality) <= _NEAR]

    def covering(self, wanted_bytes: int) -> int:
        """The quality of the smallest file with at least `wanted_bytes`; of the largest file if none has.

        A binary search over the scale, then a look at the neighbours: sizes grow with the quality, but not everywhere.
        """
        low, high = 0, len(self.scale) - 1
        while low < high:
            middle = (low + high) // 2
            if len(self.file(self.scale[middle])) >= wanted_bytes:
                high = middle
            else:
                low = middle + 1
        found = self.scale[low]
        enough = [quality for quality in self.near(found) if len(self.file(quality)) >= wanted_bytes]
        return min(enough, key=lambda quality: len(self.file(quality))) if enough else found


_NEAR = 3


def versions_at_equal_bytes(rgb: np.ndarray, names: Sequence[str], model: str, bpp: float) -> list[Version]:
    """What every codec of `names` makes of a picture at the bytes that the first needs for about `bpp`.

    Some scales are coarse (a step of AVIF can be 15% of the file). Of the first codec's qualities near the rate, the one
    counts at which the others exceed its bytes least.
    """
    first, *others = (_Sizes(name, model, rgb) for name in names)
    start = first.covering(int(bpp * rgb.shape[0] * rgb.shape[1] / 8))

    def excess(quality: int) -> float:
        wanted = len(first.file(quality))
        return max((len(other.file(other.covering(wanted))) / wanted for other in others), default=1.0)

    chosen = min(first.near(start), key=excess)
    versions = []
    for sizes, quality in [(first, chosen), *((other, other.covering(len(first.file(chosen)))) for other in others)]:
        data = sizes.file(quality)
        restored = sizes.codec.decode(data)
        versions.append(Version(sizes.info.name, sizes.info.label, quality, len(data), metrics.psnr_db(rgb, restored), restored))
    return versions


def choose_pictures(summary: Summary, count: int = 3) -> list[tuple[str, str]]:
    """Names of pictures with the reason: where looc does best, worst and in the middle against its strongest peer."""
    peer = strongest_peer(summary)
    gains = picture_gains(summary, "looc", peer) if peer else {}
    known = sorted((gain.value, name) for name, gain in gains.items() if gain.value is not None)
    if not known:
        return [(name, "") for name in summary.picture_names[:count]]
    label = summary.labels[peer]
    places = {0: "looc's best picture", len(known) - 1: "looc's worst picture", len(known) // 2: "a picture in the middle"}
    if count == 1:
        places = {len(known) // 2: "a picture in the middle"}
    chosen: dict[str, str] = {}
    for place, words in list(places.items())[:count]:
        rate, name = known[place]
        chosen.setdefault(name, f"{words} against {label}: {rate:+.0f}% bits at equal PSNR")
    return list(chosen.items())


def contest(
    picture: str, why: str, rgb: np.ndarray, names: Sequence[str], model: str, bpp: float, rival: str | None
) -> Contest:
    """The picture from all codecs at equal bytes, with the crops where the first does best and worst against `rival`."""
    versions = versions_at_equal_bytes(rgb, names, model, bpp)
    crops: list[tuple[str, int, int]] = []
    other = next((version for version in versions[1:] if version.codec == rival), versions[-1])
    if len(versions) > 1 and min(rgb.shape[:2]) >= CROP:
        first = versions[0]
        difference = _block_errors(rgb, other.rgb) - _block_errors(rgb, first.rgb)
        for words, place in (("best", np.argmax(difference)), ("worst", np.argmin(difference))):
            row, column = np.unravel_index(int(place), difference.shape)
            text = f"where {first.label} does {words} against {other.label}"
            crops.append((text, int(column) * _STRIDE, int(row) * _STRIDE))
    return Contest(picture, why, rgb, versions, crops)


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
    centre_x = int(np.mean([left + CROP / 2 for _, left, _ in picture.crops])) if picture.crops else size_x // 2
    centre_y = int(np.mean([top + CROP / 2 for _, _, top in picture.crops])) if picture.crops else size_y // 2
    left = max(0, min(centre_x - width // 2, size_x - width))
    top = max(0, min(centre_y - height // 2, size_y - height))
    return slice(top, min(size_y, top + height)), slice(left, min(size_x, left + width))


def contests(
    summary: Summary, read: Callable[[str], np.ndarray], model: str, bpp: float, wanted: Sequence[str] = (), count: int = 3
) -> list[Contest]:
    """The contests of a report. `read` gives the pixels of a picture's name; `wanted` names pictures instead of choosing."""
    # Efforts look alike and take minutes here.
    names = sorted((name for name in summary.names if effort_of(name) == 0), key=lambda name: name != "looc")
    if not names:
        return []
    chosen = [(name, "") for name in wanted] or choose_pictures(summary, count)
    rival = strongest_peer(summary)
    return [contest(name, why, read(name), names, model, bpp, rival) for name, why in chosen]
