"""`looc thumbnail`: a small PNG of one .looc file, as file managers ask for it (docs/DESKTOP.md)."""

from __future__ import annotations

from typing import Annotated

import typer

from looc_codec.cli.options import DEFAULT_MAX_PIXELS, MaxPixelsOption
from looc_codec.cli.streams import STANDARD_STREAM, read_looc_bytes, write_stdout


def thumbnail(
    input: Annotated[str, typer.Argument(metavar="IN", help=".looc file, or - for standard input.", show_default=False)],
    output: Annotated[str, typer.Argument(metavar="OUT", help="PNG file, replaced if it exists, or - for standard output.", show_default=False)],
    size: Annotated[int, typer.Option("--size", "-s", min=1, max=4096, help="Longest side in pixels; smaller pictures are not enlarged.")] = 256,
    max_pixels: MaxPixelsOption = DEFAULT_MAX_PIXELS,
) -> None:
    """Write a small PNG of a .looc file, for file managers."""
    import io

    from looc_codec import api, files, images
    from looc_codec.format import container

    file = container.unpack(read_looc_bytes(input), max_pixels=max_pixels)
    shrink = max((number for number in (16, 8, 4, 2) if max(file.width, file.height) >= number * size), default=1)
    picture = api.restore_picture(file, scale=1 / shrink)
    image = images.picture_to_pillow(picture)
    image.thumbnail((size, size))
    encoded = io.BytesIO()
    # Nobody reads the camera's data in a thumbnail; colours need their profile.
    image.save(encoded, "PNG", icc_profile=picture.icc, exif=b"")
    if output == STANDARD_STREAM:
        write_stdout(encoded.getvalue())
        return
    with files.write_atomically(output, force=True) as file:
        file.write(encoded.getvalue())
