"""Help: what it holds, that its defaults and examples are true, that wrong usage is one sentence, and the manual page."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from test_cli import run

from looc_codec.cli import COMMANDS, app
from looc_codec.cli.help import page_of, page_text

ROOT = Path(__file__).resolve().parent.parent


def page(name: str | None):
    group = typer.main.get_command(app)
    with group.make_context("looc", ["models"]) as ctx:
        if name is None:
            return page_of(group, ctx)
        command = group.get_command(ctx, name)
        return page_of(command, type(ctx)(command, info_name=name, parent=ctx))


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_is_written_for_people(name):
    content = page(name)
    text = page_text(content, 80)
    assert run(*[name] * bool(name), "--help").stdout.split() == text.split()
    assert max(map(len, text.splitlines())) <= 80
    # Types of Python, ranges of click, and marks of other programs' layouts.
    assert not re.search(r"<\w|\b(bool|int|str|float|PATH|INTEGER|TEXT)\b(?! for)|x>=|\N{NO-BREAK SPACE}", text)
    assert len(content.examples) == 3
    for entry in (*content.arguments, *content.options, *content.commands):
        assert entry.text and entry.label, entry


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_can_be_run_as_they_stand(name):
    """As far as the command line goes; what they do is tested elsewhere."""
    for example in page(name).examples:
        words = shlex.split(re.split(r"\s(?:\||<|>|&&)\s", example.command)[0])
        words = words[words.index("looc") + 1 :]
        assert words[0] == name
        group = typer.main.get_command(app)
        with group.make_context("looc", list(words)) as ctx:
            command = group.get_command(ctx, name)
            assert command.make_context(name, words[1:], parent=ctx).params


def test_stated_defaults_are_those_of_the_codec():
    from looc_codec import api

    options = {entry.label: entry.text for entry in page("compress").options}
    assert f"[default:\N{NO-BREAK SPACE}{api.DEFAULT_QUALITY}]" in options["-q, --quality N"].replace("default: ", "default:\N{NO-BREAK SPACE}")
    for name in ("compress", "selftest", "report"):
        options = {entry.label: entry.text for entry in page(name).options}
        assert options["-m, --model MODEL"].endswith(f"[default:\N{NO-BREAK SPACE}{api.DEFAULT_MODEL}]")


def test_a_required_option_is_part_of_the_usage():
    assert page("truncate").usage == "looc truncate [OPTION]... -o OUT FILE..."


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("frobnicate", "there is no command frobnicate; see looc --help"),
        ("decompres x", "there is no command decompres (did you mean decompress?); see looc --help"),
        ("--frob", "there is no option --frob; see looc --help"),
        ("compress", "IN... is missing: pictures, folders of pictures, or - for standard input; see looc compress --help"),
        ("compress x -q 0", "--quality '0' is not a whole number from 1 to 100; see looc compress --help"),
        ("compress x -q high", "--quality 'high' is not a whole number from 1 to 100; see looc compress --help"),
        ("compress x -q", "-q needs a value; see looc compress --help"),
        ("compress x --target-psnr lots", "--target-psnr 'lots' is not a number from 0 up; see looc compress --help"),
        ("compress x --device toaster", "--device 'toaster' is none of cpu, cuda, openvino, directml, coreml; see looc compress --help"),
        ("compress x --qualit 5", "there is no option --qualit (did you mean"),
        ("info --json=3 x", "--json takes no value; see looc info --help"),
        ("models x", "x is too much; see looc models --help"),
        ("truncate x --groups 1", "--output is missing: file for one input"),
        ("decompress x --format bogus", "--format bogus is none of png, jpg"),
        ("decompress x --format png --quality 50", "--quality is for jpg, webp and avif; png is lossless"),
    ],
)
def test_wrong_usage_is_one_sentence_of_ours(words, sentence):
    result = run(*words.split())
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"looc: {sentence}"), result.stderr


def test_the_command_alone_shows_its_help():
    result = run()
    assert (result.exit_code, result.stdout) == (2, "") and result.stderr.startswith("Usage: looc")


def test_the_manual_page_is_that_of_the_commands():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "man_page.py", "--check"], capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_manual_page_shows_what_help_shows():
    text = (ROOT / "docs" / "looc.1").read_text().replace("\\-", "-").replace("\\(aq", "'")
    for name in COMMANDS:
        for entry in page(name).options:
            assert f".B {entry.label}\n" in text
        for example in page(name).examples:
            assert f".B {example.command}\n" in text
