"""Picture file or Pillow image -> picture, as a colour-managed viewer shows it; what is lost is said in a notice."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile

from looc_codec.errors import ImageError
from looc_codec.files import STANDARD_STREAM
from looc_codec.format.container import DEFAULT_MAX_PIXELS
from looc_codec.images.alpha import filled_where_invisible
from looc_codec.images.colour import GREY_MODES, Samples, rgb_and_alpha
from looc_codec.images.jpeg_xl import size_of_jpeg_xl
from looc_codec.images.metadata import exif_and_xmp, orientation_to_undo, upright_metadata
from looc_codec.images.opening import (
    HEAD_BYTES,
    check_size,
    colours_and_notices,
    formats_for,
    main_page,
    own_limit,
    sentence,
)
from looc_codec.images.picture import Picture, upright
from looc_codec.images.profiles import checked_profile, is_hdr, profile_of_code_points, profile_of_png
from looc_codec.images.texts import raw_profile

_BITS_PER_SAMPLE_TAG, _PHOTOMETRIC_TAG = 258, 262
_WHITE_IS_ZERO = 0


def read_picture(
    source: str | Path | BinaryIO | bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str | None = None
) -> Picture:
    """The picture of a file (`-`: standard input), a binary file object, or the bytes of a picture file.

    The size is checked before anything is decoded. `name` stands for the source in error sentences.

    Raises:
        ImageError: there is no such file, it is no picture that can be read, it is damaged or cut short, or it has more
            than `max_pixels` pixels.
    """
    if name is None:
        name = _name_of(source)
    head = b""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_opened(source))
            head = file.read(HEAD_BYTES)
            file.seek(0)
            if not head:
                raise ImageError(f"{name} is empty; give a picture file")
            notices = []
            if ImageFile.LOAD_TRUNCATED_IMAGES:
                # Global to the process and the program's own choice, so it is left alone.
                notices.append("this program has Pillow accept files cut short, so whether it is whole is not known")
            formats = formats_for(head)
            if "JXL" in formats and (size := size_of_jpeg_xl(file)) is not None:
                # Its reader decodes on opening.
                check_size(*size, max_pixels, name)
            with own_limit(max_pixels), Image.open(file, formats=formats) as image:
                return _picture(image, max_pixels, name, notices, may_seek=True)
        except ImageError:
            raise
        # Pillow's readers raise whatever their parsing stumbles over: every one of these is about the file.
        except Exception as error:
            raise ImageError(sentence(error, name, head, max_pixels)) from error


def picture_from_pillow(
    image: Image.Image, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "the image"
) -> Picture:
    """The picture of a Pillow image of any mode, with the profile, EXIF and XMP of its `info`; it stays as it is.

    Raises:
        ImageError: it has no or too many pixels, or loading it fails.
    """
    try:
        with own_limit(max_pixels):
            return _picture(image, max_pixels, name, [], may_seek=False)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(sentence(error, name, b"", max_pixels)) from error


def _picture(image: Image.Image, max_pixels: int, name: str, notices: list[str], *, may_seek: bool) -> Picture:
    check_size(*image.size, max_pixels, name)
    page = main_page(image, name, may_seek=may_seek)
    check_size(*image.size, max_pixels, name)
    if page > 0:
        notices.append(f"its first page is a reduced copy or a mask; page {page + 1} alone is kept")
    elif getattr(image, "is_animated", False):
        notices.append("it has more than one frame or page; only the first is kept")
    # Known only until the pixels are loaded.
    code_points, found = colours_and_notices(image)
    notices += found
    wide = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    tags = getattr(image, "tag_v2", {})
    negative = tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO
    # Pillow gives 12-bit samples as they are in 16.
    bits = 12 if tags.get(_BITS_PER_SAMPLE_TAG) == (12,) else 16
    image.load()
    # Icons and some TIFF files find out their size while loading.
    check_size(*image.size, max_pixels, name)
    if wide or image.mode.startswith("I;16"):
        notices.append(f"it has {bits} bits a sample; 8 are kept")
    samples = Samples(wide=wide, bits=bits, negative=negative)
    rgb, alpha, icc = rgb_and_alpha(image, _profile(image, code_points, notices), samples, name, notices)
    one_plane = image.mode in GREY_MODES or image.mode.startswith("I;16")
    exif, xmp = exif_and_xmp(image)
    orientation = orientation_to_undo(image, exif)
    if orientation != 1:
        rgb = upright(rgb, orientation)
        alpha = None if alpha is None else upright(alpha, orientation)
    rgb = np.ascontiguousarray(rgb)
    exif, xmp = upright_metadata(image, exif, xmp, rgb.shape[1], rgb.shape[0], notices)
    if alpha is not None:
        if alpha.min() == 255:
            alpha = None
        else:
            alpha = np.ascontiguousarray(alpha)
            rgb = filled_where_invisible(rgb, alpha)
    picture = Picture(rgb=rgb, alpha=alpha, icc=icc, exif=exif, xmp=xmp, notices=tuple(notices))
    # Applying a grey profile may leave the planes a level apart.
    return replace(picture, one_plane=one_plane and picture.grey)


def _profile(image: Image.Image, code_points: tuple[int, int] | None, notices: list[str]) -> bytes | None:
    """The colour profile of a loaded image: its own, or one that says what the file states otherwise."""
    own = image.info.get("icc_profile") or raw_profile(image.info, "icc") or raw_profile(image.info, "icm")
    icc = checked_profile(own, notices)
    if image.format != "PNG":
        return icc if icc is not None or code_points is None else profile_of_code_points(*code_points, notices)
    # In PNG, cICP overrules a profile where it can be followed; one beside HDR code points stands for them.
    if code_points is not None:
        return profile_of_code_points(*code_points, [] if icc else notices) or (icc if is_hdr(code_points[1]) else None)
    return icc if icc is not None else profile_of_png(image.info, notices)


@contextlib.contextmanager
def _opened(source: str | Path | BinaryIO | bytes) -> Iterator[BinaryIO]:
    """A seekable binary file object at its start; only a file opened here is closed."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source)
    elif isinstance(source, (str, os.PathLike)) and os.fspath(source) != STANDARD_STREAM:
        with open(source, "rb") as file:
            # A pipe that has a name.
            yield file if file.seekable() else io.BytesIO(file.read())
    else:
        stream = sys.stdin.buffer if isinstance(source, (str, os.PathLike)) else source
        # Copied also where it could seek: the caller's position may not be 0, and Pillow would close or move it.
        yield io.BytesIO(stream.read())


def _name_of(source: str | Path | BinaryIO | bytes) -> str:
    if isinstance(source, (str, os.PathLike)):
        return "standard input" if os.fspath(source) == STANDARD_STREAM else os.fspath(source)
    return str(getattr(source, "name", "the picture"))
