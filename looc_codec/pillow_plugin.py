"""Pillow reads and writes .looc files once this module is imported.

    import looc_codec.pillow_plugin

    image = Image.open("photo.looc")          # reads the header and the metadata; pixels follow when they are needed
    image.save("again.looc", quality=75)

Opening a file loads no model. Errors are Pillow's own: UnidentifiedImageError for what is no .looc file, OSError
for a damaged one or one whose model is not installed, DecompressionBombError beyond `Image.MAX_IMAGE_PIXELS`.
"""

from __future__ import annotations

import io
from contextlib import suppress
from typing import IO, Any, cast

import numpy as np
from PIL import Image, ImageFile

from looc_codec import images
from looc_codec.format.container import (
    ALPHA_CHUNK,
    EXIF_CHUNK,
    ICC_CHUNK,
    XMP_CHUNK,
    Colour,
    Header,
    looks_like_looc,
    read_header,
    sound_chunks,
    unpack,
)
from looc_codec.errors import ImageError, LoocError, ModelError, NotLoocError, OptionError, TruncatedError
from looc_codec.files import read_at_most
from looc_codec.registry import find_by_fingerprint

FORMAT = "LOOC"
MIME_TYPE = "image/x-looc"
EXTENSION = ".looc"

_COMPRESS_OPTIONS = (
    "quality", "level", "target_size", "target_bpp", "target_psnr", "target_ssimulacra2", "effort", "model", "threads",
)  # fmt: skip
_METADATA_OPTIONS = ("icc_profile", "exif", "xmp")
_PILLOW_OPTIONS = ("save_all", "append_images")
"""What Pillow itself may pass on."""
_FIRST_READ_BYTES = 4096
_MAX_HEADER_BYTES = 2**30
"""What a header with its metadata may take; a file that claims more is refused before it fills the memory."""


class LoocImageFile(ImageFile.ImageFile):
    """A .looc file as Pillow sees it: RGB, or L for a grey picture, each with A where it holds transparency.

    `info` has `level` (1..100, of the model's own scale), `quality` (1..100, about how it looks) where the model of the
    file is installed, `model_fingerprint` (16 hexadecimal digits), and `icc_profile`, `exif` and `xmp` where
    the file has them. `load()` decodes with the installed model that the file names; what a file
    cut short holds of the picture only where `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` is set.
    """

    format = FORMAT
    format_description = "looc learned image codec"

    def _open(self) -> None:
        try:
            header, head = _read_head(cast("IO[bytes]", self.fp))
        except NotLoocError as error:
            # The way in which Pillow's readers say that a file is not theirs.
            raise SyntaxError(str(error)) from error
        except LoocError as error:
            raise OSError(str(error)) from error
        self._size = (header.width, header.height)
        metadata = _metadata(header, head)
        # As picture_to_pillow decides it: with a colour profile grey comes as RGB.
        grey = header.colour == Colour.GREY and "icc_profile" not in metadata
        self._mode = ("L" if grey else "RGB") + ("A" if any(chunk.type == ALPHA_CHUNK for chunk in header.chunks) else "")
        self._file_bytes, self._pixels, self._shrink = header.file_bytes, header.width * header.height, 1
        self._decoded = False
        self.info["level"] = header.level
        with suppress(ModelError):
            self.info["quality"] = find_by_fingerprint(header.fingerprint).quality_scale.quality(header.level)
        self.info["model_fingerprint"] = header.fingerprint.hex()
        self.info.update(metadata)

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Makes `load` give a picture of 1/2, 1/4, 1/8 or 1/16 that is at least `size`, in a fraction of the time; the mode stays.

        Returns the mode and the box of the whole picture, as Pillow's own formats do; None where nothing is gained.
        """
        if self._decoded or size is None or self._shrink != 1:
            return None
        width, height = self.size
        fitting = [shrink for shrink in (2, 4, 8, 16) if width // shrink >= size[0] and height // shrink >= size[1]]
        if not fitting:
            return None
        self._shrink = fitting[-1]
        self._size = (-(-width // self._shrink), -(-height // self._shrink))
        return self.mode, (0, 0, width / self._shrink, height / self._shrink)

    def load(self) -> Any:
        """Decodes the picture unless that is done. Raises OSError when the file is damaged or its model is missing."""
        if not self._decoded:
            from looc_codec import api

            data = self._whole_file()
            try:
                # Pillow has judged the size when the file was opened; this only keeps to that size.
                allow = ImageFile.LOAD_TRUNCATED_IMAGES
                picture = api.restore_picture(data, max_pixels=self._pixels, scale=1 / self._shrink, allow_truncated=allow)
            except LoocError as error:
                raise OSError(str(error)) from error
            pixels = images.picture_to_pillow(picture)
            if (pixels.size, pixels.mode) != (self.size, self.mode):
                raise OSError("the .looc file has changed since it was opened; open it again")
            if self._exclusive_fp and self.fp is not None:
                self.fp.close()
            self.fp = io.BytesIO(pixels.tobytes())
            self.tile = [ImageFile._Tile("raw", (0, 0, *self.size), 0, self.mode)]
            self._decoded = True
        return super().load()

    def verify(self) -> None:
        """Checks every checksum of the file without decoding it; OSError when one does not match. Closes the file."""
        try:
            unpack(self._whole_file(), max_pixels=self._pixels)
        except LoocError as error:
            raise OSError(str(error)) from error
        super().verify()

    def _whole_file(self) -> bytes:
        """The bytes of the file, and one more if there are any: enough for `unpack` to tell that it is too long."""
        if self.fp is None:
            raise ValueError("Operation on closed image")
        self.fp.seek(0)
        return read_at_most(self.fp, self._file_bytes + 1)


def _read_head(file: IO[bytes]) -> tuple[Header, bytes]:
    """The header, and the beginning of the file that holds at least the header and the metadata, not the payload.

    Raises FormatError when there is no whole header.
    """
    head = file.read(_FIRST_READ_BYTES)
    while True:
        try:
            return read_header(head), head
        except TruncatedError:
            # Twice as much each time, so that a large profile or alpha plane is found in a few reads.
            more = file.read(len(head)) if len(head) < _MAX_HEADER_BYTES else b""
            if not more:
                raise
            head += more


def _metadata(header: Header, head: bytes) -> dict[str, Any]:
    """The entries of Pillow's `info` that the file's metadata gives; damaged chunks are left out, loading reports them."""
    chunks = [chunk for chunk in sound_chunks(header, head) if chunk.type in (ICC_CHUNK, EXIF_CHUNK, XMP_CHUNK)]
    # A stand-in for the pixels, so that one place decides which metadata is fit to be shown.
    picture = images.picture_with_chunks(np.zeros((1, 1, 3), np.uint8), chunks)
    return {str(name): value for name, value in images.picture_to_pillow(picture).info.items()}


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    """Writes the image, any mode, as a .looc file.

    Options of `Image.save`: those of `looc_codec.compress` (`quality`, `level`, `target_size`, `target_bpp`,
    `target_psnr`, `target_ssimulacra2`, `effort`, `model`, `threads`), and `icc_profile`, `exif` and `xmp`, which stand
    for those of the image; None or b"" leaves them out.

    Raises ValueError for an unknown option or one out of range, OSError for an image that cannot be written or a model that is not
    there.
    """
    from looc_codec import api

    options = dict(image.encoderinfo)
    unknown = set(options) - {*_COMPRESS_OPTIONS, *_METADATA_OPTIONS, *_PILLOW_OPTIONS}
    if unknown:
        raise ValueError(f"a .looc file has no option {', '.join(sorted(unknown))}; there are {', '.join((*_COMPRESS_OPTIONS, *_METADATA_OPTIONS))}")
    try:
        file.write(api.compress(_picture_to_save(image, options), **{name: options[name] for name in _COMPRESS_OPTIONS if name in options}))
    except (ImageError, OptionError) as error:
        raise ValueError(str(error)) from error
    except LoocError as error:
        raise OSError(str(error)) from error


def _picture_to_save(image: Image.Image, options: dict[str, Any]) -> images.Picture:
    """The picture of an image, with the metadata that the options of `Image.save` put in the place of its own."""
    # What is in memory already needs no limit.
    max_pixels = max(1, image.width * image.height)
    overrides: dict[Any, Any] = {name: options[name] or None for name in ("icc_profile", "exif", "xmp") if name in options}
    if overrides:
        kind = image.format
        if kind == "TIFF":
            # TIFF files keep EXIF in their own tags, which a copy does not have.
            overrides.setdefault("exif", images.picture_from_pillow(image, max_pixels=max_pixels).exif)
        # The orientation in the given EXIF is the one that counts for the pixels, so it must be there before reading.
        image = image.copy()
        image.format = None if kind == "TIFF" else kind
        image.info.update(overrides)
    return images.picture_from_pillow(image, max_pixels=max_pixels)


Image.register_open(FORMAT, LoocImageFile, looks_like_looc)
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, EXTENSION)
Image.register_mime(FORMAT, MIME_TYPE)
