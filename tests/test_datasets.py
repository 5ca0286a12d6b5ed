"""Readers of the papers' data sets on small generated files, and what they say when something is missing or damaged."""

from __future__ import annotations

import gzip
import lzma
import struct

import numpy as np
import pytest
from PIL import Image

from looc_codec.datasets import DATASETS, LAYOUTS, SMALL_SETS, list_photos, load_small, read_idx, training_pictures
from looc_codec.errors import ImageError


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape) + array.tobytes()


def write_mnist(root, name="MNIST", counts=(12, 5), side=28, compress=lambda data: data, suffix=""):
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(1)
    written = {}
    for prefix, count in zip(("train", "t10k"), counts, strict=True):
        pictures, labels = rng.integers(0, 256, (count, side, side), np.uint8), rng.integers(0, 10, count, np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(compress(idx_bytes(pictures)))
        (raw / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(compress(idx_bytes(labels)))
        written[prefix] = pictures, labels
    return written


@pytest.mark.parametrize(("suffix", "compress"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize(("dataset", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_sets_are_read_plain_and_compressed(tmp_path, dataset, folder, suffix, compress):
    written = write_mnist(tmp_path, folder, compress=compress, suffix=suffix)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        found = load_small(dataset, tmp_path, split)
        assert np.array_equal(found.pictures[..., 0], written[prefix][0])
        assert np.array_equal(found.labels, written[prefix][1])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an idx file"),
        (b"\0\0\x0d\x01\0\0\0\x01" + b"\0" * 4, "not an idx file of bytes"),
        (idx_bytes(np.zeros((3, 4), np.uint8))[:-1], "23 bytes where its header needs 24"),
        (idx_bytes(np.zeros((3, 4), np.uint8)) + b"x", "25 bytes where its header needs 24"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "where its header needs"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, data, words):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=words):
        read_idx(path)


def test_damaged_compression_is_refused(tmp_path):
    for suffix in (".gz", ".xz"):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(b"not compressed")
        with pytest.raises(ImageError, match="get the file again"):
            read_idx(path)


def cifar_batches(count: int):
    rng = np.random.default_rng(2)
    return [(rng.integers(0, 256, (count, 3072), np.uint8), rng.integers(0, 10, count, np.uint8)) for _ in range(6)]


CIFAR_NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def check_cifar(root, batches):
    train, test = load_small("cifar10", root, "train"), load_small("cifar10", root, "test")
    planes = np.concatenate([pixels for pixels, _ in batches[:5]])
    assert np.array_equal(train.pictures.transpose(0, 3, 1, 2).reshape(-1, 3072), planes)
    assert np.array_equal(train.labels, np.concatenate([labels for _, labels in batches[:5]]))
    assert np.array_equal(test.pictures.transpose(0, 3, 1, 2).reshape(-1, 3072), batches[5][0])


def test_cifar_binary_version(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    batches = cifar_batches(3)
    for name, (pixels, labels) in zip(CIFAR_NAMES, batches, strict=True):
        (folder / f"{name}.bin").write_bytes(np.concatenate([labels[:, None], pixels], 1).tobytes())
    check_cifar(tmp_path, batches)
    (folder / "test_batch.bin").write_bytes(b"x" * 3074)
    with pytest.raises(ImageError, match="not a multiple of 3073"):
        load_small("cifar10", tmp_path, "test")


def python_batch(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """What Python 2 wrote for {'labels': [...], 'data': <bytes>} with protocol 2, reduced to what matters."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    data = b"T" + struct.pack("<I", pixels.size) + pixels.tobytes()
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"batch_label") + text(b"training batch") + text(b"labels") + numbers + text(b"data") + data + b"u."


def test_cifar_python_version_is_read_without_executing_it(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batches = cifar_batches(4)
    for name, (pixels, labels) in zip(CIFAR_NAMES, batches, strict=True):
        (folder / name).write_bytes(python_batch(pixels, labels))
    check_cifar(tmp_path, batches)
    # A pickle that would run a command is only a stream of opcodes without pictures.
    (folder / "test_batch").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(ImageError, match="as many labels as pictures"):
        load_small("cifar10", tmp_path, "test")
    assert not (tmp_path / "ran").exists()


def test_lossless_part_of_cifar(tmp_path):
    folder = tmp_path / "cifar10_part"
    folder.mkdir()
    pictures = np.random.default_rng(3).integers(0, 256, (5, 32, 32, 3), np.uint8)
    for number, part in enumerate((pictures[:3], pictures[3:])):
        Image.fromarray(part.reshape(-1, 32, 3)).save(folder / f"train_0{number}.webp", lossless=True)
    (folder / "labels_train.txt").write_text("01234\n")
    found = load_small("cifar10", tmp_path, "train")
    assert np.array_equal(found.pictures, pictures)
    assert found.labels.tolist() == [0, 1, 2, 3, 4]
    assert "part" in found.title
    (folder / "labels_train.txt").write_text("0123\n")
    with pytest.raises(ImageError, match="5 pictures but 4 labels"):
        load_small("cifar10", tmp_path, "train")


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_missing_data_set_says_what_is_expected(tmp_path, dataset):
    load = load_small if dataset in SMALL_SETS else list_photos
    with pytest.raises(ImageError) as caught:
        load(dataset, tmp_path, "train")
    assert LAYOUTS[dataset] in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def picture(path, size=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)).save(path)


def test_splits_of_photograph_sets(tmp_path):
    for number in ("00000/00012.png", "69000/69999.png"):
        picture(tmp_path / "ffhq" / number)
    picture(tmp_path / "imagenet/train/n01/a.JPEG")
    picture(tmp_path / "imagenet/val/n01/b.JPEG")
    for name in "abc":
        picture(tmp_path / f"celeba/img_align_celeba/{name}.jpg")
    (tmp_path / "celeba/list_eval_partition.txt").write_text("a.jpg 0\nb.jpg 1\nc.jpg 2\nmissing.jpg 0\n")
    picture(tmp_path / "church_outdoor_train/0/x.webp")
    expected = {
        ("ffhq", "train"): ["00012.png"], ("ffhq", "test"): ["69999.png"], ("imagenet", "train"): ["a.JPEG"], ("imagenet", "test"): ["b.JPEG"],
        ("celeba", "train"): ["a.jpg"], ("celeba", "test"): ["c.jpg"], ("lsun-church", "train"): ["x.webp"],
    }  # fmt: skip
    for (dataset, split), names in expected.items():
        assert [path.name for path in list_photos(dataset, tmp_path, split).paths] == names


def test_photographs_become_squares(tmp_path):
    picture(tmp_path / "ffhq/00001.png", (40, 24))
    photos = list_photos("ffhq", tmp_path, "train")
    assert photos.crop(0, 16).shape == (16, 16, 3)
    whole = np.asarray(Image.open(photos.paths[0]))
    assert np.array_equal(photos.crop(0, 24), whole[:, 8:32])
    photos.paths[0].write_bytes(b"nothing")
    with pytest.raises(ImageError, match="00001.png cannot be read"):
        photos.crop(0, 16)


def test_codec_trainer_takes_data_sets(tmp_path):
    write_mnist(tmp_path)
    write_mnist(tmp_path, "FashionMNIST", side=48)
    picture(tmp_path / "ffhq/00001.png", (40, 48))
    with pytest.raises(ImageError, match="28 x 28 pixels, too few for crops of 32"):
        training_pictures("mnist", tmp_path, min_side=32)
    assert [part.shape for part in training_pictures("fashion-mnist", tmp_path, min_side=32, limit=2)] == [(48, 48, 3)] * 2
    assert [part.shape for part in training_pictures("ffhq", tmp_path, min_side=32)] == [(48, 40, 3)]
    assert len(training_pictures("folder", tmp_path / "ffhq", min_side=8)) == 1


def test_train_command_refuses_pictures_smaller_than_the_crop(tmp_path):
    import subprocess
    import sys

    write_mnist(tmp_path)
    command = [sys.executable, "-m", "looc_codec", "train", "--data", str(tmp_path), "--dataset", "mnist", "--crop", "32", "--out", str(tmp_path / "run"), "--steps", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "28 x 28 pixels" in done.stderr and len(done.stderr.splitlines()) == 1
