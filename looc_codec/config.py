"""The frozen description of one LooC-VAE: every size and width, saved inside the weights file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from looc_codec.errors import ModelError

QUALITY_MIN, QUALITY_MAX = 1, 100
PATCH = 16
"""Pixels per latent position along each axis."""


@dataclass(frozen=True)
class LoocConfig:
    """Sizes of a LooC-VAE in codec mode (names follow the LooC paper where it has one).

    `channels` is d, `codevector_dim` d*, `codebook_size` K; a position has m = d / d* units. All widths are
    channel counts; `*_blocks` count residual blocks at 1/16, 1/8 and 1/4 of the picture's resolution.
    """

    name: str = "photo"
    version: int = 1
    channels: int = 256
    codevector_dim: int = 2
    codebook_size: int = 1024
    groups: tuple[int, ...] = (16, 48, 64, 128)
    hyper_channels: int = 48
    hyper_quality_bins: int = 4
    prior_width: int = 80
    prior_depth: int = 1
    scale_classes: int = 48
    ratio_classes: int = 5
    analysis_widths: tuple[int, int] = (192, 64)
    analysis_blocks: tuple[int, int] = (2, 1)
    synthesis_widths: tuple[int, int, int] = (192, 96, 64)
    synthesis_blocks: tuple[int, int, int] = (2, 1, 2)
    quality_anchors: int = 8
    step_coarsest: float = 256.0
    step_finest: float = 11.3

    def __post_init__(self) -> None:
        problems = []
        if sum(self.groups) != self.channels:
            problems.append(f"groups {self.groups} do not add up to {self.channels} channels")
        if any(group % self.codevector_dim for group in (*self.groups, self.hyper_channels)):
            problems.append(f"every group must be a multiple of codevector_dim {self.codevector_dim}")
        if not 16 <= self.codebook_size <= 32767:
            problems.append(f"codebook_size {self.codebook_size} is outside 16..32767")
        if self.codevector_dim != 2 and self.ratio_classes != 1:
            problems.append("ratio_classes above 1 need codevector_dim 2")
        if problems:
            raise ModelError(f"invalid model configuration: {'; '.join(problems)}")

    @property
    def hyper_units(self) -> int:
        return self.hyper_channels // self.codevector_dim

    @property
    def latent_classes(self) -> int:
        """Number of context classes of latent units; the hyper units' rows follow them in the table bank."""
        return self.scale_classes * self.ratio_classes

    @property
    def hyper_classes(self) -> int:
        return self.hyper_units * self.hyper_quality_bins

    @property
    def segments(self) -> int:
        """Payload segments of a file: the hyper codes, then one per channel group."""
        return 1 + len(self.groups)

    def step(self, quality: float) -> float:
        """Nominal quantisation step in pixel units (0..255 scale) of an orthonormal transform; log-linear in quality."""
        position = (quality - QUALITY_MIN) / (QUALITY_MAX - QUALITY_MIN)
        return self.step_coarsest * (self.step_finest / self.step_coarsest) ** position

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> LoocConfig:
        """The config of a parsed JSON object; unknown or ill-typed fields raise ModelError."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) - set(fields):
            unknown = sorted(set(values) - set(fields)) if isinstance(values, dict) else values
            raise ModelError(f"the model configuration has unknown fields {unknown}; a newer looc may be needed")
        try:
            return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
        except TypeError as error:
            raise ModelError(f"the model configuration is malformed: {error}") from None

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)
