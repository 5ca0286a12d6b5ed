"""`looc thumbnail`: a small PNG of one .looc file, as file managers ask for it (docs/DESKTOP.md)."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from looc_codec.cli.help import Example
from looc_codec.cli.options import DEFAULT_MAX_PIXELS, MaxPixelsOption, whole
from looc_codec.cli.streams import STANDARD_STREAM, read_looc_bytes, refuse_terminal_output, write_stdout
from looc_codec.errors import OutputError
from looc_codec.registry import find_by_fingerprint

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

    from looc_codec import files
    from looc_codec.format import container

    if output == STANDARD_STREAM:
        refuse_terminal_output()
    elif os.path.realpath(input) == os.path.realpath(output):
        raise OutputError(f"{output} is the .looc file itself; give the thumbnail another name")
    data = read_looc_bytes(input)
    # What needs no torch comes first: a damaged file, or one without its model, fails at once.
    path = find_by_fingerprint(container.unpack(data, max_pixels=max_pixels).fingerprint).path
    from looc_codec import codec, images

    picture = codec.decompress_picture(data, model=codec.load_model(path), max_pixels=max_pixels)
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
