"""Bytes from a file or standard input, and bytes to standard output."""

from __future__ import annotations

import sys

from looc_codec.errors import LimitError
from looc_codec.files import STANDARD_STREAM as STANDARD_STREAM
from looc_codec.files import read_at_most

MAX_LOOC_BYTES = 2**30
"""A .looc file of the default pixel limit stays far below; a device or an endless pipe must not fill the memory."""


def read_looc_bytes(source: str) -> bytes:
    """The bytes of a .looc file, or of standard input for `-`.

    Raises:
        LimitError: it holds more than 1 GiB.
        OSError: it cannot be read.
    """
    if source == STANDARD_STREAM:
        data = read_at_most(sys.stdin.buffer, MAX_LOOC_BYTES + 1)
    else:
        with open(source, "rb") as file:
            data = read_at_most(file, MAX_LOOC_BYTES + 1)
    if len(data) > MAX_LOOC_BYTES:
        raise LimitError(f"{source} is larger than 1 GiB, which no .looc file within the limits is")
    return data


def write_stdout(data: bytes) -> None:
    """All of `data` to standard output, at once, so that a closed pipe shows here."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
