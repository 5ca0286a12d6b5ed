"""LooC-VAE: transforms, shared codebook and prior in one module, and its weights file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from looc_codec.config import LoocConfig
from looc_codec.details import Details
from looc_codec.errors import ModelError
from looc_codec.packing import pack_weights, unpack_weights
from looc_codec.prior import Prior
from looc_codec.quantizers.codebook import SharedCodebook
from looc_codec.transforms import Analysis, Synthesis

CRITICAL = "core."
"""Prefix of the tensors that decide which bits are written; only these make up the fingerprint."""
SCALES = ".scales"
"""Suffix of the scales, one an output channel, of a kernel that is stored packed."""
KERNEL_DIMS = 4
"""Dimensions of the tensors that are packed; all others are small."""


class LoocModel(nn.Module):
    """A LooC-VAE: analysis → predictive units of one shared codebook → synthesis.

    The weights file has two halves: `core.*` holds the format-critical integers (prior, codebook, table bank) and
    everything else only affects how good the picture is, so it may improve without breaking a file.
    """

    def __init__(self, config: LoocConfig, order: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.analysis = Analysis(config, order)
        self.synthesis = Synthesis(config, order)
        self.prior = Prior(config)
        self.codebook = SharedCodebook(config)
        self.details = Details(config) if config.detail_channels else None
        self.core_tensors: dict[str, Tensor] | None = None
        self.description = ""

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def version(self) -> int:
        return self.config.version

    @property
    def fingerprint(self) -> bytes:
        """First 8 bytes of the SHA-256 of the format-critical tensors and sizes; needs an exported core."""
        if self.core_tensors is None:
            raise ModelError("this model has no exported integer core yet, so it has no fingerprint")
        return fingerprint_of(self.config, self.core_tensors)

    def freeze_core(self) -> None:
        """Exports the integer core and uses exactly those integers from now on."""
        tensors = {f"prior.{name}": value for name, value in self.prior.export().items()}
        tensors |= {f"codebook.{name}": value for name, value in self.codebook.export().items()}
        if self.details is not None:
            tensors |= {f"details.{name}": value for name, value in self.details.export().items()}
        self.restore_core(tensors)

    def restore_core(self, tensors: dict[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        self.prior.restore(part("prior."))
        self.codebook.restore(part("codebook."))
        if self.details is not None:
            self.details.restore(part("details."))
        self.core_tensors = tensors


def fingerprint_of(config: LoocConfig, core: dict[str, Tensor]) -> bytes:
    """8 bytes that name the decoding behaviour: sizes of the grid and prior, and every format-critical integer."""
    sizes = ("channels", "codevector_dim", "codebook_size", "groups",
             "prior_width", "prior_depth", "scale_classes", "ratio_classes")
    if config.trellis_states > 1:
        sizes += ("trellis_states",)
    if config.detail_channels:
        sizes += ("detail_channels", "detail_width")
    digest = hashlib.sha256(json.dumps({key: getattr(config, key) for key in sizes}, sort_keys=True).encode())
    for name in sorted(core):
        tensor = core[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.digest()[:8]


def save_model(model: LoocModel, path: Path) -> None:
    """Writes the weights file: integer core as it is; kernels of the transforms in 12 bits, their other parameters as float16."""
    if model.core_tensors is None:
        model.freeze_core()
    tensors = {CRITICAL + name: value.contiguous().cpu() for name, value in model.core_tensors.items()}
    for name, value in float_state(model).items():
        if value.dim() == KERNEL_DIMS:
            tensors[name], tensors[name + SCALES] = pack_weights(value)
        else:
            tensors[name] = value.to(torch.float16).contiguous().cpu()
    meta = {
        "name": model.name, "version": model.version, "fingerprint": model.fingerprint.hex(),
        "config": model.config.to_dict(), "description": model.description,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"looc": json.dumps(meta, sort_keys=True)})
    # safetensors writes private files; a model installed by one user is for all of them.
    path.chmod(0o644)


def float_state(model: LoocModel) -> dict[str, Tensor]:
    """The parts of the state that the integer core does not hold."""
    state = model.state_dict()
    return {name: value for name, value in state.items() if name.startswith(("analysis.", "synthesis."))}


def _float_tensors(model: LoocModel, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The stored parameters of the transforms as float32, unpacked to the shapes of the model."""
    shapes = {name: tuple(value.shape) for name, value in float_state(model).items()}
    return {
        name: unpack_weights(value, stored[name + SCALES], shapes[name]) if len(shapes.get(name, ())) == KERNEL_DIMS else value.float()
        for name, value in stored.items() if not name.endswith(SCALES)
    }


def load_model(path: Path, device: str = "cpu") -> LoocModel:
    """Reads a weights file; every malformed file raises ModelError. The prior stays on the CPU, where it is exact."""
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})["looc"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        config = LoocConfig.from_dict(meta["config"])
    # RecursionError: deeply nested brackets. TypeError: JSON of another shape.
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} is not a looc weights file ({type(error).__name__}: {error})") from None
    model = LoocModel(config)
    core = {name.removeprefix(CRITICAL): value for name, value in tensors.items() if name.startswith(CRITICAL)}
    try:
        rest = _float_tensors(model, {name: value for name, value in tensors.items() if not name.startswith(CRITICAL)})
        missing, unexpected = model.load_state_dict(rest, strict=False)
        if unexpected or set(float_state(model)) - set(rest):
            raise ModelError(f"{path} does not fit its own configuration; the file is damaged or from a newer looc")
        if not all(bool(value.isfinite().all()) for value in rest.values()):
            raise ModelError(f"{path} holds weights that are not finite numbers; install the weights again")
        model.restore_core(core)
    except (RuntimeError, KeyError) as error:
        raise ModelError(f"{path} does not fit its own configuration: {error}") from None
    if model.fingerprint.hex() != meta.get("fingerprint"):
        raise ModelError(f"{path} is damaged: its tensors do not match their fingerprint; install the weights again")
    model.description = str(meta.get("description", ""))
    model.eval().requires_grad_(False)
    for transform in (model.analysis, model.synthesis):
        transform.to(device, memory_format=torch.channels_last)
    return model
