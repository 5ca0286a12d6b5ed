"""The codec's promise: whatever compresses or opens a picture runs where torch cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_codec import photo

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "looc_codec"
TRAINING = {"training", "networks", "quantizers", "reproduction", "effort", "data", "datasets"}
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "onnx"):
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

sys.meta_path.insert(0, Blocked())
"""


def without_torch(code: str, *arguments: object) -> subprocess.CompletedProcess:
    """Runs code in a fresh process where torch cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )


def command(*arguments: object) -> subprocess.CompletedProcess:
    return without_torch("sys.argv[0] = 'looc'\nfrom looc_codec.cli import main\nmain()", *arguments)


def test_the_block_blocks():
    assert "torch is not installed" in without_torch("import torch").stderr


def test_every_core_module_imports():
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in TRAINING | {"weights", "__main__"}:
            names.append(".".join(("looc_codec", *(part for part in parts if part != "__init__"))))
    done = without_torch(f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\nassert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr
    assert len(names) > 60


def test_the_whole_round_trip(tmp_path):
    source, packed, back = (tmp_path / name for name in ("a.png", "a.looc", "back.png"))
    Image.fromarray(photo(90, 70)).save(source)
    for arguments in (
        ("compress", source, "-o", packed),
        ("decompress", packed, "-o", back),
        ("decompress", packed, "--scale", "1/4", "-o", tmp_path / "small.png"),
        ("info", packed), ("verify", packed), ("models",), ("thumbnail", packed, tmp_path / "thumbnail.png"),
        ("truncate", packed, "--groups", "2", "-o", tmp_path / "cut.looc"),
        ("compress", source, "--target-psnr", "28", "-o", tmp_path / "b.looc"),
    ):  # fmt: skip
        done = command(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    with Image.open(back) as image, Image.open(tmp_path / "small.png") as small:
        assert image.size == (90, 70) and small.size == (23, 18)


def test_the_plugin_the_selftest_and_the_reports_codec(tmp_path):
    path = tmp_path / "a.looc"
    Image.fromarray(photo(60, 40)).save(tmp_path / "a.png")
    code = """
import numpy as np
from PIL import Image
import looc_codec.pillow_plugin
from looc_codec import registry, selftest
from looc_codec.report.codecs import LoocCodec
Image.open(sys.argv[2]).save(sys.argv[1], quality=40)
pixels = np.asarray(Image.open(sys.argv[1]))
assert pixels.shape == (40, 60, 3)
for entry in registry.installed_models():
    assert selftest.check_golden(entry).passed
codec = LoocCodec("photo")
assert codec.decode(codec.encode(pixels, 30)).shape == pixels.shape
assert 'torch' not in sys.modules
"""
    done = without_torch(code, path, tmp_path / "a.png")
    assert done.returncode == 0, done.stderr


def test_effort_says_what_it_needs(tmp_path):
    Image.fromarray(photo(40, 30)).save(tmp_path / "a.png")
    done = command("compress", tmp_path / "a.png", "--effort", "1")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "torch" in done.stderr and "looc[train]" in done.stderr
    assert not (tmp_path / "a.looc").exists()


@pytest.mark.parametrize("name", ["train", "reproduce"])
def test_training_says_what_it_needs(tmp_path, name):
    arguments = {"train": ("--data", tmp_path, "--out", tmp_path / "out"), "reproduce": ("1",)}[name]
    done = command(name, *arguments)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "looc[train]" in done.stderr


def test_pixels_are_those_of_this_process(tmp_path):
    import looc_codec

    data = looc_codec.compress(photo(90, 70), quality=50)
    (tmp_path / "a.looc").write_bytes(data)
    assert command("decompress", tmp_path / "a.looc", "-o", tmp_path / "a.png").returncode == 0
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(looc_codec.decompress(data)))
