"""`looc web`: the page that shows .looc files, for any web server."""

from __future__ import annotations

from typing import Annotated

import typer

from looc_codec.cli.help import Example
from looc_codec.cli.options import JsonOption, QuietOption
from looc_codec.cli.printing import note, print_json, say, size_text

EXAMPLES = (
    Example("looc web site/", "writes the page with all shipped models."),
    Example("looc web site/ -m photo", "with one model, half the size."),
    Example("looc web site/ && python3 -m http.server -d site/", "any web server will do."),
)


def web(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder to write into; made where there is none.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "-m", "--model", metavar="MODEL", help="Name or path of a model to include, as often as needed. Without it all shipped ones."
        ),
    ] = None,
    compressed: Annotated[
        bool, typer.Option("--gzip", help="Also write .gz beside large files, for servers that send those.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Write into a folder that holds other files.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the page that shows .looc files in browsers, and the element for pages of one's own."""
    from looc_codec.registry import find_model, shipped_models
    from looc_codec.webpage import ISOLATION, write_page

    models = list({entry.fingerprint: entry for entry in (map(find_model, model) if model else shipped_models())}.values())
    written = write_page(folder, models, force=force, compressed=compressed)
    if as_json:
        print_json({"output": folder, "files": written.files, "bytes": written.size_bytes, "models": written.model_bytes})
    elif not quiet:
        weights = ", ".join(f"{name} {size_text(size)}" for name, size in written.model_bytes.items())
        say(f"{folder}: {written.files} files, {size_text(written.size_bytes)}, of which models: {weights or 'none'}")
        note("any web server will do; with these headers it decodes on several cores:")
        for name, value in ISOLATION.items():
            note(f"    {name}: {value}")
