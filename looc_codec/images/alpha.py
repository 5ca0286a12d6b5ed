"""Alpha planes: packed for a .looc file and back, and colours that cost little where nobody sees them."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, features

from looc_codec.errors import FormatError
from looc_codec.images.opening import own_limit

_WEBP_MAX_SIDE = 16383


def filled_where_invisible(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
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


def packed_alpha(alpha: np.ndarray) -> bytes:
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


def unpacked_alpha(data: bytes, width: int, height: int) -> np.ndarray:
    """(height, width) uint8; the kind and the size are checked on the bytes before any decoder runs."""
    # PNG: signature, then IHDR with bit depth 8 and colour type 0. WebP: the simple lossless form, never animated.
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and data[24:26] == b"\x08\0":
        kind = "PNG"
        claimed = struct.unpack(">II", data[16:24])
    elif data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8L" and len(data) >= 25:
        kind = "WEBP"
        bits = int.from_bytes(data[21:25], "little")
        claimed = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    else:
        raise FormatError(
            "the alpha plane of the .looc file is neither a grey PNG nor a lossless WebP; get a fresh copy"
        )
    if claimed != (width, height):
        raise FormatError(
            f"the alpha plane of the .looc file has {claimed[0]}x{claimed[1]} pixels, the picture {width}x{height}; "
            "get a fresh copy"
        )
    try:
        with own_limit(width * height), Image.open(io.BytesIO(data), formats=[kind]) as plane:
            if plane.size != (width, height) or getattr(plane, "is_animated", False):
                raise ValueError("another size, or more than one frame")
            samples = np.array(plane.convert("RGB").getchannel("G") if kind == "WEBP" else plane)
            if samples.shape != (height, width) or samples.dtype != np.uint8:
                raise ValueError("not a grey plane of 8 bits")
            return samples
    # As in read_picture: whatever a decoder raises is about these bytes.
    except Exception as error:
        raise FormatError("the alpha plane of the .looc file cannot be decoded; get a fresh copy") from error
