"""`looc view`: .looc files in the browser of this machine."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Annotated

import typer

from looc_codec.cli.help import Example
from looc_codec.cli.options import whole
from looc_codec.cli.printing import note, say
from looc_codec.cli.streams import STANDARD_STREAM, read_looc_bytes
from looc_codec.errors import ImageError

if TYPE_CHECKING:
    from looc_codec.webserver import OpenFile

EXAMPLES = (
    Example("looc view photo.looc", "opens it in the browser."),
    Example("looc view packed/*.looc", "several at once."),
    Example("looc view --no-browser --port 8080 photo.looc", "prints the address, for example for an SSH tunnel."),
)


def view(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE...]", help=".looc files, or - for standard input; without any, an empty page."),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the browser, or only print the address.")
    ] = True,
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", parser=whole(1, 65535), help="Port of the address. Without it a free one."),
    ] = None,
) -> None:
    """Show .looc files in the browser of this machine, until Ctrl-C."""
    import threading

    from looc_codec.registry import installed_models
    from looc_codec.webserver import PageServer

    # A file that can be read and is no good is shown with the sentence that says so.
    files = [_opened(name) for name in inputs or ()]
    with PageServer(files, installed_models(), port or 0) as server:
        try:
            say(server.url)
            note("the page is there until Ctrl-C, and only for this machine")
            if browser:
                # Some browsers come back only when they are closed.
                threading.Thread(target=_open_browser, args=(server.url,), daemon=True).start()
            server.serve_forever()
        except KeyboardInterrupt:
            # This is how it ends.
            return


def _opened(name: str) -> OpenFile:
    """A file to show; an error for one that cannot be read at all."""
    from looc_codec.webserver import OpenFile

    if name == STANDARD_STREAM:
        return OpenFile("standard input", None, read_looc_bytes(name))
    with open(name, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ImageError(f"{name} is not a file; name a .looc file, or - for standard input")
    return OpenFile(os.path.basename(name), os.path.abspath(name))


def _open_browser(url: str) -> None:
    import webbrowser

    try:
        opened = webbrowser.open(url)
    except (OSError, webbrowser.Error):
        opened = False
    if not opened:
        note("no browser could be opened; open the address yourself")
