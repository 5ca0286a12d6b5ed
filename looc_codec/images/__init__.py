"""File <-> picture: upright 8-bit RGB, an alpha plane, and the metadata worth keeping.

What a colour-managed viewer shows decides: orientation is applied, an RGB colour profile travels with untouched pixel
values, and what RGB cannot carry (CMYK, Lab, grey profiles) is converted to sRGB. Whatever is lost is said in a notice.
"""

from looc_codec.images.chunks import chunks_of_picture, colour_of_picture, picture_with_chunks
from looc_codec.images.content import content_notice
from looc_codec.images.opening import READ_FORMATS
from looc_codec.images.picture import Picture
from looc_codec.images.reading import picture_from_pillow, read_picture
from looc_codec.images.writing import PILLOW_FORMATS, QUALITY_FORMATS, output_format, picture_to_pillow, write_picture

__all__ = [
    "PILLOW_FORMATS",
    "QUALITY_FORMATS",
    "READ_FORMATS",
    "Picture",
    "chunks_of_picture",
    "colour_of_picture",
    "content_notice",
    "output_format",
    "picture_from_pillow",
    "picture_to_pillow",
    "picture_with_chunks",
    "read_picture",
    "write_picture",
]
