"""Start-up: what does not need torch must not load it, since that alone takes two seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import Image

from looc_codec.format.container import Container, pack

HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "numpy", "safetensors", "scipy", "matplotlib", "skimage", "constriction")


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `code`."""
    code += "\nimport sys\nprint('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.splitlines()[-1].split())


def command(*arguments: str) -> str:
    return (
        f"import sys; sys.argv = ['looc', *{arguments!r}]\n"
        "from looc_codec.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import looc_codec; looc_codec.LoocError",
        command("--help"),
        command("--version"),
        command("compress", "--help"),
        command("decompress", "--help"),
        command("train", "--help"),
        command("reproduce", "--help"),
        *(command(name, "--help") for name in ("info", "verify", "truncate", "thumbnail", "selftest", "report", "models")),
        command("models"),
    ],
)
def test_does_not_load_heavy_packages(code):
    loaded = modules_after(code)
    assert "looc_codec" in loaded
    assert not loaded & set(HEAVY)


def test_info_of_a_file_does_not_load_heavy_packages(tmp_path):
    path = tmp_path / "x.looc"
    path.write_bytes(pack(Container(40, 30, 50, bytes(8), (b"first", b"group"), code_checksum=1)))
    loaded = modules_after(command("info", str(path)) + command("info", "--json", str(path)))
    assert not loaded & {*HEAVY, "PIL"}


def test_public_names_are_there_without_being_loaded():
    code = "import looc_codec\nassert {'compress', 'decompress', 'load_model'} <= set(dir(looc_codec))"
    assert "torch" not in modules_after(code)


def test_no_command_but_those_of_training_loads_torch(tmp_path):
    """Torch is installed here; a command that could use it must not take its seconds."""
    picture, packed = tmp_path / "a.png", tmp_path / "a.looc"
    Image.new("RGB", (40, 30), (200, 10, 10)).save(picture)
    for arguments in (
        ("compress", picture, "-o", packed), ("compress", picture, "--target-size", "400", "-o", tmp_path / "b.looc"),
        ("decompress", packed, "-o", tmp_path / "b.png"), ("decompress", packed, "--scale", "1/4", "-o", tmp_path / "c.png"),
        ("info", packed), ("verify", packed), ("models",), ("thumbnail", packed, tmp_path / "d.png"),
        ("truncate", packed, "--groups", "1", "-o", tmp_path / "c.looc"),
    ):  # fmt: skip
        loaded = modules_after(command(*map(str, arguments)))
        assert "looc_codec" in loaded and not loaded & {"torch", "torchvision", "onnx"}, arguments
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png", "c.png", "d.png", "a.looc", "b.looc", "c.looc"}
