"""What a file says of the pixels, in one value that encoder, decoder and rate control hand on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from looc_codec.config import RATE_DISTORTION_SLOPE, LoocConfig
from looc_codec.format.filter import Wiener


@dataclass(frozen=True)
class Coding:
    """A picture's codes, and what they stand for.

    `segments` are those of the channel groups and, if there are any, of the details, None where a file cut short does not hold
    them; `checksum` is that of the codes. `latent` `(d, h, w)` and `details` `(detail_channels, h, w)`, None without a segment
    of them, are the decoded values, int16 in 1/16 steps. `wiener` is the picture's filter. A grey picture has equal planes.
    """

    level: int
    grey: bool
    segments: tuple[bytes | None, ...]
    checksum: int
    latent: np.ndarray
    details: np.ndarray | None
    wiener: Wiener | None

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        """What two decoders must agree on."""
        return (self.latent,) if self.details is None else (self.latent, self.details)

    @property
    def filter(self) -> bytes:
        """The filter as bytes, empty where there is none."""
        return self.wiener.to_bytes() if self.wiener else b""

    @property
    def payload_bytes(self) -> int:
        """Size of the segments that are there and of the filter."""
        return sum(len(segment) for segment in self.segments if segment is not None) + len(self.filter)


def bits_per_error(level: int, config: LoocConfig) -> float:
    """What one unit of squared error, summed over pixels and channels, is worth in bits at a level."""
    return RATE_DISTORTION_SLOPE / config.step(level) ** 2 / 3
