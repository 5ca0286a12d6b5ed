"""The command `looc`: parses, calls, prints.

Each command is the function of its name in the module of its name; that module is imported when the command is asked
for, and imports torch or other heavy packages only inside the function, so that `looc --help` and `looc info` start
in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from looc_codec import __version__
from looc_codec.cli.printing import fail, one_sentence
from looc_codec.errors import LoocError

COMMANDS = (
    "compress", "decompress", "info", "verify", "truncate", "thumbnail", "models", "selftest", "train", "reproduce", "report",
)  # fmt: skip

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


class LoocGroup(TyperGroup):
    """The commands by name, imported when needed, and the one place where errors become exit codes."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, name: str) -> Any:
        if name not in COMMANDS:
            return None
        if name not in self.commands:
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(name)(getattr(import_module(f"looc_codec.cli.{name}"), name))
            self.commands[name] = typer.main.get_command(single)
        return self.commands[name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        # Typer suggests names near a mistyped one from this dictionary, which is filled only on demand.
        if args and args[0] not in COMMANDS:
            for name in COMMANDS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # People add --debug at the end of the command that just failed, so it is understood anywhere before `--`.
        options = args[: args.index("--")] if "--" in args else args
        if "--debug" in options:
            args = ["--debug", *(part for part in options if part != "--debug"), *args[len(options) :]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        debug = bool(ctx.params.get("debug"))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of stdout has gone (`looc info * | head`); Python must not complain again while closing it.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_FAILED) from None
        except (LoocError, MemoryError, OSError, RuntimeError) as error:
            # typer.Exit and typer.Abort are RuntimeErrors that carry an exit code of their own.
            if isinstance(error, (typer.Exit, typer.Abort)):
                raise
            sentence = one_sentence(error)
            if debug or sentence is None:
                raise
            fail(sentence)
            raise typer.Exit(EXIT_FAILED) from None


app = typer.Typer(
    cls=LoocGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"looc {__version__}")
        raise typer.Exit()


@app.callback()
def looc(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full trace of an error.")] = False,
) -> None:
    """Compress photographs with a learned codec, and restore them exactly alike on every machine."""


def main() -> None:
    """Entry point of the console script."""
    # numpy's matrix products are small here; threads of their own would only be in the way of others.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Leave through Python's cleanup, which removes half-written outputs, also when asked to stop by SIGTERM.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # File names need not be valid text; printing one must not be an error.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="looc")
    except KeyboardInterrupt:
        # Pressed before a command was running, for example during an import.
        sys.exit(EXIT_INTERRUPTED)
