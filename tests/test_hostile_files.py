"""What the fuzzer (tools/fuzz.py) found, kept found: reading reserves no more than a file has, and weights files are checked in full."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

import looc_codec.pillow_plugin  # noqa: F401
from looc_codec.format import container
from looc_codec.cli.streams import read_looc_bytes
from looc_codec.codec.model import CRITICAL, read_model
from looc_codec.codec.search import GRID_CELLS_MAX, ShortLists
from looc_codec.config import LoocConfig
from looc_codec.format.container import Container, pack
from looc_codec.errors import ModelError
from looc_codec.files import read_at_most
from looc_codec.format.integers import fingerprint_of

SMALL_BYTES = 8 * 2**20


@contextmanager
def little_memory():
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < SMALL_BYTES
    finally:
        tracemalloc.stop()


@pytest.fixture
def small_file(tmp_path) -> Path:
    path = tmp_path / "small.looc"
    path.write_bytes(pack(Container(40, 30, 50, bytes(8), (b"first", b"group"), code_checksum=1)))
    return path


def test_reading_a_small_file_reserves_little(small_file):
    """`file.read(limit)` reserved 1 GiB for every file, so that `looc info` failed under `ulimit -v`."""
    with little_memory():
        assert read_looc_bytes(str(small_file)) == small_file.read_bytes()


def test_reading_stops_at_the_limit(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(bytes(range(256)) * 10_000)
    for limit in (0, 1, 2**20, 2**20 + 1, 2_560_000, 5_000_000):
        with path.open("rb") as file:
            assert read_at_most(file, limit) == path.read_bytes()[:limit]


def test_pillow_reads_no_more_than_there_is(small_file):
    """A header that claims gigabytes made Pillow's plug-in ask for them at once."""
    data = small_file.read_bytes()
    lengths = data.index(bytes([5, 5]))
    small_file.write_bytes(data[:lengths] + b"\xff\xff\xff\xff\x7f" + data[lengths + 1 :])
    assert container.read_header(small_file.read_bytes()).file_bytes > 2**34
    with little_memory(), Image.open(small_file) as image, pytest.raises(OSError, match="truncated"):
        image.verify()


# --- weights files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field, value",
    [
        ("channels", "24"), ("channels", 2**20), ("channels", True), ("codebook_size", 8), ("groups", 24), ("groups", ()), ("groups", (24.0,)),
        ("groups", (-8, 32)), ("prior_width", 2**16), ("prior_depth", -1), ("scale_classes", None), ("ratio_classes", 4),
        ("analysis_widths", (8,)), ("synthesis_blocks", (1, 1)), ("synthesis_widths", 8), ("synthesis_hidden", (640,)), ("synthesis_hidden", (0,) * 12),
        ("synthesis_hidden", (2**20,) * 12), ("quality_anchors", 1), ("quality_anchors", [1]),
        ("step_coarsest", float("nan")), ("step_finest", 0.0), ("name", 5), ("scale_classes", "x"),
    ],
)  # fmt: skip
def test_ill_typed_or_huge_configurations_are_refused(field, value):
    with pytest.raises(ModelError, match="invalid model configuration"):
        dataclasses.replace(LoocConfig(), **{field: value})


def test_tables_of_gigabytes_are_refused():
    with pytest.raises(ModelError, match="tables could have"):
        dataclasses.replace(LoocConfig(), codebook_size=32767, scale_classes=256, ratio_classes=63)


def forged(source: Path, target: Path, change) -> Path:
    """A copy of a weights file with changed tensors and the fingerprint that fits them, as an attacker would make it."""
    with safe_open(source, framework="np") as file:
        meta = json.loads(file.metadata()["looc"])
        tensors = {name: file.get_tensor(name).copy() for name in file.keys()}
    change(tensors)
    core = {name.removeprefix(CRITICAL): value for name, value in tensors.items() if name.startswith(CRITICAL)}
    meta["fingerprint"] = fingerprint_of(LoocConfig.from_dict(meta["config"]), core).hex()
    save_file(tensors, target, metadata={"looc": json.dumps(meta)})
    return target


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 8])
def test_far_codevectors_reserve_no_gigabytes(dim):
    """A forged model whose codevectors reached the ends of int16 asked for a grid of 7.7 GiB when it coded a picture."""
    steps = np.zeros((8, dim), np.float32)
    steps[1:] = np.linspace(-128, 128, 7, dtype=np.float32)[:, None]
    lists = ShortLists(steps, np.arange(8), 4)
    assert len(lists.lists) <= GRID_CELLS_MAX
    found, distance = lists.of(steps)
    assert (found[:, -1] == 0).all() and np.allclose(np.square(steps[found] - steps[:, None]).sum(2), distance)


def test_a_faithful_copy_loads(tiny_model_file, tmp_path):
    assert read_model(forged(tiny_model_file, tmp_path / "a.safetensors", lambda tensors: None)).name == "tiny"


@pytest.mark.parametrize(
    "name, value",
    [
        ("core.prior.companding", lambda old: old[:100].copy()),
        ("core.prior.companding", lambda old: np.full_like(old, 255)),
        ("core.prior.nets.1.0.quality", lambda old: old[:50].copy()),
        ("core.prior.nets.1.0.entry.weight", lambda old: old[:1, :1, :1, :1].copy()),
        ("core.prior.nets.1.0.entry.weight", lambda old: old.astype(np.float32)),
        ("core.prior.nets.1.0.entry.exponent", lambda old: np.full_like(old, -128)),
        ("core.prior.nets.1.0.entry.bias", lambda old: np.full_like(old, 2**24)),
        ("core.codebook.frequencies", lambda old: np.full_like(old, 1)),
        ("core.codebook.frequencies", lambda old: old[0].copy()),
        ("core.codebook.codevectors", lambda old: np.full_like(old, 3)),
        ("core.codebook.codevectors", lambda old: old[:0].copy()),
        ("core.codebook.digit_factor", lambda old: np.full_like(old, 255)),
        ("core.codebook.digit_factor", lambda old: old[:0].copy()),
        ("core.codebook.live", lambda old: np.full_like(old, 2)),
        ("core.codebook.live", lambda old: np.full_like(old, 0)),
        ("core.codebook.live", lambda old: old[:0].copy()),
        ("synthesis.linear.scales", lambda old: np.full_like(old, float("nan"))),
        ("synthesis.linear.scales", lambda old: old[:1].copy()),
        ("synthesis.linear", lambda old: old[:-1].copy()),
        ("synthesis.linear", lambda old: old.astype(np.float32)),
    ],
)
def test_tensors_of_an_illegal_core_are_refused(tiny_model_file, tmp_path, name, value):
    """Each of these loaded, or failed with another error, when it came with the fingerprint that fits it."""

    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = value(tensors[name])

    with pytest.raises(ModelError):
        read_model(forged(tiny_model_file, tmp_path / "a.safetensors", change))


@pytest.mark.parametrize("change", ["byte", "missing", "another model's"])
def test_damaged_graphs_are_refused(tiny_model_file, tmp_path, change):
    def damage(tensors: dict[str, np.ndarray]) -> None:
        if change == "byte":
            tensors["graph.analysis"][len(tensors["graph.analysis"]) // 2] ^= 1
        elif change == "missing":
            del tensors["graph.analysis"]
        else:
            tensors["graph.analysis"] = tensors["graph.filter"]

    with pytest.raises(ModelError):
        read_model(forged(tiny_model_file, tmp_path / "a.safetensors", damage))


def test_deeply_nested_json_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, path, metadata={"looc": "[" * 100_000})
    with pytest.raises(ModelError, match="not a looc weights file"):
        read_model(path)
