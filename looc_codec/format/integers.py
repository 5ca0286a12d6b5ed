"""The format-critical integers of a model (`core.*` of its weights file): which there are, and what makes them legal.

Layers compute floor(sum * 2^(gain - e) + 1/2) of exact integer sums. They are carried in float32, which is exact below 2^24,
so a model is refused unless every sum is certain to stay below that (docs/FORMAT.md, "Arithmetic").
"""

from __future__ import annotations

import hashlib
import json

import numpy as np

from looc_codec.config import QUALITY_MAX, QUALITY_MIN, LoocConfig
from looc_codec.errors import ModelError
from looc_codec.format import constants
from looc_codec.format.constants import ACTIVATION_LIMIT, COMPANDED_LIMIT, LATENT_LIMIT, MEAN_GAIN_BITS, PATCH, SETS, WEIGHT_LIMIT
from looc_codec.format.order import levels_of_group

Core = dict[str, np.ndarray]
"""Format-critical tensors by name, without the prefix `core.`."""

EXACT_LIMIT = 2**24
EXPONENT_MIN, EXPONENT_MAX = -8, 20
_QUALITIES = QUALITY_MAX - QUALITY_MIN + 1
FINGERPRINT_BYTES = 8


def layer_names(config: LoocConfig) -> dict[str, tuple[int, int, int, int]]:
    """The integer layers of a model: input channels, output channels, kernel side and gain in bits, by name."""
    layers: dict[str, tuple[int, int, int, int]] = {}
    width, before = config.prior_width, 0
    for index, group in enumerate(config.groups):
        for number in range(len(levels_of_group(index))):
            name, known = f"prior.nets.{index}.{number}", before + (group if number else 0)
            if known:
                layers[f"{name}.entry"] = (known, width, 3, 0)
            for depth in range(config.prior_depth):
                layers[f"{name}.hidden.{depth}"] = (width, width, 1, 0)
            layers[f"{name}.mean"] = (width, group, 1, MEAN_GAIN_BITS)
            layers[f"{name}.log_scale"] = (width, group, 1, 0)
        before += group
    if config.detail_channels:
        width = config.detail_width
        layers["details.entry"] = (config.channels, width, 3, 0)
        layers["details.hidden"] = (width, width, 1, 0)
        layers["details.log_scale"] = (width, config.detail_channels, 1, 0)
    return layers


def layout(config: LoocConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor of a core but the frequencies, whose rows depend on the digit factors."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (channels_in, channels_out, side, _) in layer_names(config).items():
        tensors[f"{name}.weight"] = ("int8", (channels_out, channels_in, side, side))
        tensors[f"{name}.bias"] = ("int32", (channels_out,))
        tensors[f"{name}.exponent"] = ("int8", (channels_out,))
    for index, group in enumerate(config.groups):
        for number, level in enumerate(levels_of_group(index)):
            tensors[f"prior.nets.{index}.{number}.quality"] = ("int16", (_QUALITIES, config.prior_width))
            if number:
                tensors[f"prior.neighbours.{index}.{number - 1}"] = ("int8", (group, len(level.neighbours)))
    tensors["prior.quality_log_scale"] = ("int16", (_QUALITIES, config.channels))
    tensors["prior.companding"] = ("uint8", (LATENT_LIMIT + 1,))
    sets = SETS if config.trellis_states > 1 else 1
    tensors["codebook.codevectors"] = ("int16", (sets * config.codebook_size, config.codevector_dim))
    tensors["codebook.digit_factor"] = ("uint8", (config.classes,))
    if config.trellis_states > 1:
        tensors["codebook.live"] = ("uint8", (config.classes,))
    if config.detail_channels:
        tensors["details.chosen"] = ("int16", (config.detail_channels,))
        tensors["details.quality"] = ("int16", (_QUALITIES, config.detail_width))
        tensors["details.quality_log_scale"] = ("int16", (_QUALITIES, config.detail_channels))
    return tensors


def require_legal(core: Core, config: LoocConfig) -> None:
    """Raises ModelError unless these are the integers of a model of the configuration, and its sums are exact.

    What the codebook's tables have to be is checked where they are made (codes.py).
    """
    expected = layout(config)
    found = {name: (value.dtype.name, value.shape) for name, value in core.items() if name != "codebook.frequencies"}
    frequencies = core.get("codebook.frequencies")
    if found != expected or frequencies is None or frequencies.dtype != np.int16 or frequencies.ndim != 2:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ModelError(f"the weights file holds other integers than its configuration needs ({', '.join(wrong[:3]) or 'codebook.frequencies'})")
    if int(core["prior.companding"].max()) > COMPANDED_LIMIT:
        raise ModelError("the weights file holds companded values out of range")
    if any(int(value.min()) < -WEIGHT_LIMIT for name, value in core.items() if value.dtype == np.int8 and "exponent" not in name):
        raise ModelError("the weights file holds integer weights out of range")
    for name, (_, _, _, gain_bits) in layer_names(config).items():
        require_exact(core, name, gain_bits)
    if config.detail_channels:
        chosen = core["details.chosen"]
        if chosen.min() < 0 or chosen.max() >= 3 * PATCH**2 or len(set(chosen.tolist())) != len(chosen):
            raise ModelError("the weights file holds channels of details that there are not")


def require_exact(core: Core, layer: str, gain_bits: int) -> None:
    """Raises ModelError unless every sum that a layer's integers can give stays below 2^24, where float32 is exact."""
    weight, bias, exponent = (core[f"{layer}.{part}"] for part in ("weight", "bias", "exponent"))
    worst = np.abs(weight.astype(np.int32)).sum((1, 2, 3), dtype=np.int64) * ACTIVATION_LIMIT + np.abs(bias.astype(np.int64))
    # floor(acc * 2^-e + 1/2) adds half a unit of the rescaled sum, 2^(e-1) units of acc.
    most = float((worst + np.exp2(np.maximum(exponent.astype(np.float64) - gain_bits, 0)) / 2).max())
    if most >= EXACT_LIMIT:
        raise ModelError(f"layer {layer} can reach {most:.0f} >= 2^24, so float32 sums would not be exact")
    if exponent.min() < EXPONENT_MIN or exponent.max() > EXPONENT_MAX:
        raise ModelError(f"layer {layer} has exponents outside {EXPONENT_MIN}..{EXPONENT_MAX}")


def fingerprint_of(config: LoocConfig, core: Core) -> bytes:
    """8 bytes that name how files are read: of a SHA-256 over the sizes of grid and prior, the constants of the format, and
    every format-critical integer."""
    sizes = [
        "channels", "codevector_dim", "codebook_size", "groups", "prior_width", "prior_depth", "scale_classes", "ratio_classes",
        "trellis_states", "detail_channels", "detail_width",
    ]  # fmt: skip
    digest = hashlib.sha256(constants.digest())
    digest.update(json.dumps({key: getattr(config, key) for key in sizes}, sort_keys=True).encode())
    for name in sorted(core):
        array = np.ascontiguousarray(core[name])
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.digest()[:FINGERPRINT_BYTES]
