"""The command `looc`: parses, calls, prints.

Each command is the function of its name in the module of its name; that module is imported when the command is asked
for, and imports torch or other heavy packages only inside the function, so that `looc --help` and `looc info` start
in a fraction of a second.
"""

from __future__ import annotations

import difflib
import io
import os
import signal
import sys
import traceback
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from looc_codec import __version__
from looc_codec.cli.help import Example, LoocCommand, UsageError, help_text, usage_sentence
from looc_codec.cli.printing import fail, one_sentence, say
from looc_codec.cli.streams import discard, open_closed_streams, stdout_errors
from looc_codec.errors import LoocError

COMMANDS = (
    "compress", "decompress", "info", "verify", "truncate", "thumbnail", "view", "web", "models", "selftest",
    "train", "reproduce", "report",
)  # fmt: skip

_TRAINING_PACKAGES = ("torch", "torchvision", "onnx")
"""What training alone needs and the plain install leaves out."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class LoocGroup(TyperGroup):
    """The commands by name, imported when needed, and the one place where errors become exit codes."""

    asked_for = "looc"
    """The command that is being parsed, for errors that do not know it."""

    examples = (
        Example("looc compress photo.jpg", "writes photo.looc beside it."),
        Example("looc decompress photo.looc", "writes photo.png beside it."),
        Example("looc info photo.looc", "says what the file holds."),
    )

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, name: str) -> Any:
        if name not in COMMANDS:
            return None
        if name not in self.commands:
            module = import_module(f"looc_codec.cli.{name}")
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(name, cls=LoocCommand)(getattr(module, name))
            self.commands[name] = typer.main.get_command(single)
            self.commands[name].examples = module.EXAMPLES
        return self.commands[name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.7)
            raise UsageError(f"there is no command {args[0]}" + (f" (did you mean {near[0]}?)" if near else ""), ctx)
        self.asked_for = f"looc {args[0]}"
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help_text(self, ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args:
            typer.echo(self.get_help(ctx), err=True)
            raise typer.Exit(EXIT_USAGE)
        # People add --debug at the end of the command that just failed, so it is understood anywhere before `--`.
        options = args[: args.index("--")] if "--" in args else args
        if "--debug" in options:
            args = ["--debug", *(part for part in options if part != "--debug"), *args[len(options) :]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            raise
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _TRAINING_PACKAGES:
                raise
            fail(f"this command needs {error.name}, which is not installed; pip install 'looc[train]'")
            raise typer.Exit(EXIT_FAILED) from None
        except (LoocError, MemoryError, OSError, RuntimeError) as error:
            # typer.Exit and typer.Abort are RuntimeErrors that carry an exit code of their own.
            if isinstance(error, (typer.Exit, typer.Abort)) or one_sentence(error) is None:
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            else:
                fail(one_sentence(error))
            raise typer.Exit(EXIT_FAILED) from None

    def main(self, *args: Any, standalone_mode: bool = True, **options: Any) -> Any:
        """Runs the command line, and ends the process with its exit code unless `standalone_mode` is off."""
        try:
            # Outside of commands, which tell their own errors, only help and version are written. Whatever stdout still
            # holds is written here, where a failure can be told.
            with stdout_errors():
                code = super().main(*args, standalone_mode=False, **options | {"prog_name": "looc"}) or 0
                sys.stdout.flush()
        except UsageError as error:
            fail(usage_sentence(error, self.asked_for))
            code = EXIT_USAGE
        except BrokenPipeError:
            # The reader of stdout has gone (`looc info * | head`), and knows it.
            discard(sys.stdout)
            code = EXIT_FAILED
        except LoocError as error:
            # Help and version are printed, and the last lines flushed, outside of any command.
            discard(sys.stdout)
            fail(one_sentence(error))
            code = EXIT_FAILED
        if standalone_mode:
            sys.exit(code)
        return code


app = typer.Typer(
    cls=LoocGroup,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"looc {__version__}")
        raise typer.Exit()


@app.callback()
def looc(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full trace of an error.")] = False,
) -> None:
    """Compress photographs with a learned codec, and restore them exactly alike on every machine."""


# Each would end Python on the spot. SIGQUIT still does, for a process that hangs.
_ENDING_SIGNALS = ("SIGTERM", "SIGHUP", "SIGXCPU")


def main() -> None:
    """Entry point of the console script."""
    # numpy's matrix products are small here; threads of their own would only be in the way of others.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    open_closed_streams()
    for name in _ENDING_SIGNALS:
        number = getattr(signal, name, None)
        # nohup ignores SIGHUP for the programs that it starts.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            # Leave through Python's cleanup, which removes half-written outputs.
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
    # File names need not be valid text; printing one must not be an error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except KeyboardInterrupt:
        # Pressed before a command was running, for example during an import.
        sys.exit(EXIT_INTERRUPTED)
