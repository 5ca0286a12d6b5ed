"""`looc thumbnail`: a small PNG of one .looc file, as file managers ask for it (docs/DESKTOP.md)."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from looc_codec.cli.help import Example
from looc_codec.cli.options import DEFAULT_MAX_PIXELS, MaxPixelsOption, whole
from looc_codec.cli.streams import STANDARD_STREAM, read_looc_bytes, refuse_terminal_output, write_stdout
from looc_codec.errors import OutputError

EXAMPLES = (
    Example("looc thumbnail photo.looc photo-small.png", "at most 256 pixels wide and high."),
    Example("looc thumbnail --size 512 photo.looc photo-small.png", "at most 512."),
    Example("looc thumbnail photo.looc - | display -", "to another program."),
)


def thumbnail(
    input: Annotated[str, typer.Argument(metavar="IN", help=".looc file, or - for standard input.")],
    output: Annotated[
        str, typer.Argument(metavar="OUT", help="PNG file, replaced if it exists, or - for standard output.")
    ],
    size: Annotated[
        int,
        typer.Option(
            "--size",
            "-s",
            metavar="N",
            parser=whole(1, 4096),
            help="Longest side in pixels, 1 to 4096; smaller pictures are not enlarged.",
        ),
    ] = 256,
    max_pixels: MaxPixelsOption = DEFAULT_MAX_PIXELS,
) -> None:
    """Write a small PNG of a .looc file, for file managers."""
    import io

    from looc_codec import api, files, images
    from looc_codec.format import container

    if output == STANDARD_STREAM:
        refuse_terminal_output()
    elif os.path.realpath(input) == os.path.realpath(output):
        raise OutputError(f"{output} is the .looc file itself; give the thumbnail another name")
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
