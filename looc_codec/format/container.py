"""The .looc file: what its bytes mean. docs/FORMAT.md is the same byte by byte, for people who write another reader.

Knows nothing of pictures, models or entropy coding: a payload segment is a string of bytes. Exact on every machine.

    >>> container = Container(width=768, height=512, level=50, fingerprint=bytes(8), segments=(b"abc", b""), code_checksum=7)
    >>> unpack(pack(container)) == container
    True
"""

from __future__ import annotations

import string
import zlib
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate

from looc_codec.format.constants import PATCH
from looc_codec.errors import (
    DamagedError,
    FormatError,
    LimitError,
    MalformedError,
    NotLoocError,
    TrailingBytesError,
    TruncatedError,
    UnsupportedError,
)

MAGIC = b"\x8cLC"
FORMAT_VERSION = 1
FINGERPRINT_BYTES = 8
CHECKSUM_BYTES = 4

DEFAULT_MAX_PIXELS = 250_000_000
MAX_SIDE_PIXELS = 2**30 - 1
MAX_SEGMENTS = 15
MAX_CHUNKS = 64
MAX_FILTER_BYTES = 255
MAX_VARINT_BYTES = 5
MAX_LENGTH_BYTES = 2**35 - 1
"""Largest length that a varint of five bytes can state."""

ICC_CHUNK = "iccp"
EXIF_CHUNK = "exif"
XMP_CHUNK = "xmp_"
ALPHA_CHUNK = "ALPH"
KNOWN_CHUNKS = frozenset({ICC_CHUNK, EXIF_CHUNK, XMP_CHUNK, ALPHA_CHUNK})

_HAS_CHUNKS = 0x80
_COLOUR_SHIFT = 4
_COLOUR_MASK = 0x30
_HAS_FILTER = 0x40
_UNUSED_FLAGS = 0x80
_TYPE_LETTERS = string.ascii_letters + "_"


class Colour(IntEnum):
    """What the decoded planes stand for. Grey: the mean of the decoded RGB values before rounding is the one plane."""

    RGB = 0
    GREY = 1
    GREY_AS_RGB = 2
    """Three equal planes: a grey picture whose file or array had three."""


@dataclass(frozen=True)
class Chunk:
    """Optional data beside the picture's codes.

    `type` is four ASCII letters or `_`, the first a letter: uppercase is critical (a reader that does not know it must
    refuse the file), lowercase ancillary (kept, otherwise ignored).
    """

    type: str
    data: bytes


@dataclass(frozen=True)
class Container:
    """All fields of one .looc file; `width` and `height` in pixels, `level` 1..100.

    `fingerprint` (8 bytes) tells the model, `segments` (1..15 byte strings, empty ones allowed) are the payload, and
    `code_checksum` is the checksum of the index grid that the payload decodes to. A segment is None where a file that was
    cut short does not hold it; those come last. `filter` is what wiener.py makes of a picture's filter, at most 255 bytes, empty
    where there is none.
    """

    width: int
    height: int
    level: int
    fingerprint: bytes
    segments: tuple[bytes | None, ...]
    code_checksum: int
    chunks: tuple[Chunk, ...] = ()
    colour: Colour = Colour.RGB
    filter: bytes = b""


@dataclass(frozen=True)
class ChunkInfo:
    """Type and length of one chunk."""

    type: str
    length_bytes: int


@dataclass(frozen=True)
class Header:
    """What a .looc file says about itself, without the payload. `file_bytes` is the length that the whole file must have."""

    version: int
    width: int
    height: int
    level: int
    fingerprint: bytes
    segment_lengths_bytes: tuple[int, ...]
    code_checksum: int
    chunks: tuple[ChunkInfo, ...]
    file_bytes: int
    colour: Colour = Colour.RGB
    filter: bytes = b""


def looks_like_looc(data: bytes | memoryview) -> bool:
    """Whether the data begins with the magic; three bytes are enough to tell."""
    return bytes(data[: len(MAGIC)]) == MAGIC


def pack(container: Container) -> bytes:
    """The bytes of the .looc file.

    Raises:
        FormatError: a field has a value that the format cannot hold; LimitError where it is too large or zero.
    """
    _check_packable(container)
    flag = _HAS_CHUNKS if container.chunks else 0
    parts = [
        MAGIC,
        _version_and_segments(container),
        _varint(container.width),
        _varint(container.height),
        bytes([flag | container.level]),
        container.fingerprint,
        *(_varint(len(segment)) for segment in container.segments),
        container.code_checksum.to_bytes(CHECKSUM_BYTES, "big"),
    ]
    if container.filter:
        parts += [bytes([len(container.filter)]), container.filter]
    if container.chunks:
        parts.append(_varint(len(container.chunks)))
        for chunk in container.chunks:
            name = chunk.type.encode("ascii")
            parts += [name, _varint(len(chunk.data)), chunk.data, _checksum(name, chunk.data)]
    parts += container.segments
    return b"".join([*parts, _checksum(*parts)])


def unpack(data: bytes | memoryview, *, max_pixels: int | None = DEFAULT_MAX_PIXELS, allow_truncated: bool = False) -> Container:
    """The fields of a .looc file, all checked; the pieces are copied only after every check of lengths has passed.

    With `allow_truncated` a file may end anywhere after its first segment; the segments that it does not hold in full are
    None. A cut that `truncate` made has a checksum, which is checked; in any other only the chunks can be.

    Raises:
        NotLoocError, UnsupportedError, TruncatedError, TrailingBytesError, MalformedError, DamagedError: see errors.py.
        LimitError: the picture has no pixels or more than `max_pixels`.
    """
    view = memoryview(data).cast("B")
    header, chunk_starts, payload_start = _parse(view, max_pixels, refuse_unknown=True)
    held, sealed = held_segments(header, view)
    if len(view) < header.file_bytes:
        if not allow_truncated or held == 0:
            raise _cut_short(header, len(view), held)
        for info, start in zip(header.chunks, chunk_starts):
            _check_chunk(info, start, view)
        return _container(header, chunk_starts, payload_start, view, held)
    intact = sealed if len(view) == header.file_bytes else zlib.crc32(view[: header.file_bytes - CHECKSUM_BYTES]) == int.from_bytes(
        view[header.file_bytes - CHECKSUM_BYTES : header.file_bytes], "big"
    )
    if len(view) > header.file_bytes and intact:
        raise TrailingBytesError(
            f"{len(view) - header.file_bytes} bytes follow the end of the .looc file at byte {header.file_bytes}; cut them off"
        )
    for info, start in zip(header.chunks, chunk_starts):
        _check_chunk(info, start, view)
    if not intact:
        raise DamagedError("the .looc file is damaged: its checksum does not match; get a fresh copy")
    return _container(header, chunk_starts, payload_start, view, held)


def held_segments(header: Header, data: bytes | memoryview) -> tuple[int, bool]:
    """How many segments the data holds in full, and whether they are followed by the checksum of all bytes before it.

    That checksum ends a whole file and a file that `truncate` cut.
    """
    view = memoryview(data).cast("B")
    ends = _segment_ends(header)
    for count in range(len(ends), 0, -1):
        end = ends[count - 1]
        if len(view) == end + CHECKSUM_BYTES and _checksum(view[:end]) == view[end:]:
            return count, True
    return sum(end <= len(view) for end in ends), False


def truncate(data: bytes | memoryview, *, groups: int | None = None, max_bytes: int | None = None) -> bytes:
    """The beginning of a .looc file that holds the first `groups` segments, one for each channel group, or as many of them
    as `max_bytes` have room for; then a checksum of its own. With all groups it is the whole file again.

    The file may have been cut before. Nothing is decoded, so no model is needed.

    Raises:
        FormatError: as `unpack`; or the file does not hold so many groups, or the first takes more than `max_bytes`.
    """
    if (groups is None) == (max_bytes is None):
        raise FormatError("give either a number of groups or a number of bytes to cut a file to")
    view = memoryview(data).cast("B")
    unpack(view, max_pixels=None, allow_truncated=True)
    header = read_header(view)
    held, _ = held_segments(header, view)
    ends = _segment_ends(header)
    if groups is None:
        keep = sum(end + CHECKSUM_BYTES <= max_bytes for end in ends[:held])
        if keep == 0:
            raise FormatError(f"{max_bytes} bytes are too few: header, metadata and first channel group take {ends[0] + CHECKSUM_BYTES}")
    else:
        keep = groups
        if not 1 <= keep <= held:
            raise FormatError(f"cannot keep {groups} channel groups: the file holds {held}")
    beginning = view[: ends[keep - 1]]
    return bytes(beginning) + _checksum(beginning)


def _segment_ends(header: Header) -> list[int]:
    """The position in the file after each segment."""
    start = header.file_bytes - CHECKSUM_BYTES - sum(header.segment_lengths_bytes)
    return [start + end for end in accumulate(header.segment_lengths_bytes)]


def _check_chunk(info: ChunkInfo, start: int, view: memoryview) -> None:
    end = start + info.length_bytes
    if _checksum(info.type.encode("ascii"), view[start:end]) != view[end : end + CHECKSUM_BYTES]:
        raise DamagedError(f"the .looc file is damaged in its {info.type} chunk at byte {start}; get a fresh copy")


def _container(header: Header, chunk_starts: list[int], payload_start: int, view: memoryview, held: int) -> Container:
    segments: list[bytes | None] = []
    position = payload_start
    for index, length in enumerate(header.segment_lengths_bytes):
        segments.append(bytes(view[position : position + length]) if index < held else None)
        position += length
    return Container(
        width=header.width,
        height=header.height,
        level=header.level,
        fingerprint=header.fingerprint,
        segments=tuple(segments),
        code_checksum=header.code_checksum,
        chunks=tuple(
            Chunk(info.type, bytes(view[start : start + info.length_bytes]))
            for info, start in zip(header.chunks, chunk_starts)
        ),
        colour=header.colour,
        filter=header.filter,
    )


def read_header(data: bytes | memoryview, *, max_pixels: int | None = None) -> Header:
    """What the file says about itself, from its bytes or any beginning of them that holds the header and the chunks.

    Checksums and the payload are not looked at, and unknown critical chunks are listed, not refused: `unpack` decides
    whether the file can be decoded. Compare `file_bytes` with the file's length to tell whether it is whole.

    Raises:
        FormatError: as `unpack`, for what is looked at; without `max_pixels` only the format limits the size.
    """
    return _parse(memoryview(data).cast("B"), max_pixels, refuse_unknown=False)[0]


def sound_chunks(header: Header, data: bytes | memoryview) -> list[Chunk]:
    """The chunks of a file whose checksums match, from its bytes or any beginning of them that `read_header` takes."""
    view = memoryview(data).cast("B")
    _, starts, _ = _parse(view, None, refuse_unknown=False)
    chunks = []
    for info, start in zip(header.chunks, starts, strict=True):
        content = view[start : start + info.length_bytes]
        end = start + info.length_bytes
        if _checksum(info.type.encode("ascii"), content) == view[end : end + CHECKSUM_BYTES]:
            chunks.append(Chunk(info.type, bytes(content)))
    return chunks


def overhead_bytes(container: Container) -> int:
    """Bytes of the file that are neither payload nor filter nor chunks: at most 40 for a 24-megapixel photo of five segments."""
    chunk_bytes = sum(
        len(chunk.type) + len(_varint(len(chunk.data))) + len(chunk.data) + CHECKSUM_BYTES for chunk in container.chunks
    )
    if container.chunks:
        chunk_bytes += len(_varint(len(container.chunks)))
    # Everything of fixed length: magic, version, level, fingerprint, code checksum, file checksum.
    fixed = len(MAGIC) + len(_version_and_segments(container)) + 1 + FINGERPRINT_BYTES + 2 * CHECKSUM_BYTES + bool(container.filter)
    sizes = (container.width, container.height, *map(len, container.segments))
    return fixed + sum(len(_varint(size)) for size in sizes)


class _Cursor:
    """Reads the header's fields one after another; never past the end, never more than a field."""

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.position = 0

    def take(self, length: int, name: str) -> memoryview:
        if length > len(self.view) - self.position:
            raise TruncatedError(
                f"the .looc file is truncated: it ends at byte {len(self.view)}, within its {name}; get the whole file"
            )
        self.position += length
        return self.view[self.position - length : self.position]

    def number(self, name: str) -> int:
        """An LEB128 varint: seven bits a byte, lowest first, the top bit set on all but the last byte."""
        value = 0
        for index in range(MAX_VARINT_BYTES):
            byte = self.take(1, name)[0]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                # One value, one spelling: otherwise equal files could differ in bytes.
                if byte == 0 and index > 0:
                    break
                return value
        raise MalformedError(
            f"the .looc file is malformed: its {name} before byte {self.position} is not a minimal varint; get a fresh copy"
        )


def _parse(view: memoryview, max_pixels: int | None, *, refuse_unknown: bool) -> tuple[Header, list[int], int]:
    """The header, where each chunk's data starts, and where the payload starts (byte positions)."""
    if not looks_like_looc(view):
        if len(view) == 0:
            raise TruncatedError("the .looc file is truncated: it is empty; get the whole file")
        if MAGIC.startswith(bytes(view[: len(MAGIC)])):
            raise _truncated(len(MAGIC), len(view))
        raise NotLoocError("this is not a .looc file: it does not begin with the bytes 8C 4C 43; pass a file that looc wrote")
    cursor = _Cursor(view)
    cursor.take(len(MAGIC), "magic")
    version_byte = cursor.take(1, "version")[0]
    version, segment_count = version_byte >> 4, version_byte & 0x0F
    if version != FORMAT_VERSION:
        raise UnsupportedError(f"the .looc file has format version {version}, this looc reads version 1; update looc")
    colour, filtered = Colour.RGB, False
    if segment_count == 0:
        flags = cursor.take(1, "flags")[0]
        number = (flags & _COLOUR_MASK) >> _COLOUR_SHIFT
        if flags & _UNUSED_FLAGS or number > max(Colour):
            raise UnsupportedError(f"the .looc file has the flags {flags:02X} (byte 4), unknown to this looc; update looc")
        colour, filtered, segment_count = Colour(number), bool(flags & _HAS_FILTER), flags & 0x0F
        # One value, one spelling: a colour picture without a filter has no flags byte.
        if segment_count == 0 or (colour == Colour.RGB and not filtered):
            raise MalformedError(f"the .looc file is malformed: its flags {flags:02X} (byte 4) say nothing; get a fresh copy")
    width, height = cursor.number("width"), cursor.number("height")
    _check_size(width, height, max_pixels)
    level_byte = cursor.take(1, "level")[0]
    level = level_byte & ~_HAS_CHUNKS
    if not 1 <= level <= 100:
        raise MalformedError(f"the .looc file is malformed: its level {level} is not in 1..100; get a fresh copy")
    fingerprint = bytes(cursor.take(FINGERPRINT_BYTES, "model fingerprint"))
    lengths = tuple(cursor.number("segment length") for _ in range(segment_count))
    code_checksum = int.from_bytes(cursor.take(CHECKSUM_BYTES, "code checksum"), "big")
    filter_data = b""
    if filtered:
        length = cursor.take(1, "filter length")[0]
        if length == 0:
            raise MalformedError(f"the .looc file is malformed: its filter before byte {cursor.position} is empty; get a fresh copy")
        filter_data = bytes(cursor.take(length, "filter"))
    chunks: list[ChunkInfo] = []
    starts: list[int] = []
    if level_byte & _HAS_CHUNKS:
        chunk_count = cursor.number("chunk count")
        if not 1 <= chunk_count <= MAX_CHUNKS:
            raise MalformedError(
                f"the .looc file is malformed: it states {chunk_count} chunks, 1..{MAX_CHUNKS} are allowed; get a fresh copy"
            )
        for _ in range(chunk_count):
            name = _chunk_type(bytes(cursor.take(4, "chunk type")), cursor.position - 4)
            if name in KNOWN_CHUNKS and any(chunk.type == name for chunk in chunks):
                raise MalformedError(f"the .looc file is malformed: it has two {name} chunks; get a fresh copy")
            if refuse_unknown and name[0].isupper() and name not in KNOWN_CHUNKS:
                raise UnsupportedError(
                    f"the .looc file needs the feature {name} (byte {cursor.position - 4}), unknown to this looc; update looc"
                )
            chunks.append(ChunkInfo(name, cursor.number(f"{name} chunk length")))
            starts.append(cursor.position)
            cursor.take(chunks[-1].length_bytes + CHECKSUM_BYTES, f"{name} chunk")
    header = Header(
        version=version,
        width=width,
        height=height,
        level=level,
        fingerprint=fingerprint,
        segment_lengths_bytes=lengths,
        code_checksum=code_checksum,
        chunks=tuple(chunks),
        file_bytes=cursor.position + sum(lengths) + CHECKSUM_BYTES,
        colour=colour,
        filter=filter_data,
    )
    return header, starts, cursor.position


def _version_and_segments(container: Container) -> bytes:
    """Version and number of segments in one byte, or, for a picture that is not RGB or has a filter, with the flags in two."""
    version, count = FORMAT_VERSION << 4, len(container.segments)
    flags = container.colour << _COLOUR_SHIFT | (_HAS_FILTER if container.filter else 0)
    return bytes([version, flags | count]) if flags else bytes([version | count])


def _chunk_type(raw: bytes, position: int) -> str:
    name = raw.decode("latin-1")
    if not _is_chunk_type(name):
        raise MalformedError(
            f"the .looc file is malformed: the chunk type at byte {position} is not four letters; get a fresh copy"
        )
    return name


def _is_chunk_type(name: str) -> bool:
    return len(name) == 4 and name[0] != "_" and all(letter in _TYPE_LETTERS for letter in name)


def is_thin_beyond(width: int, height: int, max_pixels: int) -> bool:
    """Whether a picture within `max_pixels` is so thin that its blocks of 16x16 take far more memory than the limit means.

    250 million pixels in one row are as much work as 4 billion; any picture of at least 16 pixels each way passes. Small
    work is never refused, whatever the limit.

    >>> is_thin_beyond(250_000_000, 1, 250_000_000), is_thin_beyond(65_000, 1, 65_000), is_thin_beyond(20_000, 12_000, 250_000_000)
    (True, False, False)
    """
    block_pixels = -(-width // PATCH) * -(-height // PATCH) * PATCH**2
    return block_pixels > max(4 * max_pixels, 2**24)


def _check_size(width: int, height: int, max_pixels: int | None) -> None:
    if width == 0 or height == 0:
        raise LimitError(f"the .looc file claims a picture of {width}x{height} pixels, which has none; get a fresh copy")
    if max(width, height) > MAX_SIDE_PIXELS:
        raise LimitError(f"the .looc file claims {width}x{height} pixels; the format ends at {MAX_SIDE_PIXELS} a side")
    if max_pixels is not None and width * height > max_pixels:
        raise LimitError(
            f"the .looc file claims {width}x{height} pixels, more than the limit of {max_pixels};"
            " raise the limit (--max-pixels) if you trust the file"
        )
    if max_pixels is not None and is_thin_beyond(width, height, max_pixels):
        raise LimitError(
            f"the .looc file claims {width}x{height} pixels, a strip that takes the memory of more than the limit of {max_pixels};"
            " raise the limit (--max-pixels) if you trust the file"
        )


def _check_packable(container: Container) -> None:
    _check_size(container.width, container.height, None)
    if not 1 <= container.level <= 100:
        raise FormatError(f"cannot write a .looc file of level {container.level}; use 1..100")
    if len(container.fingerprint) != FINGERPRINT_BYTES:
        raise FormatError(f"cannot write a model fingerprint of {len(container.fingerprint)} bytes; it has {FINGERPRINT_BYTES}")
    if None in container.segments:
        raise FormatError("cannot write a .looc file without all of its segments")
    if not 1 <= len(container.segments) <= MAX_SEGMENTS:
        raise FormatError(f"cannot write {len(container.segments)} payload segments; use 1..{MAX_SEGMENTS}")
    if not 0 <= container.code_checksum < 2 ** (8 * CHECKSUM_BYTES):
        raise FormatError(f"cannot write the code checksum {container.code_checksum}; it has 32 bits")
    if len(container.filter) > MAX_FILTER_BYTES:
        raise FormatError(f"cannot write a filter of {len(container.filter)} bytes; the format ends at {MAX_FILTER_BYTES}")
    if len(container.chunks) > MAX_CHUNKS:
        raise LimitError(f"cannot write {len(container.chunks)} metadata chunks; the format ends at {MAX_CHUNKS}")
    types = [chunk.type for chunk in container.chunks]
    for name in types:
        if not _is_chunk_type(name):
            raise FormatError(f"cannot write a chunk of type {name!r}; use four letters or underscores, the first a letter")
        if name in KNOWN_CHUNKS and types.count(name) > 1:
            raise FormatError(f"cannot write two {name} chunks; merge them into one")
    if max(map(len, (*container.segments, *(chunk.data for chunk in container.chunks)))) > MAX_LENGTH_BYTES:
        raise LimitError(f"cannot write a segment or chunk of more than {MAX_LENGTH_BYTES} bytes; use a smaller picture")


def _truncated(needed: int, present: int) -> TruncatedError:
    return TruncatedError(
        f"the .looc file is truncated: it needs {needed} bytes and ends after {present}; get the whole file"
    )


def _cut_short(header: Header, present: int, held: int) -> TruncatedError:
    """The error about a file that ends within or after its payload's first segments."""
    if held == 0:
        return _truncated(header.file_bytes, present)
    return TruncatedError(
        f"the .looc file is truncated: it needs {header.file_bytes} bytes and ends after {present}, with {held} of"
        f" {len(header.segment_lengths_bytes)} channel groups; get the whole file, or --allow-truncated for a preview"
    )


def _varint(value: int) -> bytes:
    """LEB128: seven bits a byte, lowest first, the top bit set on all but the last byte."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _checksum(*parts: bytes | memoryview) -> bytes:
    """CRC32 (the one of PNG and zlib) of the parts in order, 4 bytes big endian."""
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value.to_bytes(CHECKSUM_BYTES, "big")
