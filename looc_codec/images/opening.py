"""Pillow under limits of our own: which formats are opened, up to which size, and one sentence for whatever fails."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from contextvars import ContextVar

from PIL import Image

from looc_codec.container import is_thin_beyond
from looc_codec.errors import ImageError

READ_FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "AVIF", "HEIF", "JXL", "TIFF", "BMP", "DIB", "GIF", "ICO", "PPM", "JPEG2000",
    "TGA", "QOI", "PCX", "SGI", "ICNS",
)  # fmt: skip
"""Pillow formats that are read. EPS and PDF would start other programs on the file; stubs decode nothing."""

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


def notices_of_head(head: bytes) -> list[str]:
    """What the first bytes of an AVIF file tell and Pillow does not: more than 8 bits, wide or HDR colours."""
    notices: list[str] = []
    if head[4:8] != b"ftyp":
        return notices
    config = head.find(b"av1C")
    if config >= 0 and len(head) > config + 6 and head[config + 6] & 0x40:
        notices.append("it has more than 8 bits a sample; 8 are kept")
    colour = head.find(b"colrnclx")
    if colour >= 0 and len(head) >= colour + 12:
        primaries, transfer = struct.unpack(">HH", head[colour + 8 : colour + 12])
        # ITU-T H.273: 1 is BT.709, 2 unspecified, 5 and 6 BT.601; transfers 13 sRGB, 14 and 15 BT.2020, all near sRGB.
        if primaries not in (1, 2, 5, 6) or transfer not in (1, 2, 6, 13, 14, 15):
            notices.append(
                "it has wide-gamut or HDR colours without an ICC profile; they are kept as if sRGB and look duller"
            )
    return notices


def check_size(image: Image.Image, max_pixels: int, name: str) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has {width}x{height} pixels; give a picture with some")
    if width * height > max_pixels:
        raise ImageError(_too_large(f"{name} has {width}x{height} pixels", max_pixels))
    if is_thin_beyond(width, height, max_pixels):
        subject = f"{name} is a strip of {width}x{height} pixels, which takes the memory of many"
        raise ImageError(_too_large(subject, max_pixels))


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
