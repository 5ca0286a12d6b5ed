"""What the reader of JPEG XL does not tell: the size before anything is decoded, and the XMP of the container."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SIZE_BYTES = 16


def size_of_jpeg_xl(file: BinaryIO) -> tuple[int, int] | None:
    """Width and height that the codestream's header states, before its orientation; None where there is no header."""
    file.seek(0)
    head = file.read(_SIZE_BYTES)
    if head.startswith(_CONTAINER):
        head = next((_codestream(file, kind) for kind, _ in _boxes(file) if kind in (b"jxlc", b"jxlp")), b"")
    if not head.startswith(b"\xff\x0a"):
        return None
    bits, position = int.from_bytes(head[2:].ljust(_SIZE_BYTES, b"\0"), "little"), 0

    def take(count: int) -> int:
        nonlocal position
        position += count
        return bits >> (position - count) & ((1 << count) - 1)

    # ISO/IEC 18181-1, SizeHeader: eights of rows, or a number of 9, 13, 18 or 30 bits; the width alike or by a ratio.
    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = _RATIOS[take(3)]
    return (side() if ratio is None else height * ratio[0] // ratio[1]), height


def xmp_of_jpeg_xl(data: bytes) -> bytes | None:
    """The XMP box of a container, which the reader passes over; None if there is none, or only a compressed one."""
    if not data.startswith(_CONTAINER):
        return None
    file = io.BytesIO(data)
    return next((file.read(length) for kind, length in _boxes(file) if kind == b"xml "), None)


def _codestream(file: BinaryIO, kind: bytes) -> bytes:
    # The partial boxes begin with their number.
    file.read(4 if kind == b"jxlp" else 0)
    return file.read(_SIZE_BYTES)


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Type and content length of each box of ISO base media files; the file is then at the beginning of the content."""
    end = file.seek(0, io.SEEK_END)
    position = 0
    while position + 8 <= end:
        file.seek(position)
        length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        start = position + 8
        if length == 1:
            length, start = int.from_bytes(file.read(8), "big"), position + 16
        elif length == 0:
            length = end - position
        if length < start - position:
            return
        yield kind, position + length - start
        position += length
