"""Decoded training pictures in one file: decoded once, then mapped into the memory of every process
that needs them.

The file grows while it is read: pictures of further shards are appended, and the index, which is
replaced as a whole, says how much of it counts.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from looc_codec.data import PictureStore

PIXELS, INDEX = "pixels.bin", "pixels.json"


@dataclass(frozen=True)
class Index:
    """Heights and widths of the pictures in the file, and the names of the shards that they came
    from."""

    sizes: list[tuple[int, int]] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return sum(3 * height * width for height, width in self.sizes)


def read_index(folder: Path) -> Index:
    """The index as it stands now; an empty one where nothing has been decoded yet."""
    try:
        found = json.loads((folder / INDEX).read_text())
    except FileNotFoundError:
        return Index()
    return Index([tuple(size) for size in found["sizes"]], found["shards"])


def append(folder: Path, shard: str, pictures: list[np.ndarray]) -> Index:
    """Adds the pictures `(H, W, 3)` uint8 of a shard; one process at a time. What a process that
    was ended had begun to add is written over."""
    folder.mkdir(parents=True, exist_ok=True)
    index = read_index(folder)
    path = folder / PIXELS
    with path.open("r+b" if path.exists() else "wb") as file:
        file.seek(index.samples)
        for picture in pictures:
            file.write(np.ascontiguousarray(picture).data)
        file.truncate()
    grown = Index(
        [*index.sizes, *(picture.shape[:2] for picture in pictures)], [*index.shards, shard]
    )
    partial = folder / f"{INDEX}.partial"
    partial.write_text(json.dumps({"sizes": grown.sizes, "shards": grown.shards}))
    os.replace(partial, folder / INDEX)
    return grown


def open_store(folder: Path, device: torch.device | str = "cpu") -> PictureStore | None:
    """The pictures that are decoded by now, or None while there are none. On the CPU their pixels
    stay in the file."""
    index = read_index(folder)
    if not index.sizes:
        return None
    pixels = torch.from_file(str(folder / PIXELS), size=index.samples, dtype=torch.uint8)
    return PictureStore.of(pixels, index.sizes, device)
