"""Training pictures as batches on the device: each batch is a function of the seed and the step alone, so that a
resumed run sees the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from looc_codec.data import PictureStore
from looc_codec.datasets import PhotoSet
from looc_codec.errors import ModelError
from looc_codec.reproduction.vqvae import to_network

PHOTO_SIDE = 256


class Pictures(Protocol):
    """Pictures by number: `take` gives `(B, H, W, c)` uint8."""

    title: str

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class ArrayPictures:
    """Pictures `(n, H, W, c)` uint8 in memory."""

    title: str
    pictures: np.ndarray

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, indices: np.ndarray) -> np.ndarray:
        return self.pictures[indices]


def limited_title(title: str, count: int, limit: int | None) -> str:
    """The title of a set of `count` pictures of which the first `limit` are used."""
    return title if limit is None or limit >= count else f"{title}, the first {limit}"


@dataclass(frozen=True)
class FilePictures:
    """Photographs read when needed: the middle square, resized to `side`."""

    photos: PhotoSet
    side: int = PHOTO_SIDE
    limit: int | None = None

    @property
    def title(self) -> str:
        return limited_title(self.photos.title, len(self.photos.paths), self.limit)

    def __len__(self) -> int:
        return len(self.photos.paths[: self.limit])

    def take(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([self.photos.crop(int(index), self.side) for index in indices])


class Batches(Protocol):
    """Batches in -1..1, `(B, c, H, W)` on a device, by step; an epoch has `steps_per_epoch` of them. `image_channels`
    is c, `variance` that of the pixels in 0..1."""

    steps_per_epoch: int
    image_channels: int
    variance: float

    def at(self, step: int) -> Tensor: ...


class EpochBatches:
    """Whole pictures, every one once in an epoch, in an order of the epoch's own.

    Pictures in memory lie on the device as bytes; files are read when their turn comes.
    """

    def __init__(self, pictures: Pictures, batch: int, seed: int, device: str) -> None:
        if len(pictures) < batch:
            raise ModelError(f"{pictures.title}: fewer than one batch of {batch}; choose a smaller --batch")
        self.pictures, self.batch, self.seed, self.device = pictures, batch, seed, device
        self.steps_per_epoch = len(pictures) // batch
        self.image_channels = pictures.take(np.zeros(1, np.int64)).shape[-1]
        self.variance = pixel_variance(pictures)
        self._held: Tensor | None = None
        if isinstance(pictures, ArrayPictures) and device != "meta":
            self._held = torch.from_numpy(pictures.pictures.transpose(0, 3, 1, 2).copy()).to(
                device, memory_format=torch.channels_last
            )
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def at(self, step: int) -> Tensor:
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self.seed, epoch)).permutation(len(self.pictures)))
        taken = self._order[1][position * self.batch : (position + 1) * self.batch]
        if self._held is None:
            return to_network(self.pictures.take(taken)).to(self.device, memory_format=torch.channels_last)
        return (self._held[torch.from_numpy(taken).to(self.device)].float() / 255 - 0.5) / 0.5


class CropBatches:
    """Random crops of photographs of any size, flipped and transposed at random; an epoch is as many crops as there
    are pictures."""

    image_channels = 3

    def __init__(self, store: PictureStore, batch: int, side: int, seed: int) -> None:
        self.store, self.batch, self.side, self.seed = store, batch, side, seed
        self.steps_per_epoch = max(1, len(store) // batch)
        counts = torch.bincount(store.pixels.int(), minlength=256).double().cpu().numpy()
        self.variance = variance_of(counts)

    def at(self, step: int) -> Tensor:
        generator = torch.Generator(self.store.pixels.device).manual_seed(
            int(np.random.SeedSequence((self.seed, step)).generate_state(1)[0])
        )
        return (self.store.crops(self.batch, self.side, generator) / 127.5 - 1).contiguous(
            memory_format=torch.channels_last
        )


def pixel_variance(pictures: Pictures) -> float:
    """Variance of all training values in 0..1; of the first 1000 pictures where they are files."""
    held = (
        pictures.pictures
        if isinstance(pictures, ArrayPictures)
        else pictures.take(np.arange(min(len(pictures), 1000)))
    )
    return variance_of(np.bincount(held.reshape(-1), minlength=256).astype(np.float64))


def variance_of(counts: np.ndarray) -> float:
    """Variance in 0..1 of 8-bit values that occur so often `(256,)`."""
    levels = np.arange(256) / 255
    mean = (counts * levels).sum() / counts.sum()
    return float((counts * (levels - mean) ** 2).sum() / counts.sum())
