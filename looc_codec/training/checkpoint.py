"""Training state on disk: everything needed to go on exactly, as one safetensors file (never pickle)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from looc_codec.errors import ModelError


def save_checkpoint(path: Path, model: torch.nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer,
                    generators: dict[str, torch.Generator], extra: dict[str, Tensor], meta: dict) -> None:
    """Writes weights, EMA, optimizer moments, random states and counters; the old file survives a failure."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.items()}
    tensors |= {f"extra.{name}": value for name, value in extra.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    tensors |= {f"random.{name}": generator.get_state() for name, generator in generators.items()}
    tensors["random.torch"] = torch.get_rng_state()
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"training": json.dumps(meta)})
    os.replace(partial, path)


def read_meta(path: Path) -> dict:
    """The counters and config of a checkpoint; ModelError when it is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})["training"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"{path} is not a training checkpoint ({type(error).__name__}: {error})") from None


def load_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None,
                    generators: dict[str, torch.Generator]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Restores what `save_checkpoint` wrote; returns the EMA and the extra tensors."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    model.load_state_dict(part("model."))
    if optimizer is not None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in part("optimizer.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for name, generator in generators.items():
        if (state_bytes := tensors.get(f"random.{name}")) is not None and state_bytes.numel() == generator.get_state().numel():
            generator.set_state(state_bytes)
    torch.set_rng_state(tensors["random.torch"])
    return part("ema."), part("extra.")
