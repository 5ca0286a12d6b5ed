"""Start-up: what does not need torch must not load it, since that alone takes two seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from looc_codec.format.container import Container, pack

HEAVY = ("torch", "torchvision", "scipy", "matplotlib", "skimage", "constriction")


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
    assert not loaded & {*HEAVY, "PIL", "numpy"}


def test_public_names_are_there_without_being_loaded():
    code = "import looc_codec\nassert {'compress', 'decompress', 'load_model'} <= set(dir(looc_codec))"
    assert "torch" not in modules_after(code)
