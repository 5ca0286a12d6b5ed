"""Samples of any kind to 8-bit RGB: colour profiles, PNG's gamma, CMYK, Lab, grey of more than 8 bits."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, ImageCms

from looc_codec.errors import ImageError

GREY_MODES = ("1", "L", "LA", "La", "I", "F")
_SRGB_GAMMA = 0.45455


def rgb_and_alpha(
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
        converted = ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")
        return np.array(converted), None, None
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
    """(H, W) uint8 of samples that are not 8-bit: 65535 of an integer is white, of a float 1 unless some exceed it."""
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


def checked_profile(icc: object, notices: list[str]) -> bytes | None:
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


def profile_of_gamma(info: dict, notices: list[str]) -> bytes | None:
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
