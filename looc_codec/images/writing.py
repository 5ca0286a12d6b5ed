"""Picture -> Pillow image or picture file, with the metadata where each format has a place for it."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin

from looc_codec.errors import OutputError
from looc_codec.files import write_atomically
from looc_codec.images.exif import EXIF_PREFIX, ORIENTATION_TAG, descriptive, resolution_of, tiff_with_parts
from looc_codec.images.picture import Picture

PILLOW_FORMATS = {
    "png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP", "avif": "AVIF",
    "tif": "TIFF", "tiff": "TIFF", "bmp": "BMP",
}  # fmt: skip
"""Formats that are written, by suffix without the dot."""
QUALITY_FORMATS = ("JPEG", "WEBP", "AVIF")
"""Formats that are written with a quality; the others are lossless."""


_TIFF_XMP_TAG = 700
# What the header of JPEG can hold.
_PER_INCH_MAX = 65535


def picture_to_pillow(picture: Picture) -> Image.Image:
    """A Pillow image, RGB or RGBA, L or LA, whose `info` carries the picture's `icc_profile`, `exif`, `xmp`, `dpi`."""
    # A profile for RGB is wrong for a grey plane, and most readers drop it.
    one_plane = picture.one_plane and picture.icc is None
    pixels = np.ascontiguousarray(picture.rgb[..., 0]) if one_plane else picture.rgb
    if picture.alpha is not None:
        pixels = np.dstack([pixels, picture.alpha])
    image = Image.fromarray(pixels)
    if picture.icc:
        image.info["icc_profile"] = picture.icc
    if picture.exif:
        image.info["exif"] = EXIF_PREFIX + picture.exif
        if (per_inch := resolution_of(picture.exif)) is not None:
            image.info["dpi"] = per_inch
    if picture.xmp:
        image.info["xmp"] = picture.xmp
    return image


def output_format(path: str | Path) -> str:
    """The Pillow format for a file name, known before any work; no suffix means PNG.

    >>> output_format("holiday.JPG"), output_format("-")
    ('JPEG', 'PNG')

    Raises:
        OutputError: the suffix is of no format that can be written.
    """
    suffix = os.path.splitext(path)[1].removeprefix(".")
    return _format_of(suffix) if suffix else "PNG"


def write_picture(
    picture: Picture, target: str | Path | BinaryIO, format: str | None = None, *, quality: int | None = None
) -> tuple[str, ...]:
    """Writes a picture file, and gives notices about what its format could not keep.

    `format` is a suffix (`png`, `.tif`); without it the target's suffix decides, or PNG. A path is written whole or not
    at all and replaced if it exists. PNG, WebP, TIFF and BMP are lossless, JPEG and AVIF of high quality; with
    `quality`, 1 to 100, JPEG, WebP and AVIF are of that one.

    Raises:
        OutputError: the format is unknown or cannot hold the picture, or the path cannot be written.
        OSError: writing to a file object fails.
    """
    if format is not None:
        kind = _format_of(format)
    else:
        kind = output_format(target) if isinstance(target, (str, os.PathLike)) else "PNG"
    data, notices = _encoded(picture, kind, quality)
    if isinstance(target, (str, os.PathLike)):
        with write_atomically(target, force=True) as file:
            file.write(data)
    else:
        target.write(data)
    return notices


def _format_of(suffix: str) -> str:
    """The Pillow format of a suffix with or without its dot, in any case."""
    kind = PILLOW_FORMATS.get(suffix.lower().removeprefix("."))
    if kind is None:
        raise OutputError(f"cannot write pictures of format {suffix!r}; use one of {', '.join(PILLOW_FORMATS)}")
    return kind


def _encoded(picture: Picture, kind: str, quality: int | None) -> tuple[memoryview, tuple[str, ...]]:
    notices = []
    if picture.alpha is not None and kind in ("JPEG", "BMP"):
        raise OutputError(f"{kind} cannot hold the transparency of this picture; choose png, webp, avif or tif")
    # Both know RGB only, and Pillow's AVIF writer does not take LA.
    one_plane = picture.one_plane and picture.icc is None and kind not in ("WEBP", "AVIF")
    pixels = picture_to_pillow(replace(picture, icc=None, exif=None, xmp=None, one_plane=one_plane))
    failure = None
    # Metadata from anywhere may be too long or too odd for a format's writer; the pixels matter most, then the colours.
    kept = ("icc", "exif", "xmp") if kind != "BMP" else ()
    per_inch = resolution_of(picture.exif) if picture.exif else None
    for names in dict.fromkeys((kept, tuple(n for n in kept if n != "xmp"), tuple(n for n in kept if n == "icc"), ())):
        try:
            encoded = io.BytesIO()
            pixels.save(
                encoded, kind, **_options(kind, {name: getattr(picture, name) for name in names}, per_inch, quality)
            )
        # Writers, too, raise anything from struct.error to OSError; nothing has touched the disk yet.
        except MemoryError:
            raise
        except Exception as error:
            failure = error
            continue
        lost = [name.upper() for name in ("icc", "exif", "xmp") if getattr(picture, name) and name not in names]
        if lost:
            notices.append(f"{kind} cannot hold this picture's {' and '.join(lost)}; left out")
        if kind == "TIFF" and picture.exif and "exif" in names:
            encoded = io.BytesIO(tiff_with_parts(encoded.getvalue(), picture.exif))
        return encoded.getbuffer(), tuple(notices)
    raise OutputError(
        f"the picture of {picture.width}x{picture.height} pixels cannot be written as {kind} ({failure}); use png"
    )


def _options(
    kind: str, metadata: dict[str, bytes | None], per_inch: tuple[float, float] | None, quality: int | None
) -> dict:
    """Pillow's options for one format, with metadata where each format wants it."""
    options: dict = {
        # Level 4 takes a third of the time of the default 6 for 2 % more bytes.
        "PNG": {"compress_level": 4},
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True, "exact": True},
        "AVIF": {"quality": 90, "subsampling": "4:4:4"},
        "TIFF": {"compression": "tiff_adobe_deflate"},
        "BMP": {},
    }[kind]
    if quality is not None and kind in QUALITY_FORMATS:
        options["quality"] = quality
        # It would overrule the quality.
        options.pop("lossless", None)
    icc, exif, xmp = metadata.get("icc"), metadata.get("exif"), metadata.get("xmp")
    if icc:
        options["icc_profile"] = icc
    # TIFF has the entries of EXIF for it; WebP and AVIF have no other place than EXIF.
    if kind in ("PNG", "JPEG", "BMP") and per_inch is not None and max(per_inch) <= _PER_INCH_MAX:
        options["dpi"] = per_inch
    if kind == "TIFF":
        tags = Image.Exif()
        if exif:
            # The EXIF directory becomes the file's own, where tags about the layout would do harm.
            tags.load(EXIF_PREFIX + exif)
            tags = descriptive(tags)
        if xmp:
            tags[_TIFF_XMP_TAG] = xmp
        tags[ORIENTATION_TAG] = 1
        options["exif"] = tags
    elif exif:
        options["exif"] = EXIF_PREFIX + exif if kind == "JPEG" else exif
    if xmp and kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options["pnginfo"] = text
    elif xmp and kind != "TIFF":
        options["xmp"] = xmp
    return options
