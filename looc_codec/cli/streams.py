"""Standard input, output and error, as the command finds them: pipes, terminals, full disks, or closed."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from looc_codec.errors import ImageError, LimitError, LoocError, OutputError, TruncatedError
from looc_codec.files import STANDARD_STREAM as STANDARD_STREAM
from looc_codec.files import read_at_most

if TYPE_CHECKING:
    from looc_codec.format.container import Header

MAX_LOOC_BYTES = 2**30
"""A .looc file of the default pixel limit stays far below; a device or an endless pipe must not fill the memory."""

_HEADER_BYTES = 2**16
"""Nearly all headers are shorter than a hundredth of it."""


def read_looc_bytes(source: str) -> bytes:
    """The bytes of a .looc file, or of standard input for `-`.

    Raises:
        LimitError: it holds more than 1 GiB.
        ImageError: it is standard input, and nothing can be read there.
        OSError: it cannot be read.
    """
    if source == STANDARD_STREAM:
        refuse_terminal_input()
        try:
            data = read_at_most(sys.stdin.buffer, MAX_LOOC_BYTES + 1)
        except OSError as error:
            raise ImageError(
                f"cannot read standard input: {error.strerror or error}; send a file into it, or name one"
            ) from None
    else:
        with open(source, "rb") as file:
            data = read_at_most(file, MAX_LOOC_BYTES + 1)
    if len(data) > MAX_LOOC_BYTES:
        raise LimitError(f"{source} is larger than 1 GiB, which no .looc file within the limits is")
    return data


def read_looc_header(path: str) -> tuple[Header, int]:
    """The header of a .looc file, and the file's size in bytes; the payload is not read.

    Raises:
        FormatError: it is no .looc file.
        OSError: it cannot be read.
    """
    from looc_codec.format.container import read_header

    with open(path, "rb") as file:
        data = file.read(_HEADER_BYTES)
        try:
            header = read_header(data)
        except TruncatedError:
            # Metadata, which comes before the payload, may be long.
            header = read_header(data + read_at_most(file, MAX_LOOC_BYTES))
    return header, os.path.getsize(path)


def write_stdout(data: bytes) -> None:
    """All of `data` to standard output, at once, so that a closed pipe shows here."""
    with stdout_errors():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@contextlib.contextmanager
def stdout_errors() -> Iterator[None]:
    """Says of a failed write that it was standard output's; a reader that has gone (BrokenPipeError) passes through."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write to standard output: {error.strerror or error}; free or choose another place"
        ) from None


def refuse_terminal_output(*, force: bool | None = None) -> None:
    """As gzip does: a file's bytes on a terminal are of use to nobody and may steer it. `force` is None where there is
    no such option."""
    if sys.stdout.isatty() and not force:
        way_out = "" if force is None else " (--force shows them here)"
        raise OutputError(f"standard output is a terminal; send the bytes on with > or |, or name a file{way_out}")


def refuse_terminal_input() -> None:
    """Whoever gives - and no pipe would wait for ever for an answer."""
    if sys.stdin.isatty():
        raise ImageError("standard input is a terminal; send a file into it with < or |, or name one")


class _Closed(io.TextIOBase):
    """Stands in for a standard stream that was closed before the start (`<&-`): any use is one clear error."""

    def __init__(self, error: LoocError) -> None:
        self._error = error

    @property
    def buffer(self) -> _Closed:
        return self

    def read(self, size: int | None = -1) -> NoReturn:
        raise self._error

    def write(self, data: Any) -> NoReturn:
        raise self._error


def open_closed_streams() -> None:
    """Makes closed standard streams safe to use.

    Python has None for them, which even print takes for standard output; and the next file opened, perhaps a picture,
    would get the number of the closed stream and everything that any library writes there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one. Workers get it as well.
            with contextlib.suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = _Closed(ImageError("standard input is closed; send a file into it, or name one"))
    if sys.stdout is None:
        sys.stdout = _Closed(OutputError("standard output is closed; open it, or name a file with -o"))
    if sys.stderr is None:
        # Nobody is left to tell; the exit code still says how it went.
        sys.stderr = open(os.devnull, "w")


def discard(stream: TextIO) -> None:
    """Lets what a broken stream still holds go nowhere: Python would complain again while closing it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
