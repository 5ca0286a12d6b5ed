"""Picture files ↔ 8-bit RGB: modes, alpha, orientation, colour profiles and metadata."""

from __future__ import annotations

import io
import struct
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from looc_codec.container import DEFAULT_MAX_PIXELS, Chunk
from looc_codec.errors import FormatError, ImageError, OutputError

ORIENTATION_TAG = 0x0112
FORMATS = {
    "png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP", "avif": "AVIF", "tif": "TIFF", "tiff": "TIFF", "bmp": "BMP",
}
PILLOW_FAILURES = (UnidentifiedImageError, OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, struct.error,
                   EOFError, OverflowError, Image.DecompressionBombError, ZeroDivisionError)
ALPHA_CHUNK, ICC_CHUNK, EXIF_CHUNK, XMP_CHUNK = "ALPH", "iccp", "exif", "xmp_"
ALPHA_FORMATS = ("PNG", "WEBP")


@dataclass(frozen=True)
class Picture:
    """A picture as looc sees it.

    `rgb` `(H, W, 3)` uint8; `alpha` `(H, W)` uint8 or None when opaque; `icc`, `exif`, `xmp` raw metadata or None;
    `notices` sentences about what was converted or dropped.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    notices: tuple[str, ...] = ()


def read_picture(source: str | Path | bytes | BinaryIO, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str | None = None) -> Picture:
    """The picture of a file, of its bytes, of a stream, or ("-") of standard input.

    Raises ImageError, with the file's name, when it cannot be read, is cut short, or has more than `max_pixels` pixels.
    """
    name = name or (str(source) if isinstance(source, (str, Path)) else "the picture")
    try:
        if source == "-":
            name, source = "standard input", io.BytesIO(sys.stdin.buffer.read())
        elif isinstance(source, bytes):
            source = io.BytesIO(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The limit below is ours; Pillow's own is lower and only warns at first.
            with _without_pillow_limit(), Image.open(source) as image:
                if image.width * image.height > max_pixels:
                    raise ImageError(
                        f"{name} has {image.width} x {image.height} pixels, more than the limit of {max_pixels}; raise it with --max-pixels"
                    )
                image.load()
                return picture_from_pillow(image)
    except ImageError:
        raise
    except PILLOW_FAILURES as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(f"{name} cannot be read: {error.strerror}") from error
        reason = "no known picture format" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
        raise ImageError(f"{name} is not a readable picture ({reason})") from error


class _without_pillow_limit:
    def __enter__(self) -> None:
        self.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        self.truncated, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False

    def __exit__(self, *_: object) -> None:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = self.limit, self.truncated


def picture_from_pillow(image: Image.Image) -> Picture:
    """A loaded Pillow image as a Picture: upright, 8-bit RGB, alpha apart, metadata kept; ImageError when unusable."""
    if 0 in image.size:
        raise ImageError("the picture has no pixels")
    notices = []
    icc = image.info.get("icc_profile") or None
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or None
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    if getattr(image, "n_frames", 1) > 1:
        notices.append(f"only the first of {image.n_frames} frames or pages is kept")
    exif = image.getexif()
    turned = ImageOps.exif_transpose(image)
    exif.pop(ORIENTATION_TAG, None)
    exif_bytes = exif.tobytes() if len(exif) else None
    image = turned if turned is not None else image
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    mode = image.mode
    alpha = None
    if mode in ("RGBA", "LA", "La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode))
        plane = np.asarray(image.getchannel("A"))
        alpha = None if plane.min() == 255 else np.ascontiguousarray(plane)
    if mode.startswith("I") or mode == "F":
        notices.append(f"{'floating-point' if mode == 'F' else '16-bit'} samples were rounded to 8 bits")
        rgb = np.repeat(_eight_bits(np.asarray(image), mode)[:, :, None], 3, 2)
        icc = None
    elif mode in ("CMYK", "LAB", "YCbCr") and icc is not None and mode != "YCbCr":
        image, converted = _to_srgb(image, icc)
        notices.append(f"{mode} was converted to sRGB" + ("" if converted else " without its unusable profile"))
        rgb, icc = np.asarray(image), None
    else:
        if mode in ("CMYK", "LAB"):
            notices.append(f"{mode} was converted to RGB without a profile")
        elif icc is not None and _profile_space(icc) not in ("RGB", None):
            notices.append(f"the {_profile_space(icc)} colour profile does not fit RGB and was left out")
            icc = None
        rgb = np.asarray(image.convert("RGB"))
    rgb = np.ascontiguousarray(rgb)
    if alpha is not None:
        rgb = _without_hidden_colours(rgb, alpha)
    return Picture(rgb, alpha, icc, exif_bytes, xmp, tuple(notices))


def _eight_bits(samples: np.ndarray, mode: str) -> np.ndarray:
    if mode == "F":
        samples = np.nan_to_num(samples.astype(np.float64))
        top = 1.0 if samples.max(initial=0) <= 1 else 255.0 if samples.max() <= 255 else 65535.0
        return np.clip(samples * (255 / top) + 0.5, 0, 255).astype(np.uint8)
    top = 255 if mode == "I" and samples.max(initial=0) <= 255 else 65535
    return ((np.clip(samples.astype(np.int64), 0, top) * 255 + top // 2) // top).astype(np.uint8)


def _profile_space(icc: bytes) -> str | None:
    """Colour space a profile describes ("RGB", "GRAY", "CMYK"), read from its header; None when there is no header."""
    return icc[16:20].decode("ascii", "replace").strip() if len(icc) >= 128 else None


def _to_srgb(image: Image.Image, icc: bytes) -> tuple[Image.Image, bool]:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"), True
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image.convert("RGB"), False


def _without_hidden_colours(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours under full transparency replaced by the mean visible one: nobody sees them, and they would cost bytes."""
    hidden = alpha == 0
    if not hidden.any():
        return rgb
    rgb = rgb.copy()
    rgb[hidden] = 128 if hidden.all() else np.round(rgb[~hidden].mean(0)).astype(np.uint8)
    return rgb


def picture_to_pillow(picture: Picture) -> Image.Image:
    """RGB or RGBA Pillow image with the metadata in `info` and EXIF in `getexif()`."""
    image = Image.fromarray(picture.rgb)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    if picture.icc:
        image.info["icc_profile"] = picture.icc
    if picture.exif:
        image.info["exif"] = picture.exif
        image.getexif().load(picture.exif)
    if picture.xmp:
        image.info["xmp"] = picture.xmp
    return image


def write_picture(picture: Picture, target: Path | BinaryIO, format: str | None = None) -> None:
    """Writes a picture in the format of `format` or of the target's suffix, with ICC, EXIF and XMP where it has them.

    Raises OutputError for an unknown format or when the format cannot hold the picture.
    """
    suffix = (format or Path(str(target)).suffix or "png").lower().removeprefix(".")
    if suffix not in FORMATS:
        raise OutputError(f"cannot write .{suffix} pictures; choose one of {', '.join(sorted(set(FORMATS)))}")
    kind = FORMATS[suffix]
    image = picture_to_pillow(picture)
    if kind in ("JPEG", "BMP") and picture.alpha is not None:
        raise OutputError(f"{kind} has no transparency and this picture has; choose .png, .webp, .avif or .tif")
    options: dict[str, object] = {
        "PNG": {"compress_level": 4}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    }.get(kind, {})
    if kind != "BMP":
        if picture.icc:
            options["icc_profile"] = picture.icc
        if picture.exif:
            options["exif"] = picture.exif
    if picture.xmp and kind in ("JPEG", "WEBP", "AVIF"):
        options["xmp"] = picture.xmp
    if picture.xmp and kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
        options["pnginfo"] = text
    try:
        image.save(target, format=kind, **options)
    except (ValueError, struct.error, OverflowError) as error:
        raise OutputError(f"the picture cannot be written as {kind}: {error}") from error


def chunks_of_picture(picture: Picture) -> tuple[Chunk, ...]:
    """Metadata and alpha of a picture as container chunks."""
    chunks = []
    if picture.alpha is not None:
        plane, coded = Image.fromarray(picture.alpha), []
        for kind, options in (("PNG", {"optimize": True}), ("WEBP", {"lossless": True, "quality": 100})):
            if kind == "WEBP" and max(plane.size) > 16383:
                continue
            buffer = io.BytesIO()
            plane.save(buffer, kind, **options)
            coded.append(buffer.getvalue())
        chunks.append(Chunk(ALPHA_CHUNK, min(coded, key=len)))
    for kind, data in ((ICC_CHUNK, picture.icc), (EXIF_CHUNK, picture.exif), (XMP_CHUNK, picture.xmp)):
        if data:
            chunks.append(Chunk(kind, data))
    return tuple(chunks)


def picture_with_chunks(rgb: np.ndarray, chunks: tuple[Chunk, ...]) -> Picture:
    """The picture of decoded pixels and a file's chunks; FormatError when the alpha plane does not fit."""
    data = {chunk.type: chunk.data for chunk in chunks}
    alpha = None
    if ALPHA_CHUNK in data:
        try:
            with _without_pillow_limit(), Image.open(io.BytesIO(data[ALPHA_CHUNK]), formats=ALPHA_FORMATS) as plane:
                fits = (plane.height, plane.width) == rgb.shape[:2] and plane.mode in ("L", "RGB")
                alpha = np.asarray(plane.convert("L")).copy() if fits else None
        except PILLOW_FAILURES as error:
            raise FormatError("the alpha plane in the file is damaged; get the file again") from error
        if alpha is None:
            raise FormatError("the alpha plane in the file has another size than the picture; the file is damaged")
    return Picture(rgb, alpha, data.get(ICC_CHUNK), data.get(EXIF_CHUNK), data.get(XMP_CHUNK))
