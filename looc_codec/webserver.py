"""Serves the page to browsers of this machine, with some .looc files open in it.

Only programs of this machine can connect; only the page, the models and the files that were named are served. The files'
addresses hold a random token, so that other users of the machine, who can connect as well, do not get them, and requests
to any other host name are refused, so that no foreign site can reach the server through a name of its own that
leads here (DNS rebinding).
"""

from __future__ import annotations

import gzip
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from looc_codec.errors import OutputError
from looc_codec.registry import ModelEntry
from looc_codec.webpage import (
    ISOLATION,
    MODEL_LIST,
    TYPES,
    content_security_policy,
    model_address,
    model_list,
    page_files,
)

ADDRESS = "127.0.0.1"
_HOST_NAMES = (ADDRESS, "localhost")
_HEADERS = ISOLATION | {
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # The next run has another port, where a browser would find nothing that it kept.
    "Cache-Control": "no-store",
}
_IDLE_SECONDS = 60


@dataclass(frozen=True)
class OpenFile:
    """A .looc file to show."""

    name: str
    path: str | None
    """Where it is read from, whenever the page asks for it."""
    data: bytes | None = None
    """Its bytes, where it has no path."""


@dataclass(frozen=True)
class _Resource:
    """What is at one address: a file, or bytes."""

    type: str
    path: str | os.PathLike[str] | None = None
    data: bytes | None = None
    compressed: bool = False


class PageServer(ThreadingHTTPServer):
    """The server; `url` is the page with the files open.

    Raises OutputError where the port cannot be used.
    """

    daemon_threads = True
    # Whoever asks for a port wants to hear that it is taken.
    allow_reuse_address = os.name == "posix"

    def __init__(self, files: Sequence[OpenFile], models: Sequence[ModelEntry], port: int = 0) -> None:
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise OutputError(f"port {port} cannot be used: {error.strerror or error}; leave --port away for a free one") from None
        self.hosts = {f"{name}:{self.server_port}" for name in _HOST_NAMES}
        self.policy = f"{content_security_policy()}; frame-ancestors 'none'"
        self._resources = _resources_of_page(models)
        self.url = f"http://{ADDRESS}:{self.server_port}/"
        if files:
            folder = f"files/{secrets.token_urlsafe(16)}"
            listed = []
            for number, file in enumerate(files, 1):
                address = f"{number}.looc"
                self._resources[f"{folder}/{address}"] = _Resource(TYPES[".looc"], file.path, file.data)
                listed.append({"name": file.name, "url": address})
            self._resources[f"{folder}/list.json"] = _Resource(TYPES[".json"], data=json.dumps(listed).encode())
            self.url += f"?open={quote(folder)}/list.json"

    def find(self, address: str) -> _Resource | None:
        """What is at an address of the server; None for nothing."""
        return self._resources.get(address or "index.html")

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A browser that closes a tab ends its connections as it likes.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _resources_of_page(models: Sequence[ModelEntry]) -> dict[str, _Resource]:
    resources = {
        address: _Resource(TYPES[PurePosixPath(address).suffix], file.path, compressed=file.compressed)
        for address, file in page_files().items()
    }
    for entry in models:
        resources[model_address(entry)] = _Resource(TYPES[".safetensors"], entry.path)
    resources[MODEL_LIST] = _Resource(TYPES[".json"], data=json.dumps(model_list(models)).encode())
    return resources


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    server_version = "looc"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(shutil.copyfileobj)

    def do_HEAD(self) -> None:
        self._answer(None)

    def _answer(self, send: Callable[[Any, Any], None] | None) -> None:
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            return self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "this server answers to its own address only")
        resource = self.server.find(unquote(urlsplit(self.path).path).removeprefix("/"))
        if resource is None:
            return self._refuse(HTTPStatus.NOT_FOUND, "there is nothing at this address")
        if resource.data is not None:
            return self._send(resource.type, resource.data)
        assert resource.path is not None, "a resource has data or a path"
        try:
            with open(resource.path, "rb") as file:
                if resource.compressed and "gzip" not in self.headers.get("Accept-Encoding", ""):
                    return self._send(resource.type, gzip.decompress(file.read()))
                self._begin(HTTPStatus.OK, resource.type, os.fstat(file.fileno()).st_size, compressed=resource.compressed)
                if send is not None:
                    send(file, self.wfile)
        except OSError as error:
            # Before anything was sent: the file has gone, or may no longer be read.
            if error.filename is None:
                raise
            self._refuse(HTTPStatus.NOT_FOUND, f"{os.path.basename(error.filename)}: {error.strerror}")

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        self._send(TYPES[".txt"], f"{sentence}\n".encode(), status)

    def _send(self, media_type: str, data: bytes, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._begin(status, media_type, len(data))
        if self.command != "HEAD":
            self.wfile.write(data)

    def _begin(self, status: HTTPStatus, media_type: str, length: int, *, compressed: bool = False) -> None:
        self.send_response(status)
        headers = _HEADERS | {"Content-Security-Policy": self.server.policy} | {"Content-Type": media_type, "Content-Length": str(length)}
        for name, value in (headers | ({"Content-Encoding": "gzip"} if compressed else {})).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *values: Any) -> None:
        """Nobody wants to read of every request."""
