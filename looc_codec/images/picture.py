"""The picture in memory: upright 8-bit RGB, an alpha plane, and the metadata that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


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


def upright(plane: np.ndarray, orientation: int) -> np.ndarray:
    """An array (H, W) or (H, W, C) turned and mirrored as the EXIF orientation 2..8 asks; a view."""
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
