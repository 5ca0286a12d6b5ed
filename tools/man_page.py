"""Writes the manual page docs/looc.1 from what the commands declare, as --help does, so that the two cannot differ.

    python tools/man_page.py [--check]

`--check` writes nothing and fails when docs/looc.1 is another. Read it with `man ./docs/looc.1`.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import typer

from looc_codec import __version__
from looc_codec.cli import app
from looc_codec.cli.help import Entry, Page, page_of

PATH = ROOT / "docs" / "looc.1"

EXIT_CODES = (
    Entry("0", "All went well."),
    Entry("1", "Something failed; one sentence on standard error says what."),
    Entry("2", "Wrong usage."),
    Entry("130", "Interrupted by Ctrl-C."),
    Entry("128+N", "Ended by signal N; no unfinished file is left."),
)
ENVIRONMENT = (
    Entry("LOOC_MODELS", "Folders of further models, separated as in PATH."),
    Entry("XDG_DATA_HOME", "Models of one's own are in looc/models in this folder. [default: ~/.local/share]"),
    Entry("COLUMNS", "Columns of help, where there is no terminal to ask."),
)


def manual() -> str:
    """The whole page, in the language of man(7)."""
    group = typer.main.get_command(app)
    with group.make_context("looc", ["models"]) as ctx:
        page = page_of(group, ctx)
        pages = []
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            pages.append(page_of(command, type(ctx)(command, info_name=name, parent=ctx)))
    lines = [
        ".\\" + '" Written by tools/man_page.py; change the commands and run it again.',
        f'.TH LOOC 1 "" "looc {__version__}" "User Commands"',
        # Stretched lines are hard to read where words are long.
        ".ad l",
        ".SH NAME",
        f"looc \\- {escaped(page.summary[0].lower() + page.summary[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
    ]
    for part in pages:
        command, _, rest = part.usage.partition(" [OPTION]")
        lines += [f".B {escaped(command)}", escaped(f"[OPTION]{rest}"), ".br"]
    lines += [".SH DESCRIPTION", escaped("Each command has the page of its --help below."), *entries(".SH OPTIONS", page.options)]
    for part in pages:
        lines += command_section(part)
    lines += [*entries('.SH "EXIT STATUS"', EXIT_CODES), *entries(".SH ENVIRONMENT", ENVIRONMENT)]
    return "\n".join(lines) + "\n"


def command_section(page: Page) -> list[str]:
    lines = [f'.SH "{escaped(page.path).upper()}"', escaped(page.summary)]
    lines += [*entries(".SS Arguments", page.arguments), *entries(".SS Options", page.options), ".SS Examples"]
    for example in page.examples:
        lines += [".TP", f".B {escaped(example.command)}", escaped(example.text)]
    return lines


def entries(heading: str, those: tuple[Entry, ...]) -> list[str]:
    lines = [heading] if those else []
    for entry in those:
        lines += [".TP", f".B {escaped(entry.label)}", escaped(entry.text)]
    return lines


def escaped(text: str) -> str:
    """Text that man shows as it is: hyphens can be copied, and no line is taken for a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("\N{NO-BREAK SPACE}", "\\ ").replace("'", "\\(aq").replace("~", "\\(ti")
    return "\\&" + text if text.startswith((".", "'")) else text


def main() -> None:
    text = manual()
    if "--check" not in sys.argv[1:]:
        PATH.write_text(text)
    elif not PATH.exists() or PATH.read_text() != text:
        sys.exit(f"{PATH.relative_to(ROOT)} is stale; run tools/man_page.py")


if __name__ == "__main__":
    main()
