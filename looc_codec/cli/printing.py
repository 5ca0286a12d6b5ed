"""What the commands say: one sentence for an error, sizes and times for people, one JSON line for scripts."""

from __future__ import annotations

import json
import sys
from typing import Any

from looc_codec.cli.streams import discard, stdout_errors
from looc_codec.errors import LoocError


def fail(sentence: str) -> None:
    """Prints one line of failure on stderr."""
    note(f"looc: {sentence}")


def note(line: str) -> None:
    """Prints one line for people on stderr, which is free of data whatever stdout carries."""
    try:
        print(printable(line), file=sys.stderr)
    except OSError:
        # A full disk, or a reader that has gone, takes the line but not the work that it is about.
        discard(sys.stderr)


def say(line: str = "") -> None:
    """Prints one line of a result on stdout, at once, so that what goes wrong there is told in a sentence."""
    with stdout_errors():
        print(line, flush=True)


def print_json(record: dict[str, Any]) -> None:
    """Prints one JSON object on one line of stdout, at once, so that a reader can follow a long batch."""
    with stdout_errors():
        print(json.dumps(record), flush=True)


def one_sentence(error: BaseException) -> str | None:
    """The one sentence that tells a person what went wrong; None for a bug, which deserves its trace."""
    if isinstance(error, LoocError):
        return str(error)
    if is_out_of_memory(error):
        return "not enough memory; try a smaller picture, fewer other programs, or a machine with more memory"
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}"
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in Python, numpy or torch (which raises a RuntimeError of its own)."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)


def printable(text: str) -> str:
    """The text with control characters escaped: names and descriptions in files must not steer the terminal."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def size_text(size_bytes: int) -> str:
    """A size for people.

    >>> size_text(999), size_text(45_600), size_text(12_345_678)
    ('999 B', '45.6 kB', '12.35 MB')
    """
    if size_bytes < 1000:
        return f"{size_bytes} B"
    if size_bytes < 1_000_000:
        return f"{size_bytes / 1000:.1f} kB"
    return f"{size_bytes / 1_000_000:.2f} MB"
