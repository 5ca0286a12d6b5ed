"""EXIF blocks, changed in place: whatever is not changed, makers' notes above all, stays where offsets expect it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction

from PIL import Image

EXIF_PREFIX = b"Exif\0\0"
ORIENTATION_TAG = 0x0112
IMAGE_DESCRIPTION_TAG, SOFTWARE_TAG, ARTIST_TAG, COPYRIGHT_TAG = 0x010E, 0x0131, 0x013B, 0x8298
_X_RESOLUTION_TAG, _Y_RESOLUTION_TAG, _RESOLUTION_UNIT_TAG = 0x011A, 0x011B, 0x0128
_EXIF_IFD_TAG, _GPS_IFD_TAG, _INTEROP_IFD_TAG = 0x8769, 0x8825, 0xA005
_WIDTH_TAGS, _HEIGHT_TAGS = (0x0100, 0xA002), (0x0101, 0xA003)
# Places in the picture, by coordinates that hold no more once it is turned.
_SUBJECT_TAGS = (0x9214, 0xA214)
_THUMBNAIL_TAGS = ((0x0201, 0x0202), (0x0111, 0x0117))
_ORDERS = {b"II*\0": "little", b"MM\0*": "big"}
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_ENTRIES_MAX = 500
"""Cameras write some dozens; a directory of more is no directory."""
_ASCII, _SHORT, _LONG, _RATIONAL = 2, 3, 4, 5
# What the TIFF reader shows as EXIF holds the layout of the file too; only these describe the picture.
_TIFF_TAGS_KEPT = (
    0x010D, IMAGE_DESCRIPTION_TAG, 0x010F, 0x0110, _X_RESOLUTION_TAG, _Y_RESOLUTION_TAG, _RESOLUTION_UNIT_TAG,
    SOFTWARE_TAG, 0x0132, ARTIST_TAG, COPYRIGHT_TAG,
)  # fmt: skip


@dataclass(frozen=True)
class _Entry:
    """One entry of a directory: its tag, type and count, where it lies, and where its value lies, in bytes."""

    tag: int
    type: int
    count: int
    position: int
    value_position: int
    value_bytes: int


class _Block:
    """The bytes of an EXIF block with its byte order; reads beyond the end give zeros, so damage ends a search."""

    def __init__(self, exif: bytes) -> None:
        self.data = bytearray(exif)
        self.order = _ORDERS[exif[:4]]
        self.first = self.number(4, 4)

    def number(self, position: int, length: int) -> int:
        return int.from_bytes(self.data[position : position + length], self.order)

    def write(self, position: int, value: int, length: int) -> None:
        self.data[position : position + length] = value.to_bytes(length, self.order)

    def entries(self, start: int) -> list[_Entry]:
        """The entries of the directory at `start` as far as they lie within the block; none for 0."""
        found = []
        count = self.number(start, 2) if 8 <= start else 0
        if count > _ENTRIES_MAX:
            return []
        for position in range(start + 2, start + 2 + 12 * count, 12):
            if position + 12 > len(self.data):
                break
            tag, kind, items = self.number(position, 2), self.number(position + 2, 2), self.number(position + 4, 4)
            length = _TYPE_BYTES.get(kind, 1) * items
            place = position + 8 if length <= 4 else self.number(position + 8, 4)
            found.append(_Entry(tag, kind, items, position, place, length))
        return found

    def entry(self, start: int, tag: int) -> _Entry | None:
        return next((entry for entry in self.entries(start) if entry.tag == tag), None)

    def value(self, start: int, tag: int) -> int | None:
        """A whole number of a directory, None if it is not stated or of another type."""
        entry = self.entry(start, tag)
        if entry is None or entry.type not in (_SHORT, _LONG, 13) or entry.count != 1:
            return None
        return self.number(entry.value_position, entry.value_bytes)

    def set_value(self, start: int, tag: int, value: int) -> None:
        """Changes a whole number where the directory has one that can hold it."""
        entry = self.entry(start, tag)
        if entry is not None and self.value(start, tag) not in (None, value) and value < 256**entry.value_bytes:
            self.write(entry.value_position, value, entry.value_bytes)

    def directories(self) -> list[int]:
        """Where the directory of the picture lies, and those of EXIF, GPS and interoperability."""
        exif = self.value(self.first, _EXIF_IFD_TAG) or 0
        gps = self.value(self.first, _GPS_IFD_TAG) or 0
        return [start for start in (self.first, exif, gps, self.value(exif, _INTEROP_IFD_TAG) or 0) if start]

    def spans(self, start: int) -> list[tuple[int, int]]:
        """Beginnings and ends of the directory at `start` and of the values that lie outside it."""
        entries = self.entries(start)
        outside = [
            (each.value_position, each.value_position + each.value_bytes) for each in entries if each.value_bytes > 4
        ]
        return [(start, start + 2 + 12 * len(entries) + 4), *outside]

    def remove(self, start: int, tag: int) -> None:
        """Takes an entry out of a directory; the entries after it and the link to the next directory move up."""
        entry = self.entry(start, tag)
        if entry is None:
            return
        count = self.number(start, 2)
        end = start + 2 + 12 * count + 4
        if end > len(self.data):
            return
        self.data[entry.position : end] = self.data[entry.position + 12 : end] + bytes(12)
        self.write(start, count - 1, 2)

    def remove_thumbnail(self) -> None:
        """Cuts the link to the second directory, and its bytes off the end, or blanks them where others follow."""
        link = self.first + 2 + 12 * self.number(self.first, 2)
        second = self.number(link, 4)
        if self.first < 8 or link + 4 > len(self.data) or not second:
            return
        self.write(link, 0, 4)
        gone = self.spans(second)
        for place, length in _THUMBNAIL_TAGS:
            start, size = self.value(second, place), self.value(second, length)
            if start and size:
                gone.append((start, start + size))
        # The header above all.
        kept = [(0, 8)] + [span for start in self.directories() for span in self.spans(start)]
        cut = min(start for start, _ in gone)
        # Up to a few bytes of padding may follow.
        if cut >= max(end for _, end in kept) and max(end for _, end in gone) >= len(self.data) - 8:
            del self.data[cut:]
            return
        for start, end in gone:
            end = min(end, len(self.data))
            if start < end and all(end <= first or last <= start for first, last in kept):
                self.data[start:end] = bytes(end - start)


def checked_exif(exif: object) -> bytes | None:
    """The block if it begins with a TIFF header, with or without the prefix of JPEG; else None."""
    if not isinstance(exif, bytes):
        return None
    exif = exif.removeprefix(EXIF_PREFIX)
    return exif if exif[:4] in _ORDERS else None


def orientation_of(exif: bytes) -> int | None:
    """The orientation, 1..8, that a block states; None if it states none."""
    block = _Block(exif)
    value = block.value(block.first, ORIENTATION_TAG)
    return value if value is not None and 1 <= value <= 8 else None


def upright_exif(exif: bytes, width: int, height: int) -> bytes:
    """The block for a picture of `width` x `height` pixels that is upright now: orientation 1, and the right size.

    Where it states another orientation, thumbnail and subject areas are as the camera was held and are taken out;
    resolutions change places with the sides.
    """
    block = _Block(exif)
    turned_by = orientation_of(exif) or 1
    block.set_value(block.first, ORIENTATION_TAG, 1)
    for start in block.directories():
        for tags, value in ((_WIDTH_TAGS, width), (_HEIGHT_TAGS, height)):
            for tag in tags:
                block.set_value(start, tag, value)
    if turned_by != 1:
        block.remove_thumbnail()
        for start in block.directories()[1:]:
            for tag in _SUBJECT_TAGS:
                block.remove(start, tag)
    if turned_by >= 5:
        across, down = (block.entry(block.first, tag) for tag in (_X_RESOLUTION_TAG, _Y_RESOLUTION_TAG))
        if across and down and across.type == down.type == _RATIONAL and across.count == down.count == 1:
            places = [slice(entry.value_position, entry.value_position + 8) for entry in (across, down)]
            if all(8 <= place.start and place.stop <= len(block.data) for place in places):
                block.data[places[0]], block.data[places[1]] = block.data[places[1]], block.data[places[0]]
    return bytes(block.data)


def with_texts(exif: bytes | None, texts: dict[int, str]) -> bytes | None:
    """The block, or a new one, with texts by tag in its first directory; those that it states already stay."""
    return _with_entries(exif, {tag: (_ASCII, text.encode("utf-8", "replace") + b"\0") for tag, text in texts.items()})


def with_resolution(exif: bytes | None, per_inch: tuple[float, float]) -> bytes | None:
    """The block, or a new one, with a resolution in pixels per inch, unless it states one."""
    if exif is not None and states(exif, _X_RESOLUTION_TAG):
        return exif
    order = _ORDERS[exif[:4]] if exif else "little"
    values = {}
    for tag, value in zip((_X_RESOLUTION_TAG, _Y_RESOLUTION_TAG), per_inch, strict=True):
        ratio = Fraction(value).limit_denominator(100)
        data = ratio.numerator.to_bytes(4, order) + ratio.denominator.to_bytes(4, order)
        values[tag] = (_RATIONAL, data)
    values[_RESOLUTION_UNIT_TAG] = (_SHORT, (2).to_bytes(2, order))
    return _with_entries(exif, values)


def states(exif: bytes, tag: int) -> bool:
    """Whether the first directory of a block has an entry of this tag."""
    block = _Block(exif)
    return block.entry(block.first, tag) is not None


def resolution_of(exif: bytes) -> tuple[float, float] | None:
    """Pixels per inch across and down that a block states, None if it states none with a unit."""
    block = _Block(exif)
    scale = {None: 1, 2: 1, 3: 2.54}.get(block.value(block.first, _RESOLUTION_UNIT_TAG))
    result = []
    for tag in (_X_RESOLUTION_TAG, _Y_RESOLUTION_TAG):
        entry = block.entry(block.first, tag)
        if scale is None or entry is None or entry.type != _RATIONAL or entry.count != 1:
            return None
        numerator, denominator = (block.number(entry.value_position + start, 4) for start in (0, 4))
        if not numerator or not denominator:
            return None
        result.append(numerator / denominator * scale)
    return result[0], result[1]


def _with_entries(exif: bytes | None, values: dict[int, tuple[int, bytes]]) -> bytes | None:
    """The block with more entries, by tag, of (type, value bytes) in its first directory; stated ones stay.

    The longer directory goes to the end of the block, so that no offset in it changes.
    """
    block = _Block(exif or b"II*\0" + bytes(4))
    old = block.entries(block.first)
    values = {tag: value for tag, value in values.items() if tag not in {entry.tag for entry in old}}
    if not values:
        return exif
    if len(old) != block.number(block.first, 2) * (block.first >= 8):
        # A damaged directory cannot be moved.
        return exif
    link = bytes(block.data[block.first + 2 + 12 * len(old) :][:4]).ljust(4, b"\0") if old else bytes(4)
    block.data += bytes(len(block.data) % 2)
    start = len(block.data)
    entries = {entry.tag: bytes(block.data[entry.position : entry.position + 12]) for entry in old}
    block.data += _directory(start, entries, values, link, block.order)
    block.write(4, start, 4)
    return bytes(block.data)


def _directory(
    start: int, entries: dict[int, bytes], values: dict[int, tuple[int, bytes]], link: bytes, order: str
) -> bytes:
    """A directory that is to lie at `start`, with its values after it: entries of 12 bytes, and values of a type."""
    mark = "<" if order == "little" else ">"
    entries = dict(entries)
    outside = b""
    outside_start = start + 2 + 12 * (len(entries) + len(values)) + 4
    for tag, (kind, data) in values.items():
        count = len(data) // _TYPE_BYTES[kind]
        if len(data) <= 4:
            field = data.ljust(4, b"\0")
        else:
            field = struct.pack(mark + "I", outside_start + len(outside))
            outside += data + bytes(len(data) % 2)
        entries[tag] = struct.pack(mark + "HHI", tag, kind, count) + field
    return struct.pack(mark + "H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + link + outside


def exif_of_tiff(image: Image.Image) -> bytes | None:
    """The descriptive part of a TIFF file's tags as an EXIF block."""
    try:
        source = image.getexif()
        kept = descriptive(source)
        for part in (_EXIF_IFD_TAG, _GPS_IFD_TAG):
            # The directory of interoperability lies elsewhere in the file: its offset would lead nowhere.
            values = {tag: value for tag, value in source.get_ifd(part).items() if tag != _INTEROP_IFD_TAG}
            if values:
                kept[part] = values
        return kept.tobytes().removeprefix(EXIF_PREFIX) if len(kept) else None
    # Values of the wrong type in a damaged directory; the pixels do not depend on them.
    except Exception:
        return None


def descriptive(source: Image.Exif) -> Image.Exif:
    """The tags that describe a picture, none about the layout of a file, without the EXIF and GPS parts."""
    kept = Image.Exif()
    for tag in _TIFF_TAGS_KEPT:
        if source.get(tag):
            value = source[tag]
            # Pillow reads texts as Latin-1 and writes question marks for all but ASCII; as bytes they stay as they are.
            kept[tag] = value.encode("latin-1", "replace") if isinstance(value, str) else value
    return kept


def tiff_with_parts(tiff: bytes, exif: bytes) -> bytes:
    """A TIFF file with the EXIF and GPS parts of a block, which libtiff's writer leaves out of compressed files."""
    block = _Block(exif)
    order = _ORDERS.get(tiff[:4])
    for tag in (_EXIF_IFD_TAG, _GPS_IFD_TAG):
        entries = [entry for entry in block.entries(block.value(block.first, tag) or 0) if entry.type in _TYPE_BYTES]
        values = {
            entry.tag: (entry.type, _in_order(block, entry, order))
            for entry in entries
            if entry.value_position + entry.value_bytes <= len(block.data) and entry.tag != _INTEROP_IFD_TAG
        }
        if values and order is not None:
            start = len(tiff) + len(tiff) % 2
            tiff = tiff.ljust(start, b"\0") + _directory(start, {}, values, bytes(4), order)
            tiff = _with_entries(tiff, {tag: (_LONG, start.to_bytes(4, order))})
    return tiff


def _in_order(block: _Block, entry: _Entry, order: str) -> bytes:
    """The value of an entry with its numbers in a byte order."""
    data = bytes(block.data[entry.value_position : entry.value_position + entry.value_bytes])
    size = {_RATIONAL: 4, 10: 4}.get(entry.type, _TYPE_BYTES[entry.type])
    if order == block.order or size == 1:
        return data
    return b"".join(data[start : start + size][::-1] for start in range(0, len(data), size))
