"""What is drawn is told from what is photographed, and said once."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import run, tiny_installed  # noqa: F401
from test_codec import photo

import looc_codec
from looc_codec.images.content import DRAWN_NOTICE, MIXED_NOTICE, content_notice

TOOLS = Path(__file__).parent.parent / "tools"


def tool(name: str):
    """A module of tools/."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


drawn = tool("drawn")
changed = tool("content").changed


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:
    return drawn.made(11, Image.fromarray(photo(480, 360)))


EXACT = (
    "text page", "text page, large", "text, small", "text, light on dark", "text, on coloured paper", "page in black and white",
    "terminal", "code editor", "diagram", "diagram, hard lines", "plot of bars", "street map", "pixel art", "pixel art, as drawn",
    "photograph in 16 colours", "photograph in black and white",
)  # fmt: skip
"""Lossless WebP is smaller than quality 50 for all of them."""


@pytest.mark.parametrize("kind", EXACT)
def test_drawings_of_few_colours_are_sent_to_lossless_formats(pictures, kind):
    assert content_notice(pictures[kind]) == DRAWN_NOTICE


@pytest.mark.parametrize("kind", ["plot of dots", "plot of a smooth map", "window, 20% photograph", "window, 50% photograph"])
def test_smooth_drawings_and_windows_with_photographs_are_sent_to_avif(pictures, kind):
    assert content_notice(pictures[kind]) == MIXED_NOTICE


@pytest.mark.parametrize("kind", ["window", "plot of lines", "text, subpixels"])
def test_other_drawings_get_one_of_the_notices(pictures, kind):
    assert content_notice(pictures[kind]) in (DRAWN_NOTICE, MIXED_NOTICE)


def test_photographs_give_no_notice():
    assert content_notice(photo(480, 360)) is None


def test_changed_photographs_give_no_notice():
    found = {kind: content_notice(rgb) for kind, rgb in changed(Image.fromarray(photo(480, 360)), 1).items()}
    assert len(found) > 10 and not any(found.values()), found


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (15, 400), (17, 17), (64, 64), (16, 256), (16, 40_000)])
@pytest.mark.parametrize("level", [0, 200, None])
def test_any_size_can_be_looked_at(size, level):
    generator = np.random.default_rng(2)
    rgb = generator.integers(0, 256, (*size, 3), np.uint8) if level is None else np.full((*size, 3), level, np.uint8)
    assert content_notice(rgb) is None


@pytest.mark.parametrize("turned", [False, True])
def test_a_gradient_gives_no_notice(turned):
    """Its pixels are equal along one direction, and nothing jumps."""
    ramp = np.broadcast_to(np.linspace(0, 255, 400).astype(np.uint8)[:, None, None], (400, 300, 3))
    assert content_notice(np.ascontiguousarray(ramp.swapaxes(0, 1) if turned else ramp)) is None


def test_the_command_says_it_once_and_in_json(pictures, tmp_path, tiny_installed):  # noqa: F811
    path = tmp_path / "shot.png"
    Image.fromarray(pictures["text, small"]).save(path)
    result = run("compress", path, "-m", tiny_installed)
    assert result.exit_code == 0 and result.stderr.count(DRAWN_NOTICE) == 1
    result = run("compress", path, "-m", tiny_installed, "-f", "--json")
    assert json.loads(result.stdout)["notices"] == [DRAWN_NOTICE]
    assert DRAWN_NOTICE not in run("compress", path, "-m", tiny_installed, "-f", "--quiet").stderr


def test_programs_can_ask(pictures):
    assert looc_codec.content_notice(pictures["terminal"]) == DRAWN_NOTICE
    assert looc_codec.content_notice(Image.fromarray(photo(480, 360))) is None
