"""Training pictures: decoded once, kept as 8-bit on the device, cropped there."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from looc_codec.errors import ImageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff"}
TEST_SET_NAMES = ("kodim", "kodak")


class PictureStore:
    """All training pictures in one flat uint8 buffer on the device, so that a batch of crops is one gather.

    `pixels` `(total samples,)` uint8 holds each picture as H×W×3; `offsets`, `heights`, `widths` `(n,)` int64. `smallest` is the smallest side of any
    picture, `largest` the largest short side.
    """

    def __init__(self, pictures: list[np.ndarray], device: torch.device | str = "cpu") -> None:
        if not pictures:
            raise ImageError("no training pictures were found; give --data a folder with pictures or .tar shards")
        pixels = torch.empty(sum(picture.size for picture in pictures), dtype=torch.uint8)
        position = 0
        for picture in pictures:
            pixels[position : position + picture.size] = torch.from_numpy(picture.reshape(-1).copy())
            position += picture.size
        self.hold(pixels, [picture.shape[:2] for picture in pictures], device)

    @classmethod
    def of(cls, pixels: Tensor, sizes: list[tuple[int, int]], device: torch.device | str = "cpu") -> PictureStore:
        """Pictures that lie in `pixels` `(total samples,)` uint8 one after the other; `sizes` are their heights and widths."""
        store = cls.__new__(cls)
        store.hold(pixels, sizes, device)
        return store

    def hold(self, pixels: Tensor, sizes: list[tuple[int, int]], device: torch.device | str) -> None:
        heights, widths = torch.tensor(sizes, dtype=torch.int64).T
        samples = heights * widths * 3
        self.offsets = (samples.cumsum(0) - samples).to(device)
        self.heights, self.widths, self.pixels = heights.to(device), widths.to(device), pixels.to(device)
        self.smallest = int(min(heights.min(), widths.min()))
        # Short sides in order, and how much of the whole area the pictures below each of them have.
        short, order = torch.minimum(heights, widths).sort()
        areas = (heights * widths)[order].cumsum(0)
        self.largest = int(short[-1])
        self.largest_window = int(short[torch.searchsorted(areas, areas[-1] // 2)])
        self._areas: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def megapixels(self) -> float:
        return self.pixels.numel() / 3e6

    def crops(self, count: int, size: int, generator: torch.Generator, shrink: float = 1.0) -> Tensor:
        """Random crops `(count, 3, size, size)` float32 of 0..255, flipped and transposed at random.

        `shrink` <= 1 downscales the crop (the same for the whole batch) from a window of size / shrink, which also
        removes what is left of earlier compression; windows grow up to the short side that half of all pixels' pictures have.
        Pictures are drawn in proportion to their area, from those that are large enough.
        """
        device = self.pixels.device
        if size > self.largest:
            raise ImageError(f"the largest training picture has only {self.largest} pixels a side; --crop {size} is too large")
        window = max(size, min(self.largest_window, round(size / shrink)))
        draw = torch.rand(3, count, generator=generator, device=device)
        if window not in self._areas:
            fitting = torch.minimum(self.heights, self.widths) >= window
            self._areas[window] = (self.heights * self.widths * fitting).double().cumsum(0)
        areas = self._areas[window]
        index = torch.searchsorted(areas, draw[0].double() * areas[-1], right=True).clamp(max=len(self) - 1)
        top = (draw[1] * (self.heights[index] - window + 1)).long().clamp_min(0)
        left = (draw[2] * (self.widths[index] - window + 1)).long().clamp_min(0)
        row_length = self.widths[index] * 3
        span = torch.arange(window, device=device)
        start = self.offsets[index] + top * row_length + left * 3
        rows = start[:, None] + span[None] * row_length[:, None]
        samples = rows[:, :, None] + torch.arange(window * 3, device=device)[None, None]
        crops = self.pixels[samples].view(count, window, window, 3).permute(0, 3, 1, 2)
        flips = torch.rand(3, count, generator=generator, device=device) < 0.5
        for axis, chosen in ((2, flips[0]), (3, flips[1])):
            crops = torch.where(chosen[:, None, None, None], crops.flip(axis), crops)
        crops = torch.where(flips[2][:, None, None, None], crops.transpose(2, 3), crops).float()
        if window > size:
            crops = F.interpolate(crops, size=(size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)
        return crops.contiguous()


def picture_sources(folder: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and reader of every picture in a folder: loose files (any depth) and the members of .tar shards."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() == ".tar":
            with tarfile.open(path) as shard:
                for member in shard:
                    if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                        data = shard.extractfile(member).read()
                        yield f"{path.name}/{member.name}", lambda data=data: data
        elif path.suffix.lower() in SUFFIXES:
            yield str(path.relative_to(folder)), path.read_bytes


def load_pictures(folder: Path, *, min_side: int, limit: int | None = None, workers: int | None = None, progress: Callable[[int], None] | None = None,
                  sources: Iterator[tuple[str, Callable[[], bytes]]] | None = None) -> list[np.ndarray]:
    """Decodes every picture of `folder` to `(H, W, 3)` uint8; those with a side below `min_side` are left out.

    `sources`, names and readers, take the place of what `picture_sources` finds in the folder.
    Raises ImageError when the folder does not exist or a name belongs to the Kodak test set: nobody may train on it.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder; --data needs a folder with pictures or .tar shards of pictures")

    def decode(source: tuple[str, Callable[[], bytes]]) -> np.ndarray | None:
        name, read = source
        if any(word in name.lower() for word in TEST_SET_NAMES):
            raise ImageError(f"{name} looks like a picture of the Kodak test set, which must never be trained on; remove it from --data")
        try:
            with Image.open(io.BytesIO(read())) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ImageError(f"training picture {name} cannot be read ({error}); remove it from --data") from None
        return pixels if min(pixels.shape[:2]) >= min_side else None

    pictures: list[np.ndarray] = []
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for picture in pool.map(decode, sources or picture_sources(folder)):
            if picture is not None:
                pictures.append(picture)
            if progress is not None:
                progress(len(pictures))
            if limit is not None and len(pictures) >= limit:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    return pictures
