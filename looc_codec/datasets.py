"""The papers' data sets, read from the files they are published as, without torchvision and without unpickling.

Small sets (MNIST, Fashion-MNIST, CIFAR-10) come whole as arrays; sets of photographs (FFHQ, ImageNet, CelebA, LSUN) as
lists of files. Folders are laid out as torchvision expects them, so that one copy serves both; `LAYOUTS` says how.
Nothing is downloaded.
"""

from __future__ import annotations

import gzip
import lzma
import pickletools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from looc_codec.data import SUFFIXES, load_pictures
from looc_codec.errors import ImageError

SMALL_SETS = ("mnist", "fashion-mnist", "cifar10")
PHOTO_SETS = ("ffhq", "imagenet", "celeba", "lsun-church", "lsun-bedroom")
DATASETS = (*SMALL_SETS, *PHOTO_SETS)
SMALL_SIDES = {"mnist": 28, "fashion-mnist": 28, "cifar10": 32}
"""Pixels along each side of the small sets' pictures."""

LAYOUTS = {
    "mnist": "DIR/MNIST/raw/train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain or with .gz or .xz",
    "fashion-mnist": "DIR/FashionMNIST/raw/train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain or with .gz or .xz",
    "cifar10": "DIR/cifar-10-batches-bin/data_batch_1.bin … data_batch_5.bin and test_batch.bin, or the same without .bin in DIR/cifar-10-batches-py",
    "ffhq": "DIR/ffhq with pictures 00000 to 69999 at any depth; those below 60000 are for training",
    "imagenet": "DIR/imagenet/train/CLASS/*.JPEG and DIR/imagenet/val/CLASS/*.JPEG",
    "celeba": "DIR/celeba/img_align_celeba/*.jpg and DIR/celeba/list_eval_partition.txt",
    "lsun-church": "DIR/church_outdoor_train and DIR/church_outdoor_val with pictures at any depth (exported from LSUN's databases)",
    "lsun-bedroom": "DIR/bedroom_train and DIR/bedroom_val with pictures at any depth (exported from LSUN's databases)",
}

CIFAR_SIDE = 32
CIFAR_RECORD = 1 + 3 * CIFAR_SIDE**2
FFHQ_TRAINING = 60_000
"""FFHQ's own split: the first 60,000 of 70,000 faces are for training."""
IDX_UINT8 = 0x08
IDX_LARGEST = 1 << 31


@dataclass(frozen=True)
class SmallSet:
    """`pictures` `(n, H, W, c)` uint8, c = 1 or 3; `labels` `(n,)` uint8; `title` for people, with what is missing."""

    title: str
    pictures: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class PhotoSet:
    """Files of pictures of any size; `title` for people."""

    title: str
    paths: list[Path]

    def crop(self, index: int, side: int) -> np.ndarray:
        """The middle square of a picture, resized with antialiasing: `(side, side, 3)` uint8.

        Raises ImageError when the file cannot be read.
        """
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                picture = image.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ImageError(f"picture {path} cannot be read ({error}); remove it from the data set") from None
        width, height = picture.size
        short = min(width, height)
        left, top = (width - short) // 2, (height - short) // 2
        box = (left, top, left + short, top + short)
        return np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS, box=box))


def load_small(name: str, root: Path, split: str) -> SmallSet:
    """The "train" or "test" split of a set of `SMALL_SETS`.

    Raises ImageError when the files are not below `root` in the layout of `LAYOUTS`, or are damaged.
    """
    return _cifar10(root, split) if name == "cifar10" else _idx_set(name, root, split)


def list_photos(name: str, root: Path, split: str) -> PhotoSet:
    """The files of the "train" or "test" split of a set of `PHOTO_SETS`; ImageError when there are none."""
    paths = list(_photo_paths(name, root, split))
    if not paths:
        raise _not_there(name, root)
    return PhotoSet(f"{name} {split}, {len(paths)} pictures", paths)


def training_pictures(name: str, root: Path, *, min_side: int, limit: int | None = None, **options) -> list[np.ndarray]:
    """Training pictures `(H, W, 3)` uint8 of a data set for the codec's trainer; "folder" is any folder of pictures.

    `options` go to `data.load_pictures`. Raises ImageError when nothing is there, or when every picture is smaller
    than `min_side`.
    """
    if name == "folder":
        return load_pictures(root, min_side=min_side, limit=limit, **options)
    if name in PHOTO_SETS:
        sources = ((str(path), path.read_bytes) for path in list_photos(name, root, "train").paths)
        return load_pictures(root, min_side=min_side, limit=limit, sources=sources, **options)
    found = load_small(name, root, "train")
    height, width = found.pictures.shape[1:3]
    if min(height, width) < min_side:
        raise ImageError(f"the pictures of {name} have {width} x {height} pixels, too few for crops of {min_side}; choose a smaller --crop or a set of larger pictures")
    pictures = found.pictures[:limit]
    return list(np.broadcast_to(pictures, (*pictures.shape[:3], 3)))


# --- MNIST and Fashion-MNIST ----------------------------------------------------------------------------------------


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an idx file (plain, .gz or .xz), the format of MNIST: 0, 0, type, dimensions, sizes, data.

    Raises ImageError when the file is damaged or holds another type.
    """
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    try:
        with opener(path, "rb") as file:
            data = file.read(IDX_LARGEST)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ImageError(f"{path} cannot be read ({error}); get the file again") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != IDX_UINT8 or not 1 <= data[3] <= 4:
        raise ImageError(f"{path} is not an idx file of bytes; get the file again")
    start = 4 + 4 * data[3]
    sizes = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    expected = start + int(np.prod(sizes, dtype=object))
    if len(data) != expected:
        raise ImageError(f"{path} has {len(data)} bytes where its header needs {expected}; get the file again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(sizes)


def _idx_set(name: str, root: Path, split: str) -> SmallSet:
    folder = root / {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[name] / "raw"
    prefix = "train" if split == "train" else "t10k"
    arrays = []
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        found = [path for suffix in ("", ".gz", ".xz") if (path := folder / f"{prefix}-{kind}{suffix}").is_file()]
        if not found:
            raise _not_there(name, root)
        arrays.append(read_idx(found[0]))
    pictures, labels = arrays
    if pictures.ndim != 3 or labels.ndim != 1 or len(pictures) != len(labels):
        raise ImageError(f"images and labels of {name} {split} in {folder} do not belong together; get the files again")
    return SmallSet(f"{'MNIST' if name == 'mnist' else 'Fashion-MNIST'} {split}, {len(pictures)} pictures", pictures[..., None], labels)


# --- CIFAR-10 -------------------------------------------------------------------------------------------------------


def _cifar10(root: Path, split: str) -> SmallSet:
    names = [f"data_batch_{number}" for number in range(1, 6)] if split == "train" else ["test_batch"]
    binary, python, part = (root / folder for folder in ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar10_part"))
    if all((binary / f"{name}.bin").is_file() for name in names):
        batches = [_cifar_binary(binary / f"{name}.bin") for name in names]
    elif all((python / name).is_file() for name in names):
        batches = [_cifar_python(python / name) for name in names]
    elif part.is_dir():
        return _cifar_part(part, split)
    else:
        raise _not_there("cifar10", root)
    planes = np.concatenate([pixels for pixels, _ in batches])
    pictures = np.ascontiguousarray(planes.reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1))
    return SmallSet(f"CIFAR-10 {split}, {len(pictures)} pictures", pictures, np.concatenate([labels for _, labels in batches]))


def _cifar_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Planes `(n, 3072)` and labels `(n,)` of a file of the binary version: a label byte and 3 × 1024 bytes each."""
    data = np.fromfile(path, np.uint8)
    if not len(data) or len(data) % CIFAR_RECORD:
        raise ImageError(f"{path} has {len(data)} bytes, not a multiple of {CIFAR_RECORD}; get the file again")
    records = data.reshape(-1, CIFAR_RECORD)
    return records[:, 1:], records[:, 0]


def _cifar_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Planes and labels of a file of the Python version, found among its opcodes; nothing of the pickle is executed.

    The pictures are the one long byte string, the labels the whole numbers between the keys "labels" and the next key.
    """
    planes, labels, reading = b"", [], False
    try:
        for opcode, argument, _ in pickletools.genops(path.read_bytes()):
            if isinstance(argument, (str, bytes)):
                text = argument.encode("latin1") if isinstance(argument, str) else argument
                if len(text) > len(planes) and not len(text) % (CIFAR_RECORD - 1):
                    planes = text
                reading = text == b"labels"
            elif reading and opcode.name in ("BININT1", "BININT", "INT"):
                labels.append(argument)
            elif labels and opcode.name in ("APPENDS", "SETITEM", "SETITEMS"):
                reading = False
    except (ValueError, UnicodeError) as error:
        raise ImageError(f"{path} is not a file of CIFAR-10's Python version ({error}); get it again") from None
    if not planes or len(labels) != len(planes) // (CIFAR_RECORD - 1) or not all(0 <= label < 10 for label in labels):
        raise ImageError(f"{path} does not hold as many labels as pictures of CIFAR-10; get it again")
    return np.frombuffer(planes, np.uint8).reshape(-1, CIFAR_RECORD - 1), np.array(labels, np.uint8)


def _cifar_part(folder: Path, split: str) -> SmallSet:
    """A lossless part of CIFAR-10: columns of 32 × 32 pictures as `<split>_NN.webp`, labels as one digit each."""
    sheets = sorted(folder.glob(f"{split}_*.webp"))
    columns = []
    for path in sheets:
        try:
            with Image.open(path) as image:
                column = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise ImageError(f"{path} cannot be read ({error}); get the file again") from None
        if column.shape[1] != CIFAR_SIDE or column.shape[0] % CIFAR_SIDE:
            raise ImageError(f"{path} is not a column of {CIFAR_SIDE} x {CIFAR_SIDE} pictures; get the file again")
        columns.append(column.reshape(-1, CIFAR_SIDE, CIFAR_SIDE, 3))
    listing = folder / f"labels_{split}.txt"
    if not columns or not listing.is_file():
        raise ImageError(f"{folder} lacks {split}_00.webp or {listing.name}; get the folder again")
    pictures, labels = np.concatenate(columns), np.array(list("".join(listing.read_text().split())), np.uint8)
    if len(labels) != len(pictures):
        raise ImageError(f"{folder} holds {len(pictures)} pictures but {len(labels)} labels of {split}; get the folder again")
    return SmallSet(f"part of CIFAR-10 {split}, {len(pictures)} pictures", pictures, labels)


# --- photographs ----------------------------------------------------------------------------------------------------


def _photo_paths(name: str, root: Path, split: str) -> Iterator[Path]:
    train = split == "train"
    if name == "ffhq":
        for path in _pictures_below(root / "ffhq"):
            number = re.search(r"\d+", path.stem)
            if number and (int(number.group()) < FFHQ_TRAINING) == train:
                yield path
    elif name == "imagenet":
        yield from _pictures_below(root / "imagenet" / ("train" if train else "val"))
    elif name == "celeba":
        yield from _celeba_paths(root / "celeba", "0" if train else "2")
    else:
        scene = {"lsun-church": "church_outdoor", "lsun-bedroom": "bedroom"}[name]
        yield from _pictures_below(root / f"{scene}_{'train' if train else 'val'}")


def _celeba_paths(folder: Path, part: str) -> Iterator[Path]:
    listing = folder / "list_eval_partition.txt"
    if listing.is_file():
        for line in listing.read_text().splitlines():
            name, _, number = line.strip().partition(" ")
            path = folder / "img_align_celeba" / Path(name).name
            if number.strip() == part and path.is_file():
                yield path


def _pictures_below(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)


def _not_there(name: str, root: Path) -> ImageError:
    return ImageError(f"{name} is not in {root}; expected {LAYOUTS[name]}")
