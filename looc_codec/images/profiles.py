"""ICC profiles: checked, and made of what files state otherwise: H.273 code points (cICP, nclx), gAMA and cHRM."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import ImageCms

# Chromaticities (x, y) of red, green, blue and white by code point of ITU-T H.273.
_D65 = (0.3127, 0.3290)
_PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),
    4: ((0.670, 0.330), (0.210, 0.710), (0.140, 0.080), (0.310, 0.316)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
# 1 is BT.709, 2 unspecified, 5 to 7 are BT.601 and SMPTE 240M, which differ from sRGB by less than anybody sees.
_NEAR_SRGB_PRIMARIES = (1, 2, 5, 6, 7)
# 13 is sRGB; viewers show those of television (1, 6, 14, 15) with the same curve. 2 is unspecified.
_NEAR_SRGB_TRANSFERS = (1, 2, 6, 13, 14, 15)
_TRANSFER_EXPONENTS = {4: 2.2, 5: 2.8, 8: 1.0}
_SRGB_GAMMA = 0.45455
_D50_XYZ = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

WIDE_NOTICE = "it has wide-gamut or HDR colours without an ICC profile; they are kept as if sRGB and look duller"


def checked_profile(icc: object, notices: list[str]) -> bytes | None:
    """The ICC profile if Little CMS can open it; else None, with a notice if there was one."""
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


def profile_of_code_points(primaries: int, transfer: int, notices: list[str]) -> bytes | None:
    """A profile for colours that a file states in code points of ITU-T H.273 (cICP, nclx); None where sRGB will do.

    HDR curves are none that a profile of this kind can state: a notice, and None.
    """
    if primaries in _NEAR_SRGB_PRIMARIES and transfer in _NEAR_SRGB_TRANSFERS:
        return None
    known = _PRIMARIES.get(1 if primaries in _NEAR_SRGB_PRIMARIES else primaries)
    if known is None or (transfer not in _NEAR_SRGB_TRANSFERS and transfer not in _TRANSFER_EXPONENTS):
        notices.append(WIDE_NOTICE)
        return None
    return _rgb_profile(np.array(known), _TRANSFER_EXPONENTS.get(transfer))


def is_hdr(transfer: int) -> bool:
    """Whether a transfer code point of ITU-T H.273 is PQ or HLG."""
    return transfer in (16, 18)


def profile_of_png(info: dict, notices: list[str]) -> bytes | None:
    """A profile that says what a PNG's gAMA and cHRM chunks say, where it differs from sRGB and no sRGB chunk is there.

    Pixel values stay untouched, as with any other profile. `info` is Pillow's, with `gamma` and `chromaticity`.
    """
    if "srgb" in info:
        return None
    gamma = info.get("gamma")
    if not isinstance(gamma, float) or not 0.1 <= gamma <= 10:
        gamma = None
    chromaticity = info.get("chromaticity")
    primaries = None
    if chromaticity is not None:
        white, red, green, blue = np.reshape(chromaticity, (4, 2))
        primaries = np.array([red, green, blue, white])
        if np.abs(primaries - np.array(_PRIMARIES[1])).max() < 0.005:
            primaries = None
    if gamma is None:
        if primaries is not None:
            notices.append("its primaries come without a gamma and are left out, as browsers do")
        return None
    if primaries is None:
        if abs(gamma / _SRGB_GAMMA - 1) < 0.05:
            return None
        notices.append(f"its gamma of {gamma:g} is kept as a colour profile")
        return _rgb_profile(np.array(_PRIMARIES[1]), 1 / gamma)
    profile = _rgb_profile(primaries, 1 / gamma)
    if profile is None:
        notices.append("its primaries are impossible and are left out")
    else:
        notices.append(f"its primaries and its gamma of {gamma:g} are kept as a colour profile")
    return profile


def _rgb_profile(primaries: np.ndarray, exponent: float | None) -> bytes | None:
    """A minimal ICC profile (version 4.3): (4, 2) chromaticities of R, G, B and white, and light = value ** exponent.

    None for the exponent stands for the curve of sRGB. None is returned for primaries that span no colours. About 600
    bytes.
    """
    if not ((primaries[:, 1] > 0.001).all() and (primaries >= 0).all() and (primaries.sum(axis=1) <= 1.0001).all()):
        return None
    xyz = np.column_stack([primaries[:, 0], primaries[:, 1], 1 - primaries.sum(axis=1)]) / primaries[:, 1:]
    white = xyz[3]
    if abs(np.linalg.det(xyz[:3])) < 1e-3:
        return None
    colorants = xyz[:3].T * np.linalg.solve(xyz[:3].T, white)
    cone_scale = np.diag((_BRADFORD @ np.array(_D50_XYZ)) / (_BRADFORD @ white))
    adaptation = np.linalg.solve(_BRADFORD, cone_scale @ _BRADFORD)
    red, green, blue = (adaptation @ colorants).T

    def fixed(values: np.ndarray | tuple[float, ...]) -> bytes:
        return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)

    def text(words: str) -> bytes:
        encoded = words.encode("utf-16-be")
        return struct.pack(">4sIII4sII", b"mluc", 0, 1, 12, b"enUS", len(encoded), 28) + encoded

    if exponent is None:
        curve = struct.pack(">4sIHH", b"para", 0, 3, 0) + fixed((2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
    else:
        curve = struct.pack(">4sIHH", b"para", 0, 0, 0) + fixed((exponent,))
    bodies = {
        (b"desc",): text("RGB"),
        (b"cprt",): text("CC0"),
        (b"wtpt",): b"XYZ \0\0\0\0" + fixed(_D50_XYZ),
        (b"chad",): b"sf32\0\0\0\0" + fixed(adaptation.ravel()),
        (b"rXYZ",): b"XYZ \0\0\0\0" + fixed(red),
        (b"gXYZ",): b"XYZ \0\0\0\0" + fixed(green),
        (b"bXYZ",): b"XYZ \0\0\0\0" + fixed(blue),
        # One curve for three tags.
        (b"rTRC", b"gTRC", b"bTRC"): curve,
    }
    position = 128 + 4 + 12 * sum(map(len, bodies))
    entries, data = [], b""
    for names, body in bodies.items():
        entries += [struct.pack(">4sII", name, position + len(data), len(body)) for name in names]
        data += body + bytes(-len(body) % 4)
    table = struct.pack(">I", len(entries)) + b"".join(entries)
    size = 128 + len(table) + len(data)
    header = struct.pack(
        ">I4sI4s4s4s6H4s28s", size, b"", 0x04300000, b"mntr", b"RGB ", b"XYZ ", 2000, 1, 1, 0, 0, 0, b"acsp", b""
    )
    return (header + fixed(_D50_XYZ)).ljust(128, b"\0") + table + data
