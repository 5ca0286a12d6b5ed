"""Picture <-> the chunks of a .looc file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from looc_codec.format.container import ALPHA_CHUNK, EXIF_CHUNK, ICC_CHUNK, XMP_CHUNK, Chunk, Colour
from looc_codec.images.alpha import packed_alpha, unpacked_alpha
from looc_codec.images.exif import checked_exif
from looc_codec.images.picture import Picture
from looc_codec.images.profiles import checked_profile


def chunks_of_picture(picture: Picture) -> tuple[Chunk, ...]:
    """The metadata and the alpha plane as chunks of a .looc file; none for a plain photo."""
    chunks = [
        Chunk(kind, data)
        for kind, data in ((ICC_CHUNK, picture.icc), (EXIF_CHUNK, picture.exif), (XMP_CHUNK, picture.xmp))
        if data
    ]
    if picture.alpha is not None:
        chunks.append(Chunk(ALPHA_CHUNK, packed_alpha(picture.alpha)))
    return tuple(chunks)


def picture_with_chunks(rgb: np.ndarray, chunks: Sequence[Chunk], colour: Colour = Colour.RGB) -> Picture:
    """A decoded picture, (H, W, 3) uint8, with what the chunks of its file say; unknown ancillary chunks are left out.

    Raises:
        FormatError: the alpha plane cannot be decoded, or has another size than the picture.
    """
    data = {chunk.type: chunk.data for chunk in chunks}
    notices: list[str] = []
    icc = checked_profile(data.get(ICC_CHUNK), notices)
    if icc is not None and icc[16:20] != b"RGB ":
        notices.append("its colour profile is not one for RGB and is left out")
        icc = None
    alpha = data.get(ALPHA_CHUNK)
    return Picture(
        rgb=np.ascontiguousarray(rgb),
        alpha=None if alpha is None else unpacked_alpha(alpha, rgb.shape[1], rgb.shape[0]),
        icc=icc,
        exif=checked_exif(data.get(EXIF_CHUNK)),
        xmp=data.get(XMP_CHUNK),
        notices=tuple(notices),
        one_plane=colour == Colour.GREY,
    )


def colour_of_picture(picture: Picture) -> Colour:
    """How a file has to mark the picture, by what its pixels are and by what it is to be restored as."""
    if not picture.grey:
        return Colour.RGB
    return Colour.GREY if picture.one_plane else Colour.GREY_AS_RGB
