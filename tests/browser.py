"""A real browser for tests: Chromium, steered with the WebDriver protocol (w3.org/TR/webdriver2) over its chromedriver.

    with Browser() as browser:
        browser.open(f"{address}/index.html")
        browser.wait_for("document.title === 'looc'")

Only the standard library is used: a client of its own would bring a dozen packages, and look for browsers to download.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
CHROMEDRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="no browser: chromium and chromedriver are not installed (Debian: chromium, chromium-driver)"
)

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key that the protocol gives a reference to an element."""
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_ARGUMENTS = (
    "--headless=new", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--hide-scrollbars", "--no-proxy-server",
)  # fmt: skip


class BrowserError(Exception):
    """What the browser answered instead of a result."""


class Browser:
    """One window of a headless Chromium of its own, with an empty profile.

    Args:
        width, height: of the window, in CSS pixels.
        scale: device pixels per CSS pixel.
        dark: whether pages are told that people prefer dark colours.
        downloads: folder that downloads go to; without it there are none.
    """

    def __init__(self, width: int = 1280, height: int = 800, *, scale: float = 1, dark: bool = False, downloads: Path | None = None) -> None:
        self._driver = subprocess.Popen([CHROMEDRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            self._address = f"http://127.0.0.1:{self._port()}"
            # In containers tests run as root, which Chromium's sandbox refuses.
            root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
            options: dict[str, Any] = {
                "binary": CHROMIUM,
                "args": [*_ARGUMENTS, *root, f"--window-size={width},{height}", f"--force-device-scale-factor={scale}"],
            }
            if downloads is not None:
                options["prefs"] = {"download.default_directory": str(downloads), "download.prompt_for_download": False}
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
            self._session = "/session/" + self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            self._ask("POST", f"{self._session}/timeouts", {"script": 120_000, "pageLoad": 120_000})
            # The window has borders; pages get exactly the size that was asked for.
            self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)
            self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the browser and its driver."""
        if hasattr(self, "_session"):
            try:
                self._ask("DELETE", self._session)
            except (OSError, BrowserError):
                pass
        self._driver.terminate()
        self._driver.wait(30)
        self._driver.stdout.close()

    def open(self, url: str) -> None:
        self._ask("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a JavaScript function body; `arguments[0]` and so on are what was given. Promises are waited for."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def wait_for(self, expression: str, *arguments: Any, seconds: float = 90) -> Any:
        """The value of a JavaScript expression once it is true; BrowserError, with what the console says, after so many seconds."""
        end = time.monotonic() + seconds
        while not (value := self.run(f"return ({expression})", *arguments)):
            if time.monotonic() > end:
                raise BrowserError(f"never true: {expression}; console: {self.console()}")
            time.sleep(0.05)
        return value

    def choose_files(self, selector: str, *paths: Path) -> None:
        """Chooses files in an `<input type=file>`, as a person would in its dialog."""
        element = self._ask("POST", f"{self._session}/element", {"using": "css selector", "value": selector})[_ELEMENT]
        self._ask("POST", f"{self._session}/element/{element}/value", {"text": "\n".join(map(str, paths))})

    def drop_files(self, selector: str, *paths: Path) -> None:
        """Drops files on an element."""
        files = [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths]
        self.run(
            "const [selector, files] = arguments; const data = new DataTransfer();"
            "for (const [name, text] of files) data.items.add(new File([Uint8Array.from(atob(text), c => c.charCodeAt(0))], name));"
            "for (const type of ['dragenter', 'dragover', 'drop'])"
            " document.querySelector(selector).dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}));",
            selector, files,
        )  # fmt: skip

    def click(self, selector: str) -> None:
        """Clicks in the middle of an element, with the pointer: what covers it gets the click."""
        element = self._ask("POST", f"{self._session}/element", {"using": "css selector", "value": selector})
        self._ask("POST", f"{self._session}/element/{element[_ELEMENT]}/click", {})

    def press(self, *keys: str) -> None:
        """Presses and releases keys one after another: characters, or code points of the protocol (KEYS)."""
        actions = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("POST", f"{self._session}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Presses the mouse at one point of the page, in CSS pixels, and releases it at another."""
        steps = [
            {"type": "pointerMove", "duration": 0, "x": round(start[0]), "y": round(start[1])}, {"type": "pointerDown", "button": 0},
            {"type": "pointerMove", "duration": 50, "x": round(end[0]), "y": round(end[1])}, {"type": "pointerUp", "button": 0},
        ]  # fmt: skip
        self._ask("POST", f"{self._session}/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": steps}]})

    def wheel(self, at: tuple[float, float], delta_y: float) -> None:
        """Turns the mouse wheel at a point of the page."""
        step = {"type": "scroll", "x": round(at[0]), "y": round(at[1]), "deltaX": 0, "deltaY": round(delta_y), "duration": 0, "origin": "viewport"}
        self._ask("POST", f"{self._session}/actions", {"actions": [{"type": "wheel", "id": "wheel", "actions": [step]}]})

    def screenshot(self, path: Path | str) -> None:
        """Writes what the window shows as a PNG."""
        Path(path).write_bytes(base64.b64decode(self._ask("GET", f"{self._session}/screenshot")))

    def cdp(self, command: str, **parameters: Any) -> Any:
        """A command of the Chrome DevTools Protocol."""
        return self._ask("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def console(self, *, least: str = "WARNING") -> list[str]:
        """Messages of the console since the last call, violations of the content security policy among them, of this level or worse."""
        levels = ("DEBUG", "INFO", "WARNING", "SEVERE")
        log = self._ask("POST", f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in log if levels.index(entry["level"]) >= levels.index(least)]

    def requests(self) -> list[str]:
        """Addresses of everything that pages and their workers asked the network for since the last call."""
        log = self._ask("POST", f"{self._session}/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in log]
        return [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]

    def _port(self) -> int:
        for line in self._driver.stdout:
            if match := re.search(r"started successfully on port (\d+)", line):
                return int(match[1])
        raise BrowserError("chromedriver ended before it was ready")

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with _NO_PROXY.open(request, timeout=180) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            value = json.load(error)["value"]
            raise BrowserError(f"{value['error']}: {value['message'].splitlines()[0]}") from None


KEYS = {"Escape": "\ue00c", "Enter": "\ue007", "Tab": "\ue004", "Left": "\ue012", "Up": "\ue013", "Right": "\ue014", "Down": "\ue015",
        "Home": "\ue011", "End": "\ue010", "PageUp": "\ue00e", "PageDown": "\ue00f", "Space": " "}  # fmt: skip


class _Quiet(SimpleHTTPRequestHandler):
    headers_of_all: ClassVar[dict[str, str]] = {}

    def end_headers(self) -> None:
        for name, value in self.headers_of_all.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
"""Headers with which a browser lets a page share memory between threads."""


@contextmanager
def static_server(folder: Path, headers: dict[str, str] | None = None) -> Iterator[str]:
    """The address of a plain web server for a folder, as `python -m http.server` is one."""
    handler = type("Handler", (_Quiet,), {"headers_of_all": headers or {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
