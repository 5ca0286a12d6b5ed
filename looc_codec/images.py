"""File <-> picture: upright 8-bit RGB, an alpha plane, and the metadata worth keeping.

What a colour-managed viewer shows decides: orientation is applied, an RGB colour profile travels with untouched pixel
values, and what RGB cannot carry (CMYK, Lab, grey profiles) is converted to sRGB. Whatever is lost is said in a notice.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageFile, PngImagePlugin, features

from looc_codec.format.container import ALPHA_CHUNK, DEFAULT_MAX_PIXELS, EXIF_CHUNK, ICC_CHUNK, XMP_CHUNK, Chunk, Colour, is_thin_beyond
from looc_codec.errors import FormatError, ImageError, OutputError
from looc_codec.files import PICTURE_KINDS, STANDARD_STREAM, write_atomically

READ_FORMATS = tuple(PICTURE_KINDS)
"""Pillow formats that are read."""

PILLOW_FORMATS = {
    "png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP", "avif": "AVIF", "tif": "TIFF", "tiff": "TIFF", "bmp": "BMP",
}  # fmt: skip
"""Formats that are written, by suffix without the dot."""

QUALITY_FORMATS = ("JPEG", "WEBP", "AVIF")
"""Formats that are written with a quality; the others are lossless."""

_GREY_MODES = ("1", "L", "LA", "La", "I", "F")
_EXIF_PREFIX = b"Exif\0\0"
_EXIF_ORDERS = {b"II*\0": "little", b"MM\0*": "big"}
_ORIENTATION_TAG = 0x0112
# What the TIFF reader shows as EXIF holds the layout of the file too; only these describe the picture.
_TIFF_TAGS_KEPT = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
_TIFF_XMP_TAG = 700
_SRGB_GAMMA = 0.45455
_WEBP_MAX_SIDE = 16383

# Pillow's size limit and Python's warning filters are global to the process.
_pillow_lock = threading.RLock()


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture and what belongs to it.

    `rgb` is (H, W, 3) uint8, C-contiguous; `alpha` (H, W) uint8, straight, 255 opaque, None where all is opaque. `icc`
    is an RGB profile of the values (None: sRGB), `exif` begins with its TIFF header, `xmp` is a UTF-8 packet. `notices`
    are sentences for a person about what reading changed or left out. `one_plane` is set for a picture whose file has
    one grey plane; `rgb` then holds it three times, and files are written with one again where there is no `icc`.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    notices: tuple[str, ...] = ()
    one_plane: bool = False

    @property
    def grey(self) -> bool:
        """Whether all three planes are equal, whatever the file's type was."""
        red, green, blue = (self.rgb[..., plane] for plane in range(3))
        return bool(np.array_equal(red, green) and np.array_equal(red, blue))

    @property
    def width(self) -> int:
        return self.rgb.shape[1]

    @property
    def height(self) -> int:
        return self.rgb.shape[0]

    def without_metadata(self) -> Picture:
        """The same pixels and alpha without colour profile, EXIF and XMP."""
        notices = self.notices
        if self.icc is not None:
            notices += ("its colour profile is left out: colours may look different",)
        return replace(self, icc=None, exif=None, xmp=None, notices=notices)


# --- reading ----------------------------------------------------------------------------------------------------------


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
            with _pillow_limits(max_pixels):
                image = Image.open(file, formats=_formats_for(head))
                with image:
                    return _picture(image, max_pixels, name, _notices_of_head(head))
        except ImageError:
            raise
        # Pillow's readers raise whatever their parsing stumbles over: every one of these is about the file.
        except Exception as error:
            raise ImageError(_sentence(error, name, head, max_pixels)) from error


def picture_from_pillow(image: Image.Image, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "the image") -> Picture:
    """The picture of a Pillow image of any mode, with the profile, EXIF and XMP of its `info`; the image is left as it is.

    Raises:
        ImageError: it has no or too many pixels, or loading it fails.
    """
    try:
        with _pillow_limits(max_pixels):
            return _picture(image, max_pixels, name, [])
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(_sentence(error, name, b"", max_pixels)) from error


def _picture(image: Image.Image, max_pixels: int, name: str, notices: list[str]) -> Picture:
    _check_size(image, max_pixels, name)
    if getattr(image, "is_animated", False):
        notices.append("it has more than one frame or page; only the first is kept")
    # Known only until the pixels are loaded.
    wide = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    # Icons and some TIFF files find out their size while loading.
    _check_size(image, max_pixels, name)
    if wide or image.mode.startswith("I;16"):
        notices.append("it has 16 bits a sample; 8 are kept")
    icc = _checked_profile(image.info.get("icc_profile"), notices)
    if icc is None and image.format == "PNG":
        icc = _profile_of_gamma(image.info, notices)
    rgb, alpha, icc = _rgb_and_alpha(image, icc, wide, name, notices)
    one_plane = image.mode in _GREY_MODES or image.mode.startswith("I;16")
    exif, xmp = _metadata(image)
    entry = _orientation_entry(exif) if exif else None
    if entry is not None and 2 <= entry[0] <= 8:
        rgb = _upright(rgb, entry[0])
        alpha = None if alpha is None else _upright(alpha, entry[0])
        exif = _with_orientation_1(exif, entry)
    # Browsers never turn a picture by its XMP, so it is upright now; programs that do must find nothing to turn.
    xmp = xmp and re.sub(rb'(tiff:Orientation(?:="|=\'|>))[2-8]', rb"\g<1>1", xmp)
    rgb = np.ascontiguousarray(rgb)
    if alpha is not None:
        if alpha.min() == 255:
            alpha = None
        else:
            alpha = np.ascontiguousarray(alpha)
            rgb = _filled_where_invisible(rgb, alpha)
    picture = Picture(rgb=rgb, alpha=alpha, icc=icc, exif=exif, xmp=xmp, notices=tuple(notices))
    # Applying a grey profile may leave the planes a level apart.
    return replace(picture, one_plane=one_plane and picture.grey)


def _rgb_and_alpha(
    image: Image.Image, icc: bytes | None, wide: bool, name: str, notices: list[str]
) -> tuple[np.ndarray, np.ndarray | None, bytes | None]:
    """(H, W, 3) and (H, W) or None, and the profile that these values need."""
    alpha = None
    space = icc[16:20] if icc else None
    transparency = image.info.get("transparency")
    if image.mode == "CMYK":
        return _rgb_of_cmyk(image, icc if space == b"CMYK" else None, notices), None, None
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        notices.append("it is CIE Lab; converted to sRGB")
        return np.array(ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")), None, None
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;16"):
        samples = np.array(image)
        if image.mode.startswith("I;16") and isinstance(transparency, int):
            alpha = np.where(samples == transparency, 0, 255).astype(np.uint8)
        grey = _grey_of_samples(samples, name, notices)
        rgb = np.repeat(grey[..., None], 3, axis=2)
    elif image.has_transparency_data:
        if image.mode == "La":
            # Pillow goes from premultiplied grey to RGBA only by this way.
            image = image.convert("LA")
        if wide and image.mode == "RGB" and isinstance(transparency, tuple):
            # Pillow keeps the key at 16 bits beside pixels of 8.
            image = image.copy()
            image.info["transparency"] = tuple(value >> 8 for value in transparency)
        rgba = np.array(image.convert("RGBA"))
        rgb, alpha = rgba[..., :3], rgba[..., 3]
    else:
        rgb = np.array(image.convert("RGB"))
    if space == b"GRAY" and (rgb[..., :1] == rgb).all():
        grey = Image.fromarray(np.ascontiguousarray(rgb[..., 0]))
        try:
            rgb = np.array(_to_srgb(grey, icc))
        except (ImageCms.PyCMSError, ValueError):
            notices.append("its grey colour profile cannot be applied and is left out")
        icc = None
    elif space is not None and space != b"RGB ":
        notices.append("its colour profile is not one for RGB and is left out")
        icc = None
    return rgb, alpha, icc


def _rgb_of_cmyk(image: Image.Image, icc: bytes | None, notices: list[str]) -> np.ndarray:
    if icc is not None:
        try:
            converted = np.array(_to_srgb(image, icc))
            notices.append("it is CMYK; converted to sRGB with its profile")
            return converted
        except (ImageCms.PyCMSError, ValueError):
            pass
    notices.append("it is CMYK without a usable profile; converted to RGB by rule of thumb, colours may be off")
    return np.array(image.convert("RGB"))


def _grey_of_samples(samples: np.ndarray, name: str, notices: list[str]) -> np.ndarray:
    """(H, W) uint8 of samples that are not 8-bit: 65535 of an integer is white, 1.0 of a float unless some exceed it."""
    if samples.dtype.kind == "f":
        finite = np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=np.float32(65535), neginf=0.0)
        white = next((level for level in (1, 255, 65535) if finite.max() <= level), float(finite.max()))
        notices.append(f"it has float samples; 8 bits are kept, {white:g} is taken as white")
        return np.rint(np.clip(finite / white, 0, 1) * 255).astype(np.uint8)
    if samples.min() < 0 or samples.max() > 65535:
        raise ImageError(f"{name} has 32-bit samples whose white is not stated; convert it to 16 bits or 8 first")
    if samples.dtype != np.uint16:
        # Arrays of plain 8-bit values come as 32-bit integers, too; a 16-bit picture this dark does not.
        if samples.max() <= 255:
            return samples.astype(np.uint8)
        notices.append("it has more than 8 bits a sample; 8 are kept, 65535 is taken as white")
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _filled_where_invisible(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`rgb` with smooth colours where alpha is 0: nobody sees them, so they should be cheap to code.

    Averages of the visible neighbours at the nearest scale that has any; cost is linear in the number of pixels.
    """
    visible = alpha > 0
    if visible.all():
        return rgb
    if not visible.any():
        return np.zeros_like(rgb)
    filled = rgb.copy()
    coarse, weight = _halved(rgb, visible)
    levels = [(coarse, weight)]
    while max(weight.shape) > 1:
        coarse, weight = _halved(*levels[-1])
        levels.append((coarse, weight))
    fill = levels[-1][0]
    for coarse, weight in reversed(levels[:-1]):
        fill = np.where((weight > 0)[..., None], coarse, _doubled(fill, weight.shape))
    hidden = np.nonzero(~visible)
    filled[hidden] = np.rint(fill[hidden[0] // 2, hidden[1] // 2]).astype(np.uint8)
    return filled


def _halved(colour: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of 2x2 blocks weighted by `weight`, (ceil(H/2), ceil(W/2), 3) float32, and which blocks have any weight."""
    rows, columns = (weight.shape[0] + 1) // 2, (weight.shape[1] + 1) // 2
    total = np.zeros((rows, columns, 3), np.float32)
    count = np.zeros((rows, columns), np.float32)
    for top in (0, 1):
        for left in (0, 1):
            part = weight[top::2, left::2].astype(np.float32)
            total[: part.shape[0], : part.shape[1]] += colour[top::2, left::2] * part[..., None]
            count[: part.shape[0], : part.shape[1]] += part
    return total / np.maximum(count, 1)[..., None], (count > 0).astype(np.float32)


def _doubled(colour: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Twice the rows and columns, bilinear, cut to `shape`; block edges would cost bytes."""
    for axis in (0, 1):
        before = np.concatenate([colour.take([0], axis), colour.take(range(colour.shape[axis] - 1), axis)], axis)
        after = np.concatenate([colour.take(range(1, colour.shape[axis]), axis), colour.take([-1], axis)], axis)
        pairs = np.stack([0.75 * colour + 0.25 * before, 0.75 * colour + 0.25 * after], axis + 1)
        colour = pairs.reshape(*colour.shape[:axis], -1, *colour.shape[axis + 1 :])
    return colour[: shape[0], : shape[1]]


def _upright(plane: np.ndarray, orientation: int) -> np.ndarray:
    """The plane turned and mirrored as the EXIF orientation 2..8 asks."""
    turned = {
        2: lambda: plane[:, ::-1],
        3: lambda: plane[::-1, ::-1],
        4: lambda: plane[::-1],
        5: lambda: plane.swapaxes(0, 1),
        6: lambda: np.rot90(plane, -1),
        7: lambda: plane[::-1, ::-1].swapaxes(0, 1),
        8: lambda: np.rot90(plane, 1),
    }
    return turned[orientation]()


# --- opening ----------------------------------------------------------------------------------------------------------


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


@contextlib.contextmanager
def _pillow_limits(max_pixels: int) -> Iterator[None]:
    """Pillow's own size check at `max_pixels`, nothing cut short accepted, and no warnings: what matters becomes a notice."""
    with _pillow_lock:
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _formats_for(head: bytes) -> list[str]:
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


def _notices_of_head(head: bytes) -> list[str]:
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
            notices.append("it has wide-gamut or HDR colours without an ICC profile; they are kept as if sRGB and look duller")
    return notices


def _check_size(image: Image.Image, max_pixels: int, name: str) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has {width}x{height} pixels; give a picture with some")
    if width * height > max_pixels:
        raise ImageError(_too_large(f"{name} has {width}x{height} pixels", max_pixels))
    if is_thin_beyond(width, height, max_pixels):
        raise ImageError(_too_large(f"{name} is a strip of {width}x{height} pixels, which takes the memory of many", max_pixels))


def _too_large(subject: str, max_pixels: int) -> str:
    return f"{subject}, more than the limit of {max_pixels}; raise the limit (--max-pixels) if you trust it"


def _sentence(error: Exception, name: str, head: bytes, max_pixels: int) -> str:
    """One sentence for whatever opening and decoding a picture raised."""
    if isinstance(error, Image.DecompressionBombError):
        return _too_large(f"{name} has too many pixels", max_pixels)
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


# --- colour profiles --------------------------------------------------------------------------------------------------


def _checked_profile(icc: object, notices: list[str]) -> bytes | None:
    """The ICC profile if lcms can open it; else None, with a notice if there was one."""
    if not isinstance(icc, bytes) or not icc:
        return None
    try:
        if int.from_bytes(icc[:4], "big") > len(icc):
            raise ValueError("cut short")
        ImageCms.ImageCmsProfile(io.BytesIO(icc))
        return icc
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        notices.append("its colour profile is damaged and is left out")
        return None


def _to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")


def _profile_of_gamma(info: dict, notices: list[str]) -> bytes | None:
    """An ICC profile that says what a PNG's gAMA chunk says, where that differs from sRGB and nothing overrules it.

    Pixel values stay untouched, as with any other profile.
    """
    gamma = info.get("gamma")
    if "srgb" in info or not isinstance(gamma, float) or not 0.1 <= gamma <= 10 or abs(gamma / _SRGB_GAMMA - 1) < 0.05:
        return None
    notices.append(f"its gamma of {gamma:g} is kept as a colour profile")
    return _gamma_profile(1 / gamma)


def _gamma_profile(exponent: float) -> bytes:
    """A minimal ICC profile (version 2): the primaries of sRGB, and light = value ** exponent. About 450 bytes."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    text = b"Gamma\0"
    curve = padded(struct.pack(">4sIIH", b"curv", 0, 1, round(exponent * 256)))
    # Primaries adapted to D50, as in every sRGB profile.
    bodies = {
        b"desc": padded(struct.pack(">4sII", b"desc", 0, len(text)) + text + bytes(78)),
        b"cprt": padded(b"text\0\0\0\0CC0\0"),
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.43607, 0.22249, 0.01392),
        b"gXYZ": xyz(0.38515, 0.71687, 0.09708),
        b"bXYZ": xyz(0.14307, 0.06061, 0.71410),
        b"rTRC": curve,
    }
    position = 128 + 4 + 12 * (len(bodies) + 2)
    entries, data = [], b""
    for tag, body in bodies.items():
        names = (b"rTRC", b"gTRC", b"bTRC") if tag == b"rTRC" else (tag,)
        entries += [struct.pack(">4sII", name, position + len(data), len(body)) for name in names]
        data += body
    table = struct.pack(">I", len(entries)) + b"".join(entries)
    header = struct.pack(
        ">I4sI4s4s4s6H4s28s3i",
        128 + len(table) + len(data), b"", 0x02100000, b"mntr", b"RGB ", b"XYZ ", 2000, 1, 1, 0, 0, 0, b"acsp", b"",
        round(0.9642 * 65536), 65536, round(0.8249 * 65536),
    )  # fmt: skip
    return header.ljust(128, b"\0") + table + data


# --- EXIF and XMP -----------------------------------------------------------------------------------------------------


def _metadata(image: Image.Image) -> tuple[bytes | None, bytes | None]:
    """EXIF from its TIFF header on, and XMP; None for what is absent or unusable."""
    exif = image.info.get("exif")
    if image.format == "TIFF":
        exif = _exif_of_tiff(image)
    elif isinstance(exif, Image.Exif):
        exif = exif.tobytes()
    if isinstance(exif, bytes):
        exif = exif.removeprefix(_EXIF_PREFIX)
    xmp = image.info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return _checked_exif(exif), xmp if isinstance(xmp, bytes) and xmp else None


def _checked_exif(exif: object) -> bytes | None:
    return exif if isinstance(exif, bytes) and exif[:4] in _EXIF_ORDERS else None


def _exif_of_tiff(image: Image.Image) -> bytes | None:
    """The descriptive part of a TIFF file's tags as an EXIF block."""
    try:
        kept = _descriptive(image.getexif())
        return kept.tobytes() if len(kept) else None
    # Values of the wrong type in a damaged directory; the pixels do not depend on them.
    except Exception:
        return None


def _descriptive(source: Image.Exif) -> Image.Exif:
    """The tags that describe a picture, with the EXIF and GPS parts; none about the layout of a file."""
    kept = Image.Exif()
    for tag in _TIFF_TAGS_KEPT:
        if source.get(tag):
            kept[tag] = source[tag]
    for part in (0x8769, 0x8825):
        if values := source.get_ifd(part):
            kept[part] = dict(values)
    return kept


def _orientation_entry(exif: bytes) -> tuple[int, int, int] | None:
    """The orientation of an EXIF block, where its value lies, and in how many bytes; None if not stated.

    Read by hand so that all other bytes, makers' notes above all, can stay where they are.
    """
    order = _EXIF_ORDERS[exif[:4]]
    start = int.from_bytes(exif[4:8], order)
    for index in range(int.from_bytes(exif[start : start + 2], order)):
        entry = exif[start + 2 + 12 * index : start + 14 + 12 * index]
        if len(entry) < 12:
            return None
        if int.from_bytes(entry[:2], order) == _ORIENTATION_TAG:
            length = {3: 2, 4: 4}.get(int.from_bytes(entry[2:4], order))
            if length is None:
                return None
            return int.from_bytes(entry[8 : 8 + length], order), start + 2 + 12 * index + 8, length
    return None


def _with_orientation_1(exif: bytes, entry: tuple[int, int, int]) -> bytes:
    _, position, length = entry
    return exif[:position] + (1).to_bytes(length, _EXIF_ORDERS[exif[:4]]) + exif[position + length :]


# --- chunks of a .looc file -------------------------------------------------------------------------------------------


def chunks_of_picture(picture: Picture) -> tuple[Chunk, ...]:
    """The metadata and the alpha plane as chunks of a .looc file; none for a plain photo."""
    chunks = [
        Chunk(kind, data)
        for kind, data in ((ICC_CHUNK, picture.icc), (EXIF_CHUNK, picture.exif), (XMP_CHUNK, picture.xmp))
        if data
    ]
    if picture.alpha is not None:
        chunks.append(Chunk(ALPHA_CHUNK, _packed_alpha(picture.alpha)))
    return tuple(chunks)


def picture_with_chunks(rgb: np.ndarray, chunks: Sequence[Chunk], colour: Colour = Colour.RGB) -> Picture:
    """A decoded picture, (H, W, 3) uint8, with what the chunks of its file say; unknown ancillary chunks are left out.

    Raises:
        FormatError: the alpha plane cannot be decoded, or has another size than the picture.
    """
    data = {chunk.type: chunk.data for chunk in chunks}
    notices: list[str] = []
    icc = _checked_profile(data.get(ICC_CHUNK), notices)
    if icc is not None and icc[16:20] != b"RGB ":
        notices.append("its colour profile is not one for RGB and is left out")
        icc = None
    alpha = data.get(ALPHA_CHUNK)
    return Picture(
        rgb=np.ascontiguousarray(rgb),
        alpha=None if alpha is None else _unpacked_alpha(alpha, rgb.shape[1], rgb.shape[0]),
        icc=icc,
        exif=_checked_exif(data.get(EXIF_CHUNK)),
        xmp=data.get(XMP_CHUNK),
        notices=tuple(notices),
        one_plane=colour == Colour.GREY,
    )


def colour_of_picture(picture: Picture) -> Colour:
    """How a file has to mark the picture, by what its pixels are and by what it is to be restored as."""
    if not picture.grey:
        return Colour.RGB
    return Colour.GREY if picture.one_plane else Colour.GREY_AS_RGB


def _packed_alpha(alpha: np.ndarray) -> bytes:
    """The alpha plane as PNG or lossless WebP, whichever is smaller (WebP by a third for soft edges)."""
    plane = Image.fromarray(alpha)
    encoded = io.BytesIO()
    plane.save(encoded, "PNG", compress_level=6)
    candidates = [encoded.getvalue()]
    if max(alpha.shape) <= _WEBP_MAX_SIDE and features.check("webp"):
        encoded = io.BytesIO()
        plane.convert("RGB").save(encoded, "WEBP", lossless=True)
        candidates.append(encoded.getvalue())
    return min(candidates, key=len)


def _unpacked_alpha(data: bytes, width: int, height: int) -> np.ndarray:
    """(height, width) uint8; the kind and the size are checked on the bytes before any decoder runs."""
    # PNG: signature, then IHDR with bit depth 8 and colour type 0. WebP: the simple lossless form, which cannot be animated.
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and data[24:26] == b"\x08\0":
        kind = "PNG"
        claimed = struct.unpack(">II", data[16:24])
    elif data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8L" and len(data) >= 25:
        kind = "WEBP"
        bits = int.from_bytes(data[21:25], "little")
        claimed = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    else:
        raise FormatError("the alpha plane of the .looc file is neither a grey PNG nor a lossless WebP; get a fresh copy")
    if claimed != (width, height):
        raise FormatError(
            f"the alpha plane of the .looc file has {claimed[0]}x{claimed[1]} pixels, the picture {width}x{height}; get a fresh copy"
        )
    try:
        with _pillow_limits(width * height), Image.open(io.BytesIO(data), formats=[kind]) as plane:
            if plane.size != (width, height) or getattr(plane, "is_animated", False):
                raise ValueError("another size, or more than one frame")
            samples = np.array(plane.convert("RGB").getchannel("G") if kind == "WEBP" else plane)
            if samples.shape != (height, width) or samples.dtype != np.uint8:
                raise ValueError("not a grey plane of 8 bits")
            return samples
    # As in read_picture: whatever a decoder raises is about these bytes.
    except Exception as error:
        raise FormatError("the alpha plane of the .looc file cannot be decoded; get a fresh copy") from error


# --- writing ----------------------------------------------------------------------------------------------------------


def picture_to_pillow(picture: Picture) -> Image.Image:
    """A Pillow image, RGB or RGBA, L or LA, whose `info` carries `icc_profile`, `exif` and `xmp` where the picture has them."""
    # A profile for RGB is wrong for a grey plane, and most readers drop it.
    one_plane = picture.one_plane and picture.icc is None
    pixels = np.ascontiguousarray(picture.rgb[..., 0]) if one_plane else picture.rgb
    if picture.alpha is not None:
        pixels = np.dstack([pixels, picture.alpha])
    image = Image.fromarray(pixels)
    if picture.icc:
        image.info["icc_profile"] = picture.icc
    if picture.exif:
        image.info["exif"] = _EXIF_PREFIX + picture.exif
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
    at all and replaced if it exists. PNG, WebP, TIFF and BMP are lossless, JPEG and AVIF of high quality; with `quality`,
    1 to 100, JPEG, WebP and AVIF are of that one.

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
    for names in dict.fromkeys((kept, tuple(n for n in kept if n != "xmp"), tuple(n for n in kept if n == "icc"), ())):
        try:
            encoded = io.BytesIO()
            pixels.save(encoded, kind, **_options(kind, {name: getattr(picture, name) for name in names}, quality))
        # Writers, too, raise anything from struct.error to OSError; nothing has touched the disk yet.
        except MemoryError:
            raise
        except Exception as error:
            failure = error
            continue
        lost = [name.upper() for name in ("icc", "exif", "xmp") if getattr(picture, name) and name not in names]
        if lost:
            notices.append(f"{kind} cannot hold this picture's {' and '.join(lost)}; left out")
        return encoded.getbuffer(), tuple(notices)
    raise OutputError(f"the picture of {picture.width}x{picture.height} pixels cannot be written as {kind} ({failure}); use png")


def _options(kind: str, metadata: dict[str, bytes | None], quality: int | None) -> dict:
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
    if kind == "TIFF":
        tags = Image.Exif()
        if exif:
            # The EXIF directory becomes the file's own, where tags about the layout would do harm.
            tags.load(_EXIF_PREFIX + exif)
            tags = _descriptive(tags)
        if xmp:
            tags[_TIFF_XMP_TAG] = xmp
        tags[_ORIENTATION_TAG] = 1
        options["exif"] = tags
    elif exif:
        options["exif"] = _EXIF_PREFIX + exif if kind == "JPEG" else exif
    if xmp and kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options["pnginfo"] = text
    elif xmp and kind != "TIFF":
        options["xmp"] = xmp
    return options
