"""Picture file or Pillow image -> picture, as a colour-managed viewer shows it; what is lost is said in a notice."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile

from looc_codec.container import DEFAULT_MAX_PIXELS
from looc_codec.errors import ImageError
from looc_codec.files import STANDARD_STREAM
from looc_codec.images.alpha import filled_where_invisible
from looc_codec.images.colour import GREY_MODES, checked_profile, profile_of_gamma, rgb_and_alpha
from looc_codec.images.metadata import exif_and_xmp, orientation_entry, upright, with_orientation_1
from looc_codec.images.opening import check_size, formats_for, notices_of_head, own_limit, sentence
from looc_codec.images.picture import Picture


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
            head = file.read(65536)
            file.seek(0)
            if not head:
                raise ImageError(f"{name} is empty; give a picture file")
            notices = notices_of_head(head)
            if ImageFile.LOAD_TRUNCATED_IMAGES:
                # Global to the process and the program's own choice, so it is left alone.
                notices.append("this program has Pillow accept files cut short, so whether it is whole is not known")
            with own_limit(max_pixels), Image.open(file, formats=formats_for(head)) as image:
                return _picture(image, max_pixels, name, notices)
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
            return _picture(image, max_pixels, name, [])
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(sentence(error, name, b"", max_pixels)) from error


def _picture(image: Image.Image, max_pixels: int, name: str, notices: list[str]) -> Picture:
    check_size(image, max_pixels, name)
    if getattr(image, "is_animated", False):
        notices.append("it has more than one frame or page; only the first is kept")
    # Known only until the pixels are loaded.
    wide = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    # Icons and some TIFF files find out their size while loading.
    check_size(image, max_pixels, name)
    if wide or image.mode.startswith("I;16"):
        notices.append("it has 16 bits a sample; 8 are kept")
    icc = checked_profile(image.info.get("icc_profile"), notices)
    if icc is None and image.format == "PNG":
        icc = profile_of_gamma(image.info, notices)
    rgb, alpha, icc = rgb_and_alpha(image, icc, wide, name, notices)
    one_plane = image.mode in GREY_MODES or image.mode.startswith("I;16")
    exif, xmp = exif_and_xmp(image)
    entry = orientation_entry(exif) if exif else None
    if entry is not None and 2 <= entry[0] <= 8:
        rgb = upright(rgb, entry[0])
        alpha = None if alpha is None else upright(alpha, entry[0])
        exif = with_orientation_1(exif, entry)
    # Browsers never turn a picture by its XMP, so it is upright now; programs that do must find nothing to turn.
    xmp = xmp and re.sub(rb'(tiff:Orientation(?:="|=\'|>))[2-8]', rb"\g<1>1", xmp)
    rgb = np.ascontiguousarray(rgb)
    if alpha is not None:
        if alpha.min() == 255:
            alpha = None
        else:
            alpha = np.ascontiguousarray(alpha)
            rgb = filled_where_invisible(rgb, alpha)
    picture = Picture(rgb=rgb, alpha=alpha, icc=icc, exif=exif, xmp=xmp, notices=tuple(notices))
    # Applying a grey profile may leave the planes a level apart.
    return replace(picture, one_plane=one_plane and picture.grey)


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
