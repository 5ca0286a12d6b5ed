"""Pillow under limits of our own: which formats are opened, up to which size, and one sentence for whatever fails."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import BinaryIO

from PIL import Image

from looc_codec.errors import ImageError
from looc_codec.files import PICTURE_KINDS
from looc_codec.format.container import is_thin_beyond

READ_FORMATS = tuple(PICTURE_KINDS)
"""Pillow formats that are read."""

HEAD_BYTES = 65536
_NEW_SUBFILE_TYPE_TAG, _SUBFILE_TYPE_TAG, _SUB_IFDS_TAG, _DNG_VERSION_TAG = 254, 255, 330, 50706
_PAGES_MAX = 100

_own_max_pixels: ContextVar[int | None] = ContextVar("looc_max_pixels", default=None)


@contextlib.contextmanager
def own_limit(max_pixels: int) -> Iterator[None]:
    """Pillow's size checks in this block, and in this thread or task alone, go by `max_pixels`.

    The program around keeps `Image.MAX_IMAGE_PIXELS` as it is, and nothing is locked: readers run side by side.
    """
    token = _own_max_pixels.set(max_pixels)
    try:
        yield
    finally:
        _own_max_pixels.reset(token)


def _scoped_size_check(size: tuple[int, int], **options: bool) -> None:
    """Pillow's check against decompression bombs, by our limit where one is set and without a warning then."""
    max_pixels = _own_max_pixels.get()
    if max_pixels is None:
        _pillow_size_check(size, **options)
    # Twice the limit, as Pillow does: an icon's header counts its mask as rows. `check_size` is exact, and follows.
    elif max(1, size[0]) * max(1, size[1]) > 2 * max_pixels:
        raise Image.DecompressionBombError(f"{size[0]}x{size[1]} pixels")


# Several readers (WebP, TIFF, icons) ask this function before they allocate, and it knows a global limit only. Raising
# that would raise it for every thread of the program; this asks the context first and changes nothing for anyone else.
_pillow_size_check = Image._decompression_bomb_check
Image._decompression_bomb_check = _scoped_size_check


def formats_for(head: bytes) -> list[str]:
    """The formats that Pillow can read here; plug-ins for HEIC and JPEG XL are used where they are installed."""
    Image.init()
    with contextlib.suppress(ImportError):
        if _foreign_kind(head) == "HEIC" and "HEIF" not in Image.OPEN:
            from pillow_heif import register_heif_opener

            register_heif_opener()
        elif _foreign_kind(head) == "JPEG XL" and "JXL" not in Image.OPEN:
            import pillow_jxl  # noqa: F401
    return [name for name in READ_FORMATS if name in Image.OPEN]


def _foreign_kind(head: bytes) -> str | None:
    """The name of a well-known kind of file that Pillow does not read by itself."""
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        # AVIF files may call themselves mif1 first.
        return None if b"avif" in head[8:64] else "HEIC"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL"
    return None


def colours_and_notices(image: Image.Image) -> tuple[tuple[int, int] | None, list[str]]:
    """What Pillow does not tell of an image that is opened and not loaded yet, from the file itself.

    Code points of ITU-T H.273 for primaries and transfer (PNG's cICP, nclx of AVIF and HEIC), None if there are none,
    and notices of more than 8 bits and of parts beside the picture.
    """
    notices: list[str] = []
    file = getattr(image, "fp", None)
    if file is None or image.format not in ("PNG", "AVIF", "HEIF"):
        return None, notices
    position = file.tell()
    try:
        if image.format == "PNG":
            chunk = _png_chunk(file, b"cICP")
            if len(chunk) >= 4 and not chunk[3]:
                notices.append("its samples are of narrow range, which is taken as full: it may look pale")
            return ((chunk[0], chunk[1]) if len(chunk) >= 2 else None), notices
        file.seek(0)
        head = file.read(HEAD_BYTES)
    finally:
        file.seek(position)
    config = head.find(b"av1C")
    if (config >= 0 and len(head) > config + 6 and head[config + 6] & 0x40) or image.info.get("bit_depth", 8) > 8:
        notices.append("it has more than 8 bits a sample; 8 are kept")
    # A picture made from the base and a gain map is a part of its own.
    if b"tmap" in head[8:64]:
        notices.append("its gain map is left out")
    colour = head.find(b"colrnclx")
    if colour >= 0 and len(head) >= colour + 12:
        return struct.unpack(">HH", head[colour + 8 : colour + 12]), notices
    return None, notices


def _png_chunk(file: BinaryIO, kind: bytes) -> bytes:
    """The data of the first PNG chunk of this kind before the pixels; empty if there is none."""
    position = 8
    while True:
        file.seek(position)
        start = file.read(8)
        if len(start) < 8 or start[4:] in (b"IDAT", b"IEND"):
            return b""
        length = int.from_bytes(start[:4], "big")
        if start[4:] == kind:
            return file.read(min(length, HEAD_BYTES))
        position += 12 + length


def check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    """ImageError for a picture without pixels, with more than the limit, or too thin for its memory."""
    if width < 1 or height < 1:
        raise ImageError(f"{name} has {width}x{height} pixels; give a picture with some")
    if width * height > max_pixels:
        raise ImageError(_too_large(f"{name} has {width}x{height} pixels", max_pixels))
    if is_thin_beyond(width, height, max_pixels):
        subject = f"{name} is a strip of {width}x{height} pixels, which takes the memory of many"
        raise ImageError(_too_large(subject, max_pixels))


def main_page(image: Image.Image, name: str, *, may_seek: bool) -> int:
    """Goes on to the first page of a TIFF file that is no reduced copy of another and no mask: its number from 0.

    Camera raw files are of this kind: what can be read of them is a preview. ImageError where there is no such page, or
    where one would have to be sought and `may_seek` does not allow it.
    """
    tags = getattr(image, "tag_v2", {})
    size = f"{image.width}x{image.height}"
    if not _is_reduced_or_mask(tags):
        return 0
    if _DNG_VERSION_TAG in tags or _SUB_IFDS_TAG in tags:
        raise ImageError(
            f"{name} is a camera raw file, of which only a preview of {size} pixels could be read; "
            "develop it first: save it as TIFF, PNG or JPEG in a raw converter"
        )
    for page in range(1, _PAGES_MAX if may_seek else 1):
        try:
            image.seek(page)
        # The end of the pages, or one that cannot be read, for which Pillow has many errors.
        except Exception:
            break
        if not _is_reduced_or_mask(image.tag_v2):
            return page
    raise ImageError(
        f"{name} shows a reduced copy of {size} pixels or a mask, not the picture itself; give the page of the picture"
    )


def _is_reduced_or_mask(tags: Mapping[int, object]) -> bool:
    kind = tags.get(_NEW_SUBFILE_TYPE_TAG)
    return (isinstance(kind, int) and bool(kind & 0b101)) or tags.get(_SUBFILE_TYPE_TAG) == 2


def _too_large(subject: str, max_pixels: int) -> str:
    return f"{subject}, more than the limit of {max_pixels}; raise the limit (--max-pixels) if you trust it"


def sentence(error: Exception, name: str, head: bytes, max_pixels: int) -> str:
    """One sentence for whatever opening and decoding a picture raised."""
    if isinstance(error, Image.DecompressionBombError):
        return _too_large(f"{name} has {error}", max_pixels)
    if isinstance(error, MemoryError):
        return f"{name} needs more memory than there is; make it smaller first"
    if isinstance(error, Image.UnidentifiedImageError):
        kind = _foreign_kind(head)
        if kind is not None:
            package = {"HEIC": "pillow-heif", "JPEG XL": "pillow-jxl-plugin"}[kind]
            return f"{name} is {kind}, which needs an additional reader; install it with: pip install {package}"
        return f"{name} is not a picture that looc can read; check the file, or convert it to PNG first"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot read {name}: {error.strerror}; check the name and the permissions"
    # The first line only, without Pillow's closing stop.
    detail = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return f"{name} is damaged or cut short ({detail}); get a fresh copy"
