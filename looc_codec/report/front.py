"""The front picture: one detail as original, JPEG, WebP, AVIF and looc at equal bytes, side by side in one PNG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from looc_codec.files import write_atomically
from looc_codec.report.equal_bytes import Version

_GAP, _CAPTION = 8, 46
_ORDER = ("jpeg", "webp", "avif", "jxl")


def front_picture(original: np.ndarray, versions: list[Version], *, side: int = 192, left: int | None = None, top: int | None = None) -> Image.Image:
    """The panels side by side, every one a square of `side` pixels at (left, top), by default the liveliest detail.

    `original` is `(H, W, 3)` uint8. Pixels are shown 1:1. The captions count the bytes of the whole file.
    """
    height, width = original.shape[:2]
    side = min(side, height, width)
    if left is None or top is None:
        left, top = _liveliest(original, side)
    left, top = max(0, min(left, width - side)), max(0, min(top, height - side))
    # looc last, in the order of the report.
    ordered = sorted(versions, key=lambda v: _ORDER.index(v.codec) if v.codec in _ORDER else len(_ORDER))
    panels = [("original", f"{width} x {height} pixels", original)]
    panels += [(v.label, f"{v.data_bytes / 1000:.1f} kB   {v.psnr_db:.2f} dB", v.rgb) for v in ordered]
    sheet = Image.new("RGB", (len(panels) * (side + _GAP) - _GAP, side + _CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    title, small = ImageFont.load_default(16), ImageFont.load_default(13)
    for number, (name, words, rgb) in enumerate(panels):
        x = number * (side + _GAP)
        sheet.paste(Image.fromarray(np.ascontiguousarray(rgb[top : top + side, left : left + side])), (x, 0))
        draw.text((x + 2, side + 4), name, fill="#c2185b" if name.startswith("looc") else "black", font=title)
        draw.text((x + 2, side + 25), words, fill="#555555", font=small)
    return sheet


def _liveliest(original: np.ndarray, side: int) -> tuple[int, int]:
    """(left, top) of the square with the strongest edges, away from flat sky."""
    grey = original.astype(np.float32).mean(axis=2)
    edges = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    # The root tells many moderate edges from one field of noise-like texture.
    total = np.pad(np.sqrt(edges).cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    span = side - 1
    inside = total[span:, span:] - total[:-span, span:] - total[span:, :-span] + total[:-span, :-span]
    top, left = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return int(left), int(top)


def write_front(image: Image.Image, path: Path) -> None:
    """Writes the picture as PNG, whole or not at all."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG", optimize=True)
    with write_atomically(path, force=True) as file:
        file.write(encoded.getvalue())
