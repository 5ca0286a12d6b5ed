"""The kinds of models that there are, behind one interface: reading a weights file, and its encoder and decoder.

- `CodecModel`: the codec's own (`photo`), with qualities, a prior, details and a filter.
- `GridModel`: the paper's, an index grid into one codebook.

The weights file says which it is; a .looc file says it by the fingerprint of its model.
"""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path

from looc_codec.codec.decoder import Decoder
from looc_codec.codec.encoder import Encoder, Refine
from looc_codec.codec.engine import Engine
from looc_codec.codec.grid import GridDecoder, GridEncoder
from looc_codec.codec.grid_model import GridModel, read_grid_model
from looc_codec.codec.model import CodecModel, kind_in, read_model

_reading = threading.Lock()


def _after_fork() -> None:
    # A fork copies a lock as it is, which another thread may have held at that moment.
    global _reading
    _reading = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

AnyModel = CodecModel | GridModel
AnyEncoder = Encoder | GridEncoder
AnyDecoder = Decoder | GridDecoder


def read_any_model(path: Path) -> AnyModel:
    """The model of a weights file; every malformed file raises ModelError."""
    return read_grid_model(path) if kind_in(path) == GridModel.kind else read_model(path)


@functools.lru_cache(maxsize=4)
def _cached_model(path: str, modified_ns: int) -> AnyModel:
    return read_any_model(Path(path))


def cached_model(path: Path) -> AnyModel:
    """`read_any_model`, once per process for a file that does not change."""
    # The cache alone lets threads that come at once each read a model, with an engine and sessions of its own: 190 MB for each.
    with _reading:
        return _cached_model(str(path), path.stat().st_mtime_ns)


def encoder_of(model: AnyModel, engine: Engine, refine: Refine | None = None) -> AnyEncoder:
    """An encoder of a model; `refine` is for the codec's own kind."""
    return GridEncoder(model, engine) if isinstance(model, GridModel) else Encoder(model, engine, refine)


def decoder_of(model: AnyModel, engine: Engine) -> AnyDecoder:
    """A decoder of a model."""
    return GridDecoder(model, engine) if isinstance(model, GridModel) else Decoder(model, engine)
