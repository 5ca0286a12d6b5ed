"""The codec model: integers, tables and graphs, never changed after it is made; and its weights file.

A trainable model (networks/model.py) becomes one by `training/export.py`. There is one truth for each part of it: graphs read
the very tensors that are stored, tables and coder models are derived from them once, and the fingerprint is of them.

The weights file is a safetensors file with two halves: `core.*` holds the format-critical integers (prior, codebook, table
bank), everything else only affects how good the picture is, so it may improve without breaking a file.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from looc_codec.codec.engine import Engine, Graph
from looc_codec.codec.packing import pack_weights, packed_length, unpack_frequencies, unpack_weights
from looc_codec.codec.search import CodeSearch
from looc_codec.config import LoocConfig
from looc_codec.errors import ModelError
from looc_codec.format.codes import CodeTables
from looc_codec.format.constants import TABLE_BITS
from looc_codec.format.integers import Core, fingerprint_of, require_legal

_engines_lock, _reading = threading.Lock(), threading.Lock()


def _after_fork() -> None:
    # A fork copies a lock as it is, which another thread may have held at that moment.
    global _engines_lock, _reading
    _engines_lock, _reading = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

CRITICAL = "core."
"""Prefix of the tensors that decide which bits are written; only these make up the fingerprint."""
GRAPH = "graph."
"""Prefix of the exported networks, as bytes of ONNX without weights."""
SCALES = ".scales"
"""Suffix of the scales, one an output channel, of a kernel that is stored packed."""
KERNEL_DIMS = 4
"""Dimensions of the tensors that are packed; all others are small."""


class CodecModel:
    """A model as the codec uses it.

    `core` are the format-critical integers, `transforms` the float tensors of analysis and synthesis as they are stored
    (kernels packed, see packing.py), `shapes` the shapes of the packed ones, `graphs` the exported networks. Raises ModelError
    where these are not parts of one model. Safe to share between threads.
    """

    def __init__(
        self, config: LoocConfig, core: Core, transforms: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], graphs: Mapping[str, Graph], description: str = ""
    ) -> None:
        require_legal(core, config)
        for tensor in (*core.values(), *transforms.values()):
            tensor.flags.writeable = False
        self.config, self.description = config, description
        self.core: Mapping[str, np.ndarray] = MappingProxyType(dict(core))
        self.transforms: Mapping[str, np.ndarray] = MappingProxyType(dict(transforms))
        self.shapes, self.graphs = MappingProxyType(dict(shapes)), MappingProxyType(dict(graphs))
        self.fingerprint = fingerprint_of(config, dict(self.core))
        self.tables = CodeTables(
            config, self.core["codebook.codevectors"], self.core["codebook.digit_factor"], self.core.get("codebook.live"),
            unpack_frequencies(self.core["codebook.frequencies"], 2**TABLE_BITS),
        )  # fmt: skip
        self._engines: dict[tuple[int, int, str], Engine] = {}

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def version(self) -> int:
        return self.config.version

    @functools.cached_property
    def search(self) -> CodeSearch:
        """The encoder's choice of codes with the model's tables."""
        return CodeSearch(self.tables)

    @functools.cached_property
    def signed_companding(self) -> np.ndarray:
        """Companded values `(65536,)` int8 of latents as unsigned 16-bit numbers: of 0 to 32767, then of -32768 to -1."""
        positive = self.core["prior.companding"].astype(np.int8)
        return np.concatenate([positive, -positive[-1:], -positive[:0:-1]])

    @property
    def has_details(self) -> bool:
        """Whether pictures may have a segment of details."""
        return self.config.detail_channels > 0

    def tensor(self, name: str) -> np.ndarray:
        """A tensor as graphs read it: integers as they are, parameters of the transforms as float32."""
        if name.startswith(CRITICAL):
            return self.core[name.removeprefix(CRITICAL)]
        stored = self.transforms[name]
        if name in self.shapes:
            return unpack_weights(stored, self.transforms[name + SCALES], self.shapes[name])
        return stored.astype(np.float32)

    def engine(self, threads: int, device: str = "cpu") -> Engine:
        """What runs the graphs, made once for each number of threads and device.

        Made anew after a fork: threads do not survive one. The engine of the parent is kept, since ending it would wait for
        threads that are not there.
        """
        key = (os.getpid(), threads, device)
        with _engines_lock:
            if key not in self._engines:
                self._engines[key] = Engine(self.graphs, self.tensor, threads, device)
            return self._engines[key]

    def quality_row(self, name: str, quality: int) -> np.ndarray:
        """The stored row of a quality of one of the core's quality tables, `(1, width, 1, 1)` float32."""
        return self.core[name][quality - 1].astype(np.float32)[None, :, None, None]


@dataclass(frozen=True)
class StoredTransforms:
    """Float tensors in the form of the weights file."""

    tensors: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]


def stored_transforms(parameters: Mapping[str, np.ndarray]) -> StoredTransforms:
    """Float parameters of the transforms as they are stored: kernels in 12 bits, all others as float16."""
    tensors: dict[str, np.ndarray] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in parameters.items():
        if value.ndim == KERNEL_DIMS:
            tensors[name], tensors[name + SCALES] = pack_weights(value)
            shapes[name] = value.shape
        else:
            tensors[name] = value.astype(np.float16)
    return StoredTransforms(tensors, shapes)


def write_model(model: CodecModel, path: Path) -> None:
    """Writes the weights file."""
    tensors = {CRITICAL + name: value for name, value in model.core.items()} | dict(model.transforms)
    tensors |= {GRAPH + name: np.frombuffer(graph.onnx, np.uint8) for name, graph in model.graphs.items()}
    meta = {
        "name": model.name, "version": model.version, "fingerprint": model.fingerprint.hex(), "config": model.config.to_dict(),
        "description": model.description, "shapes": dict(model.shapes), "graphs": {name: list(graph.tensors) for name, graph in model.graphs.items()},
        "graphs_sha256": _graphs_sha256(model.graphs),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path, metadata={"looc": json.dumps(meta, sort_keys=True)})
    # safetensors writes private files; a model installed by one user is for all of them.
    path.chmod(0o644)


def _graphs_sha256(graphs: Mapping[str, Graph]) -> str:
    digest = hashlib.sha256()
    for name in sorted(graphs):
        digest.update(f"{name} {len(graphs[name].onnx)}\n".encode() + graphs[name].onnx)
    return digest.hexdigest()


def read_model(path: Path) -> CodecModel:
    """Reads a weights file; every malformed file raises ModelError."""
    try:
        with safe_open(path, framework="np") as file:
            meta = json.loads((file.metadata() or {})["looc"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        config = LoocConfig.from_dict(meta["config"])
        core = {name.removeprefix(CRITICAL): value for name, value in tensors.items() if name.startswith(CRITICAL)}
        graphs = _read_graphs(meta, tensors)
        transforms = {name: value for name, value in tensors.items() if not name.startswith((CRITICAL, GRAPH))}
        shapes = {name: tuple(map(int, shape)) for name, shape in meta["shapes"].items()}
        fingerprint, description = meta["fingerprint"], str(meta.get("description", ""))
    # RecursionError: deeply nested brackets. TypeError, AttributeError: JSON of another shape.
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is not a looc weights file ({type(error).__name__}: {error})") from None
    _require_transforms(path, graphs, transforms, shapes)
    model = CodecModel(config, core, transforms, shapes, graphs, description)
    if model.fingerprint.hex() != fingerprint:
        raise ModelError(f"{path} is damaged: its tensors do not match their fingerprint; install the weights again")
    return model


def _read_graphs(meta: dict, tensors: Mapping[str, np.ndarray]) -> dict[str, Graph]:
    graphs = {}
    for name, used in meta["graphs"].items():
        data = tensors[GRAPH + name]
        if data.dtype != np.uint8 or data.ndim != 1:
            raise ValueError(f"graph {name} is not bytes")
        graphs[name] = Graph(data.tobytes(), tuple(map(str, used)))
    if _graphs_sha256(graphs) != meta["graphs_sha256"]:
        raise ModelError("the weights file is damaged: its graphs do not match their checksum; install the weights again")
    return graphs


def _require_transforms(path: Path, graphs: Mapping[str, Graph], transforms: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ModelError unless every tensor that a graph reads is there, of a type that can be stored, and finite."""
    needed = {name for graph in graphs.values() for name in graph.tensors if not name.startswith(CRITICAL)}
    for name in needed:
        packed = name in shapes
        stored = [transforms.get(name), transforms.get(name + SCALES)] if packed else [transforms.get(name)]
        types = [np.uint8, np.float32] if packed else [np.float16]
        if any(value is None or value.dtype != kind for value, kind in zip(stored, types, strict=True)):
            raise ModelError(f"{path} does not fit its own configuration: {name} is missing or of another type")
        if packed and [value.shape for value in stored] != [(packed_length(math.prod(shapes[name])),), shapes[name][:1]]:
            raise ModelError(f"{path} does not fit its own configuration: {name} is of another size")
        if packed and (stored[0].shape != (packed_length(math.prod(shapes[name])),) or stored[1].shape != shapes[name][:1]):
            raise ModelError(f"{path} does not fit its own configuration: {name} has another shape")
        if not np.isfinite(stored[-1]).all():
            raise ModelError(f"{path} holds weights that are not finite numbers; install the weights again")


@functools.lru_cache(maxsize=4)
def _cached_model(path: str, modified_ns: int) -> CodecModel:
    return read_model(Path(path))


def cached_model(path: Path) -> CodecModel:
    """`read_model`, once per process for a file that does not change."""
    # The cache alone lets threads that come at once each read a model, with an engine and sessions of its own: 190 MB for each.
    with _reading:
        return _cached_model(str(path), path.stat().st_mtime_ns)
