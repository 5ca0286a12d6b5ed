"""Samples of any kind to 8-bit RGB: CMYK, Lab, grey profiles, grey of more than 8 bits, float."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

from looc_codec.errors import ImageError

GREY_MODES = ("1", "L", "LA", "La", "I", "F")


@dataclass(frozen=True)
class Samples:
    """What a file's samples are beyond Pillow's mode.

    `wide`: more than 8 bits, whatever is left of them in the mode. `bits`: those of a grey sample of more than 8.
    `negative`: grey counts from white.
    """

    wide: bool
    bits: int
    negative: bool


def rgb_and_alpha(
    image: Image.Image, icc: bytes | None, samples: Samples, name: str, notices: list[str]
) -> tuple[np.ndarray, np.ndarray | None, bytes | None]:
    """(H, W, 3) and (H, W) uint8, the second None where all is opaque, and the profile that these values need."""
    alpha = None
    space = icc[16:20] if icc else None
    transparency = image.info.get("transparency")
    if image.mode == "CMYK":
        return _rgb_of_cmyk(image, icc if space == b"CMYK" else None, notices), None, None
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        notices.append("it is CIE Lab; converted to sRGB")
        converted = ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")
        return np.array(converted), None, None
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;16"):
        levels = np.array(image)
        if image.mode.startswith("I;16") and isinstance(transparency, int):
            alpha = np.where(levels == transparency, 0, 255).astype(np.uint8)
        grey = _grey_of_levels(levels, samples.bits, name, notices)
        if samples.negative:
            grey = 255 - grey
        rgb = np.repeat(grey[..., None], 3, axis=2)
    elif image.has_transparency_data:
        if image.mode == "La":
            # Pillow goes from premultiplied grey to RGBA only by this way.
            image = image.convert("LA")
        if samples.wide and image.mode == "RGB" and isinstance(transparency, tuple):
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


def _grey_of_levels(levels: np.ndarray, bits: int, name: str, notices: list[str]) -> np.ndarray:
    """(H, W) uint8 of levels that are not: white is the highest of `bits`, for floats what `_white_of` says."""
    if levels.dtype.kind == "f":
        white = _white_of(levels)
        notices.append(f"it has float samples; 8 bits are kept, {white:g} is taken as white")
        scaled = np.nan_to_num(levels.astype(np.float32) / np.float32(white), nan=0, posinf=1, neginf=0)
        return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    if levels.min() < 0 or levels.max() > 65535:
        raise ImageError(f"{name} has 32-bit samples whose white is not stated; convert it to 16 bits or 8 first")
    if levels.dtype != np.uint16:
        # Arrays of plain 8-bit values come as 32-bit integers, too; a 16-bit picture this dark does not.
        if levels.max() <= 255:
            return levels.astype(np.uint8)
        notices.append("it has more than 8 bits a sample; 8 are kept, 65535 is taken as white")
    white = 2**bits - 1
    return ((np.minimum(levels.astype(np.uint32), white) * 255 + white // 2) // white).astype(np.uint8)


def _white_of(levels: np.ndarray) -> float:
    """The white of float samples: the least of 1, 255 and 65535 that fits them, else the level that 1% exceed.

    Highlights of up to 16 may stand above a white of 1 in at most half of the picture, as they do in renderings; scales
    of 255 and 65535 come from integers, which resampling takes a little too far. A hundredth of the samples may be
    anything, and infinite, missing and negative ones do not count.
    """
    counted = levels[np.isfinite(levels) & (levels > 0)]
    if counted.size == 0:
        return 1
    middle, high = np.percentile(counted, (50, 99))
    if middle <= 1 and high <= 16:
        return 1
    return next((level for level in (255, 65535) if high <= 1.5 * level), float(high))


def _to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
