"""The frozen description of one LooC-VAE: every size and width, saved inside the weights file."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass

from looc_codec.errors import ModelError

QUALITY_MIN, QUALITY_MAX = 1, 100
METRICS = ("mse", "ms-ssim")
"""What a model can be trained for (distortion.py)."""
TRELLIS_STATES = 128
"""States of a model's trellis, if it has one (format/trellis.py)."""
COLOUR_AXES = ((3**-0.5, 3**-0.5, 3**-0.5), (2**-0.5, 0.0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))
"""Luma-like axis first, then two opponent axes: orthonormal, so that latent and pixel MSE agree at the start."""
_LIMITS = {
    "version": (0, 2**31), "channels": (1, 768), "codevector_dim": (1, 16), "codebook_size": (16, 32767), "groups": (1, 768),
    "prior_width": (1, 512), "prior_depth": (0, 8), "scale_classes": (1, 256),
    "ratio_classes": (1, 63), "analysis_widths": (1, 1024), "analysis_blocks": (0, 32), "synthesis_widths": (1, 1024),
    "synthesis_blocks": (0, 32), "synthesis_hidden": (1, 2048), "quality_anchors": (2, 100), "trellis_states": (1, TRELLIS_STATES),
    "detail_channels": (0, 768), "detail_width": (1, 512), "detail_quality": (1, 100),
}  # fmt: skip
"""Smallest and largest value of every whole number: a weights file from anywhere must not make looc build a network of any size.
768 channels are all that 16x16 pixels of three colours have."""
_TUPLE_LENGTHS = {"groups": range(1, 15), "analysis_widths": (2,), "analysis_blocks": (2,), "synthesis_widths": (3,), "synthesis_blocks": (3,), "synthesis_hidden": range(3 * 32 + 1)}
_MAX_TABLE_ENTRIES = 2**23
RATE_DISTORTION_SLOPE = 26.0
"""lambda * step² for MSE over RGB on the 0..255 scale and rate in bits per pixel: the high-rate slope of a uniform
quantiser, 3 * 12 / (2 ln 2), so that an orthonormal transform needs no other gain than the nominal step."""


@dataclass(frozen=True)
class LoocConfig:
    """Sizes of a LooC-VAE in codec mode (names follow the LooC paper where it has one).

    `channels` is d, `codevector_dim` d*, `codebook_size` K; a position has m = d / d* units. All widths are
    channel counts; `*_blocks` count residual blocks at 1/16, 1/8 and 1/4 of the picture's resolution; `synthesis_hidden` are the hidden features of every block of the synthesis,
    in that order, or nothing where they are twice the width. `trellis_states` is TRELLIS_STATES, or 1 where
    every unit is quantised by itself. `metric` is the distortion that the model was trained for, of `METRICS`, which `--effort` serves, too. `detail_channels` of the DCT are coded as details from `detail_quality` on (details.py), by a network of `detail_width` features; 0 for none.
    """

    name: str = "photo"
    version: int = 1
    channels: int = 384
    codevector_dim: int = 2
    codebook_size: int = 1024
    groups: tuple[int, ...] = (16, 48, 64, 128, 128)
    prior_width: int = 160
    prior_depth: int = 2
    scale_classes: int = 48
    ratio_classes: int = 9
    trellis_states: int = TRELLIS_STATES
    detail_channels: int = 0
    detail_width: int = 40
    detail_quality: int = 60
    analysis_widths: tuple[int, int] = (240, 112)
    analysis_blocks: tuple[int, int] = (4, 3)
    synthesis_widths: tuple[int, int, int] = (320, 160, 96)
    synthesis_blocks: tuple[int, int, int] = (5, 3, 4)
    synthesis_hidden: tuple[int, ...] = ()
    quality_anchors: int = 8
    step_coarsest: float = 256.0
    step_finest: float = 8.0
    metric: str = "mse"

    def __post_init__(self) -> None:
        problems = self._problems_of_fields()
        if problems:
            raise ModelError(f"invalid model configuration: {'; '.join(problems)}")
        if sum(self.groups) != self.channels:
            problems.append(f"groups {self.groups} do not add up to {self.channels} channels")
        if any(group % self.codevector_dim for group in self.groups):
            problems.append(f"every group must be a multiple of codevector_dim {self.codevector_dim}")
        if self.detail_channels % self.codevector_dim:
            problems.append(f"detail_channels must be a multiple of codevector_dim {self.codevector_dim}")
        if self.codevector_dim != 2 and self.ratio_classes != 1:
            problems.append("ratio_classes above 1 need codevector_dim 2")
        if self.ratio_classes % 2 == 0:
            problems.append("ratio_classes must be odd")
        if self.trellis_states not in (1, TRELLIS_STATES):
            problems.append(f"trellis_states must be 1 or {TRELLIS_STATES}")
        if self.trellis_states > 1 and (self.codevector_dim > 2 or self.codebook_size % 2):
            problems.append("a trellis needs codevector_dim 1 or 2 and an even codebook_size")
        # Every row of codes may have one of set 1 and one of first digits beside it, and two rows serve escaped units.
        entries = ((3 if self.trellis_states > 1 else 2) * self.classes + 2) * (self.codebook_size + 1)
        if entries > _MAX_TABLE_ENTRIES:
            problems.append(f"its tables could have {entries} entries, more than {_MAX_TABLE_ENTRIES}")
        if self.synthesis_hidden and len(self.synthesis_hidden) != sum(self.synthesis_blocks):
            problems.append(f"synthesis_hidden has {len(self.synthesis_hidden)} numbers for {sum(self.synthesis_blocks)} synthesis_blocks")
        if problems:
            raise ModelError(f"invalid model configuration: {'; '.join(problems)}")

    def _problems_of_fields(self) -> list[str]:
        """What is wrong with single fields: their types, lengths and ranges."""
        problems = []
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            lengths = _TUPLE_LENGTHS.get(name)
            if lengths is not None and (not isinstance(value, tuple) or len(value) not in lengths):
                problems.append(f"{name} {value!r} is not a list of its length")
                continue
            for number in value if lengths is not None else (value,):
                if type(number) is not int or not low <= number <= high:
                    problems.append(f"{name} {value!r} is outside {low}..{high}")
                    break
        for name in ("step_coarsest", "step_finest"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value) or not 0 < value < 1e6:
                problems.append(f"{name} {value!r} is not a step in pixel units")
        if not isinstance(self.name, str):
            problems.append(f"name {self.name!r} is not text")
        if self.metric not in METRICS:
            problems.append(f"metric {self.metric!r} is none of {', '.join(METRICS)}")
        return problems

    @property
    def classes(self) -> int:
        """Number of context classes of units, each with a row in the table bank."""
        return self.scale_classes * self.ratio_classes

    @property
    def hidden_features(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Hidden features of every residual block of the synthesis, at 1/16, 1/8 and 1/4."""
        hidden = iter(self.synthesis_hidden)
        at16, at8, at4 = (tuple(next(hidden, 2 * width) for _ in range(count)) for width, count in zip(self.synthesis_widths, self.synthesis_blocks, strict=True))
        return at16, at8, at4

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
        # Weights files older than the trellis do not name it.
        values = {"trellis_states": 1} | values
        try:
            return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
        except TypeError as error:
            raise ModelError(f"the model configuration is malformed: {error}") from None

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)
