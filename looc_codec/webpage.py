"""The page that shows .looc files in a browser: which files it consists of, and how it is written for a web server.

The page itself is in `web/` (docs/WEB.md); the runtime's WebAssembly lies there compressed, as `NAME.wasm.gz`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from looc_codec import __version__
from looc_codec.errors import OutputError
from looc_codec.files import write_atomically
from looc_codec.registry import ModelEntry

MANIFEST = "looc-web.json"
"""Lists the files that `write_page` wrote, so that it can take them away again; other files are not looc's."""
MODEL_LIST = "models.json"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    "": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".looc": "image/x-looc",
    ".safetensors": "application/octet-stream",
}
"""Media types of what a server of the page sends. Browsers refuse scripts and WebAssembly of other types."""
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
"""Headers with which browsers let the page use threads."""

_COMPRESSED = ".gz"
_WORTHWHILE = 0.9
"""A compressed copy that is larger than this share of its file saves nothing that anybody would notice."""
_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class PageFile:
    """One file of the page."""

    path: Path
    """On this machine."""
    compressed: bool
    """Whether it lies there as gzip of what is meant."""

    def read(self) -> bytes:
        """The bytes that are meant."""
        data = self.path.read_bytes()
        return gzip.decompress(data) if self.compressed else data


def page_files() -> dict[str, PageFile]:
    """The files of the page by their addresses (`page/save.js`), without models.

    Raises OutputError where the installation lacks them.
    """
    packaged = _PACKAGE / "web"
    # An editable install has no copy of the page inside the package.
    folder = packaged if packaged.is_dir() else _PACKAGE.parent / "web"
    files: dict[str, PageFile] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        compressed = name.endswith(_COMPRESSED)
        address = name.removesuffix(_COMPRESSED)
        if path.is_file() and PurePosixPath(address).suffix in TYPES:
            files[address] = PageFile(path, compressed)
    if "index.html" not in files:
        raise OutputError(f"this installation of looc lacks the page ({folder}); install looc again")
    return files


def content_security_policy() -> str:
    """What the page allows itself, as its index.html says; a server that sends it as a header holds workers to it, too."""
    match = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page_files()["index.html"].read().decode())
    assert match is not None, "index.html has no policy"
    return match[1]


def model_address(entry: ModelEntry) -> str:
    """Where the page has a model's weights."""
    return f"models/{entry.name}-{entry.fingerprint.hex()}.safetensors"


def model_list(entries: Sequence[ModelEntry]) -> list[dict[str, Any]]:
    """The content of the page's models.json. Addresses end in a digest of the weights, so that no cache keeps old ones."""
    return [
        {
            "name": entry.name,
            "fingerprint": entry.fingerprint.hex(),
            "url": f"{model_address(entry)}?{_digest(entry.path)}",
            "bytes": entry.size_bytes,
        }
        for entry in entries
    ]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:12]


@dataclass(frozen=True)
class WrittenPage:
    """What `write_page` wrote."""

    files: int
    size_bytes: int
    """Of all files; those that are there compressed as well count twice."""
    model_bytes: dict[str, int]
    """Of the weights, by the names of their models."""


def write_page(folder: str | os.PathLike[str], models: Sequence[ModelEntry], *, force: bool = False, compressed: bool = False) -> WrittenPage:
    """Writes the page and the weights of `models` into a folder, for any web server.

    A page that was written there before is replaced; with `force` other files of the same names are, too. Nothing else
    in the folder is touched. With `compressed` a gzip copy lies beside every file that shrinks by it, for servers that
    send those.

    Raises:
        OutputError: the folder holds files that are not a page of looc, and `force` is not given; or it cannot be written.
    """
    target = Path(folder)
    before = _files_written_before(target)
    if before is None and not force and os.path.isdir(target) and os.listdir(target):
        raise OutputError(f"{target} is not empty, and holds no page of looc; give another folder, or --force to write into it")
    contents: dict[str, Any] = {address: file.read for address, file in page_files().items()}
    contents |= {model_address(entry): entry.path.read_bytes for entry in models}
    contents[MODEL_LIST] = lambda: _json(model_list(models))
    sizes: dict[str, int] = {}

    def write(address: str, data: bytes) -> None:
        path = target / address
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {path.parent}: {error.strerror or error}") from None
        with write_atomically(path, force=True) as file:
            file.write(data)
        sizes[address] = len(data)

    for address, read in contents.items():
        data = read()
        write(address, data)
        if compressed:
            # No time in it: the same page is the same bytes.
            smaller = gzip.compress(data, mtime=0)
            if len(smaller) < _WORTHWHILE * len(data):
                write(address + _COMPRESSED, smaller)
    for address in (before or set()) - set(sizes):
        (target / address).unlink(missing_ok=True)
    write(MANIFEST, _json({"looc": __version__, "files": sorted(sizes)}))
    return WrittenPage(len(sizes), sum(sizes.values()), {entry.name: sizes[model_address(entry)] for entry in models})


def _files_written_before(folder: Path) -> set[str] | None:
    """Addresses of the files of a page that looc wrote into a folder; None where it did not."""
    try:
        names = json.loads((folder / MANIFEST).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    # The list decides what is deleted, so it must not lead out of the folder.
    sound = isinstance(names, list) and all(
        isinstance(name, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name, re.ASCII) and ".." not in name.split("/") for name in names
    )
    return set(names) if sound else None


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
