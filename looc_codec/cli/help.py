"""Help as a person reads it, and the words of wrong usage, both made from what the commands declare.

`page_of` gives the content of a help page; `page_text` sets it for a terminal, and tools/man_page.py for `man`.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand

from looc_codec.cli.streams import stdout_errors

MAX_COLUMNS = 100
"""Longer lines are hard to read, however wide the terminal."""

_INDENT = 2
_LABEL_COLUMNS = 24
"""Longer names of options stand on a line of their own."""
_TIED = "\N{NO-BREAK SPACE}"
"""Between words that belong on one line."""


@dataclass(frozen=True)
class Entry:
    """An argument, an option or a command, as it is typed, and what it does."""

    label: str
    text: str


@dataclass(frozen=True)
class Example:
    """A command line, and what it is for."""

    command: str
    text: str


@dataclass(frozen=True)
class Page:
    """The content of one help page."""

    path: str
    usage: str
    summary: str
    arguments: tuple[Entry, ...]
    options: tuple[Entry, ...]
    commands: tuple[Entry, ...] = ()
    examples: tuple[Example, ...] = ()


class LoocCommand(TyperCommand):
    """A command whose help is a page of ours; `examples` are those of its module."""

    examples: tuple[Example, ...] = ()

    def make_context(self, *args: Any, **options: Any) -> Any:
        # Parsing reads nothing, and writes nothing but help.
        with stdout_errors():
            return super().make_context(*args, **options)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help_text(self, ctx))


def help_text(command: Any, ctx: Any) -> str:
    """The help of a command for the terminal that it is asked on."""
    return page_text(page_of(command, ctx), _columns())


def page_of(command: Any, ctx: Any) -> Page:
    """The help page of a command or of the group of all."""
    arguments, options, required = [], [], []
    for param in command.get_params(ctx):
        if getattr(param, "hidden", False):
            continue
        if param.param_type_name == "argument":
            arguments.append(Entry(param.metavar or param.name.upper(), param.help or ""))
        else:
            options.append(Entry(_option_label(param), _option_text(param)))
            required += [f"{min(param.opts, key=len)} {param.metavar}"] if param.required else []
    names = command.list_commands(ctx) if hasattr(command, "list_commands") else ()
    commands = tuple(Entry(name, command.get_command(ctx, name).help.partition("\n\n")[0]) for name in names)
    usage = [ctx.command_path, "[OPTION]...", *required, *(entry.label for entry in arguments)]
    usage += ["COMMAND ..."] if commands else []
    summary = " ".join((command.help or "").split())
    return Page(
        ctx.command_path, " ".join(usage), summary, tuple(arguments), tuple(options), commands, command.examples
    )


def _option_label(param: Any) -> str:
    """`-q, --quality N`: short names first, and what follows; nothing for a switch."""
    names = ", ".join(
        sorted([*param.opts, *param.secondary_opts], key=lambda name: (name.startswith("--"), name.startswith("--no-")))
    )
    if param.is_flag:
        return names
    return f"{names} {param.metavar or 'TEXT'}"


def _option_text(param: Any) -> str:
    """The help of an option; its default where it is a value that a person would type and the text has none."""
    text = param.help or ""
    if param.secondary_opts and param.default is not None:
        text += f" [default:{_TIED}{(param.opts if param.default else param.secondary_opts)[0]}]"
    elif not param.is_flag and param.default not in (None, "") and not callable(param.default):
        text += f" [default:{_TIED}{getattr(param.default, 'value', param.default)}]"
    return text


def page_text(page: Page, columns: int) -> str:
    """The page for a terminal of so many columns."""
    parts = [
        _wrapped(f"Usage: {page.usage}", columns, later=" " * (len("Usage: ") + len(page.path) + 1)),
        _wrapped(page.summary, columns),
    ]
    for title, entries in (("Arguments", page.arguments), ("Commands", page.commands), ("Options", page.options)):
        if entries:
            width = min(_LABEL_COLUMNS, max(len(entry.label) for entry in entries))
            parts.append("\n".join([f"{title}:", *(_entry_text(entry, width, columns) for entry in entries)]))
    if page.examples:
        lines = ["Examples:"]
        for example in page.examples:
            lines += [" " * _INDENT + example.command, _wrapped(example.text, columns, " " * 3 * _INDENT)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _entry_text(entry: Entry, width: int, columns: int) -> str:
    start = " " * _INDENT + entry.label.ljust(width) + " " * _INDENT
    rest = " " * (2 * _INDENT + width)
    if len(start) > len(rest):
        return " " * _INDENT + entry.label + "\n" + _wrapped(entry.text, columns, rest)
    return _wrapped(entry.text, columns, start, rest)


def _wrapped(text: str, columns: int, first: str = "", later: str | None = None) -> str:
    """Names of options and files stay in one piece, so that they can be copied."""
    filled = textwrap.fill(
        text, columns, initial_indent=first, subsequent_indent=first if later is None else later,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return filled.replace(_TIED, " ")


def _columns() -> int:
    """Columns for help: those of the terminal, or of COLUMNS, within reason; 80 in a pipe."""
    return min(MAX_COLUMNS, max(40, shutil.get_terminal_size((80, 24)).columns))


# --- wrong usage ------------------------------------------------------------------------------------------------------

UsageError = typer.BadParameter.__base__
"""Typer brings click's exceptions along, under a name that depends on its release; this is what they are there."""

_exceptions = sys.modules[typer.BadParameter.__module__]


def usage_sentence(error: Any, asked_for: str) -> str:
    """One sentence for wrong usage: what is wrong, with which option, and where to read on."""
    path = error.ctx.command_path if error.ctx is not None else asked_for
    return f"{_what_is_wrong(error)}; see {path} --help"


def _what_is_wrong(error: Any) -> str:
    param = getattr(error, "param", None)
    message = _sentence(error.message)
    if isinstance(error, _exceptions.MissingParameter) and param is not None:
        return f"{_name_of(param)} is missing: {_lower(param.help)}"
    if isinstance(error, _exceptions.NoSuchOption):
        near = f" (did you mean {' or '.join(sorted(error.possibilities))}?)" if error.possibilities else ""
        return f"there is no option {error.option_name}{near}"
    if isinstance(error, _exceptions.BadOptionUsage):
        return f"{error.option_name} {'takes no' if 'not take' in message else 'needs a'} value"
    if isinstance(error, typer.BadParameter):
        return f"{_name_of(param)} {message}" if param is not None else message
    extra = re.fullmatch(r"Got unexpected extra argument\S* \((.*)\)", message)
    return f"{extra[1]} is too much" if extra else _lower(message)


def _name_of(param: Any) -> str:
    """The name of an option that people type most, of an argument that of its help."""
    return (param.metavar or param.name) if param.param_type_name == "argument" else max(param.opts, key=len)


def _sentence(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _lower(text: str | None) -> str:
    """A sentence as a part of another."""
    text = _sentence(text or "")
    return text[:1].lower() + text[1:] if not text[:2].isupper() else text
