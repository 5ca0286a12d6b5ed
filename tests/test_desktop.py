"""The files for Linux desktops (docs/DESKTOP.md) and the command that they call."""

from __future__ import annotations

import configparser
import io
import shlex
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from test_codec import photo
from typer.testing import CliRunner

from looc_codec import api, registry
from looc_codec.format import container
from looc_codec.cli import app
from looc_codec.pillow_plugin import MIME_TYPE

DESKTOP = Path(__file__).parent.parent / "docs" / "desktop"


@pytest.fixture
def looc_file(tiny_model, tiny_model_file, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(registry, "model_folders", lambda: [tiny_model_file.parent])
    rgba = np.dstack([photo(90, 40), np.full((40, 90), 128, np.uint8)])
    path = tmp_path / "a picture.looc"
    path.write_bytes(api.compress(Image.fromarray(rgba), quality=60, model=tiny_model))
    return path


def entry(name: str, section: str) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(delimiters="=")
    parser.optionxform = str
    parser.read(DESKTOP / name)
    return parser[section]


def test_the_type_is_known_by_its_magic():
    root = ElementTree.parse(DESKTOP / "looc.xml").getroot()
    space = "{http://www.freedesktop.org/standards/shared-mime-info}"
    kind = root.find(f"{space}mime-type")
    assert kind.get("type") == MIME_TYPE
    match = kind.find(f"{space}magic/{space}match")
    assert match.get("value").encode().decode("unicode_escape").encode("latin-1") == container.MAGIC and match.get("offset") == "0"
    assert kind.find(f"{space}glob").get("pattern") == "*.looc"


@pytest.mark.skipif(shutil.which("update-mime-database") is None, reason="shared-mime-info is not installed")
def test_the_type_is_taken_into_the_database(tmp_path):
    (tmp_path / "packages").mkdir()
    shutil.copy(DESKTOP / "looc.xml", tmp_path / "packages")
    subprocess.run(["update-mime-database", str(tmp_path)], check=True, capture_output=True)
    assert container.MAGIC in (tmp_path / "magic").read_bytes() and MIME_TYPE in (tmp_path / "globs2").read_text()


def test_the_thumbnailer_makes_a_small_png(looc_file, tmp_path):
    thumbnailer = entry("looc.thumbnailer", "Thumbnailer Entry")
    assert thumbnailer["MimeType"] == f"{MIME_TYPE};"
    target = tmp_path / "thumb.png"
    target.touch()
    values = {"%s": "48", "%i": str(looc_file), "%o": str(target)}
    words = [values.get(word, word) for word in shlex.split(thumbnailer["Exec"])]
    result = CliRunner().invoke(app, words[1:])
    assert words[0] == "looc" and result.exit_code == 0, result.output
    with Image.open(target) as image:
        assert image.format == "PNG" and image.size == (48, 21) and image.mode == "RGBA"


def test_small_pictures_are_not_enlarged_and_errors_leave_nothing(looc_file, tmp_path):
    result = CliRunner().invoke(app, ["thumbnail", str(looc_file), "-"])
    assert Image.open(io.BytesIO(result.stdout_bytes)).size == (90, 40)
    broken, target = tmp_path / "broken.looc", tmp_path / "none.png"
    broken.write_bytes(looc_file.read_bytes()[:-9])
    result = CliRunner().invoke(app, ["thumbnail", str(broken), str(target)])
    assert result.exit_code == 1 and not target.exists()


def test_the_menu_entry_restores_a_picture(looc_file):
    desktop = entry("looc.desktop", "Desktop Entry")
    assert desktop["MimeType"] == f"{MIME_TYPE};"
    words = [str(looc_file) if word == "%F" else word for word in shlex.split(desktop["Exec"])]
    assert CliRunner().invoke(app, words[1:]).exit_code == 0
    assert Image.open(looc_file.with_suffix(".png")).size == (90, 40)
