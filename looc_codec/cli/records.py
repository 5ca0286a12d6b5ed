"""What became of each file, as --json prints it and as one line for people."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from looc_codec.cli.printing import printable
from looc_codec.cli.streams import STANDARD_STREAM
from looc_codec.errors import ModelError
from looc_codec.registry import find_by_fingerprint

if TYPE_CHECKING:
    from looc_codec.format.container import Container, Header


@dataclass
class Record:
    """What became of one file; with --json its fields are one line of stdout."""

    input: str
    output: str | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    """Size of the .looc file, whichever way the command goes."""
    bpp: float | None = None
    quality: int | None = None
    """About how it looks: None where the model of the file is not installed."""
    level: int | None = None
    """What the file holds: the level of its model."""
    model: str | None = None
    groups: int | None = None
    """Channel groups that a file holds; stated where it may be cut short."""
    picture_bytes: int | None = None
    """Size of the file on the picture's side; None for a standard stream."""
    seconds: float | None = None
    error: str | None = None
    skipped: bool = False
    """With --update: the output is newer than the input and as asked for, and was left as it is."""
    notices: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Line:
    """A finished record for people: the names, which may be shortened to make the line fit, and the figures."""

    source: str
    target: str | None
    figures: str

    def text(self, columns: int | None = None) -> str:
        """The line, within so many columns if that leaves any sense in the names."""
        # Escapes count.
        source, target = printable(self.source), None if self.target is None else printable(self.target)
        whole = _joined(source, target, self.figures)
        if columns is None:
            return whole
        # Only a terminal has columns, and there the library is loaded for the progress bar anyway.
        from rich.cells import cell_len

        if cell_len(whole) <= columns:
            return whole
        room = columns - cell_len(_joined("", None if target is None else "", self.figures))
        if target is not None:
            source_room = max(room // 2, room - cell_len(target))
            rooms = source_room, room - min(source_room, cell_len(source))
            if all(
                cell_len(name) <= part or part >= _LEAST_COLUMNS
                for name, part in zip((source, target), rooms, strict=True)
            ):
                return _joined(shortened(source, rooms[0]), shortened(target, rooms[1]), self.figures)
            # What the output is called follows from the input.
            room += len(_ARROW)
        return _joined(shortened(source, room), None, self.figures)


_ARROW = " -> "
_ELLIPSIS = "…"
_LEAST_COLUMNS = 16
"""Shorter pieces of two names say less than a longer one of one name."""


def _joined(source: str, target: str | None, figures: str) -> str:
    return source + ("" if target is None else _ARROW + target) + "  " + figures


def shortened(name: str, columns: int) -> str:
    """The name with its middle left out, so that it takes no more columns: the beginning and the end say most.

    >>> shortened("holiday/2024/beach at sunset.looc", 20)
    'holiday/2…unset.looc'
    """
    from rich.cells import cell_len, set_cell_size

    if cell_len(name) <= columns:
        return name
    columns = max(columns, 3)
    tail = ""
    for letter in reversed(name):
        if cell_len(letter + tail) > columns // 2:
            break
        tail = letter + tail
    return set_cell_size(name, columns - 1 - cell_len(tail)).rstrip() + _ELLIPSIS + tail


def record_file(record: Record, header: Container | Header, size_bytes: int) -> None:
    """Fills in what a .looc file of `size_bytes` says about its picture."""
    record.width, record.height, record.level = header.width, header.height, header.level
    try:
        record.quality = find_by_fingerprint(header.fingerprint).quality_scale.quality(header.level)
    except ModelError:
        record.quality = None
    record.bytes = size_bytes
    record.bpp = round(8 * size_bytes / (header.width * header.height), 5)


def names_its_file(record: Record) -> bool:
    """Whether the error sentence says which file it is about; a standard stream needs no name."""
    return record.input == STANDARD_STREAM or os.path.basename(record.input.rstrip("/")) in (record.error or "")


def shown(name: str) -> str:
    """The name of a file, or words for the standard stream `-`."""
    return "standard stream" if name == STANDARD_STREAM else name
