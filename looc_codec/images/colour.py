"""Samples of any kind to 8-bit RGB: CMYK, Lab, grey profiles, grey of more than 8 bits, float."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from looc_codec.errors import ImageError

GREY_MODES = ("1", "L", "LA", "La", "I", "F")


def rgb_and_alpha(
    image: Image.Image, icc: bytes | None, wide: bool, negative: bool, name: str, notices: list[str]
) -> tuple[np.ndarray, np.ndarray | None, bytes | None]:
    """(H, W, 3) and (H, W) uint8, the second None where all is opaque, and the profile that these values need.

    `wide`: the file has 16 bits a sample, whatever Pillow's mode is. `negative`: grey samples count from white.
    """
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
        samples = np.array(image)
        if image.mode.startswith("I;16") and isinstance(transparency, int):
            alpha = np.where(samples == transparency, 0, 255).astype(np.uint8)
        grey = _grey_of_samples(samples, name, notices)
        if negative:
            grey = 255 - grey
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
    """(H, W) uint8 of samples that are not 8-bit: 65535 of an integer is white, of a float what `_white_of` says."""
    if samples.dtype.kind == "f":
        white = _white_of(samples)
        notices.append(f"it has float samples; 8 bits are kept, {white:g} is taken as white")
        levels = np.nan_to_num(samples.astype(np.float32) / np.float32(white), nan=0, posinf=1, neginf=0)
        return np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)
    if samples.min() < 0 or samples.max() > 65535:
        raise ImageError(f"{name} has 32-bit samples whose white is not stated; convert it to 16 bits or 8 first")
    if samples.dtype != np.uint16:
        # Arrays of plain 8-bit values come as 32-bit integers, too; a 16-bit picture this dark does not.
        if samples.max() <= 255:
            return samples.astype(np.uint8)
        notices.append("it has more than 8 bits a sample; 8 are kept, 65535 is taken as white")
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _white_of(samples: np.ndarray) -> float:
    """The white of float samples: the least of 1, 255 and 65535 that fits them, else the level that 1% exceed.

    Highlights of up to 16 may stand above a white of 1 in at most half of the picture, as they do in renderings; scales
    of 255 and 65535 come from integers, which resampling takes a little too far. A hundredth of the samples may be
    anything, and infinite, missing and negative ones do not count.
    """
    counted = samples[np.isfinite(samples) & (samples > 0)]
    if counted.size == 0:
        return 1
    middle, high = np.percentile(counted, (50, 99))
    if middle <= 1 and high <= 16:
        return 1
    return next((level for level in (255, 65535) if high <= 1.5 * level), float(high))


def _to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
