"""EXIF and XMP: what a file states, the orientation above all, as blocks that agree with an upright picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

EXIF_PREFIX = b"Exif\0\0"
ORIENTATION_TAG = 0x0112
TIFF_XMP_TAG = 700
_EXIF_ORDERS = {b"II*\0": "little", b"MM\0*": "big"}
# What the TIFF reader shows as EXIF holds the layout of the file too; only these describe the picture.
_TIFF_TAGS_KEPT = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)


def exif_and_xmp(image: Image.Image) -> tuple[bytes | None, bytes | None]:
    """EXIF from its TIFF header on, and XMP; None for what is absent or unusable."""
    exif = image.info.get("exif")
    if image.format == "TIFF":
        exif = _exif_of_tiff(image)
    elif isinstance(exif, Image.Exif):
        exif = exif.tobytes()
    if isinstance(exif, bytes):
        exif = exif.removeprefix(EXIF_PREFIX)
    xmp = image.info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return checked_exif(exif), xmp if isinstance(xmp, bytes) and xmp else None


def checked_exif(exif: object) -> bytes | None:
    return exif if isinstance(exif, bytes) and exif[:4] in _EXIF_ORDERS else None


def _exif_of_tiff(image: Image.Image) -> bytes | None:
    """The descriptive part of a TIFF file's tags as an EXIF block."""
    try:
        kept = descriptive(image.getexif())
        return kept.tobytes() if len(kept) else None
    # Values of the wrong type in a damaged directory; the pixels do not depend on them.
    except Exception:
        return None


def descriptive(source: Image.Exif) -> Image.Exif:
    """The tags that describe a picture, with the EXIF and GPS parts; none about the layout of a file."""
    kept = Image.Exif()
    for tag in _TIFF_TAGS_KEPT:
        if source.get(tag):
            kept[tag] = source[tag]
    for part in (0x8769, 0x8825):
        if values := source.get_ifd(part):
            kept[part] = dict(values)
    return kept


def orientation_entry(exif: bytes) -> tuple[int, int, int] | None:
    """The orientation of an EXIF block, where its value lies, and in how many bytes; None if not stated.

    Read by hand so that all other bytes, makers' notes above all, can stay where they are.
    """
    order = _EXIF_ORDERS[exif[:4]]
    start = int.from_bytes(exif[4:8], order)
    for index in range(int.from_bytes(exif[start : start + 2], order)):
        entry = exif[start + 2 + 12 * index : start + 14 + 12 * index]
        if len(entry) < 12:
            return None
        if int.from_bytes(entry[:2], order) == ORIENTATION_TAG:
            length = {3: 2, 4: 4}.get(int.from_bytes(entry[2:4], order))
            if length is None:
                return None
            return int.from_bytes(entry[8 : 8 + length], order), start + 2 + 12 * index + 8, length
    return None


def with_orientation_1(exif: bytes, entry: tuple[int, int, int]) -> bytes:
    _, position, length = entry
    return exif[:position] + (1).to_bytes(length, _EXIF_ORDERS[exif[:4]]) + exif[position + length :]


def upright(plane: np.ndarray, orientation: int) -> np.ndarray:
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
