"""`looc view` and `looc web` without a browser: what is served to whom, and what is written where."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from test_cli import assert_failed_in_one_line, run

from looc_codec import registry, webpage
from looc_codec.errors import OutputError
from looc_codec.webpage import page_files, write_page
from looc_codec.webserver import OpenFile, PageServer

ROOT = Path(__file__).resolve().parent.parent


# --- the server -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    path = tmp_path / "a photo.looc"
    path.write_bytes(b"\x8cLC photo")
    with PageServer([OpenFile(path.name, str(path)), OpenFile("standard input", None, b"\x8cLC input")], registry.shipped_models()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: PageServer, address: str, method: str = "GET", **headers: str):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        connection.request(method, address, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def list_address(server: PageServer) -> str:
    return "/" + server.url.partition("?open=")[2]


def test_the_page_may_use_threads_and_talks_to_nobody_else(server):
    status, headers, body = ask(server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert body == page_files()["index.html"].read()
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin" and headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy and "'unsafe-eval'" not in policy and "http" not in policy


def test_every_file_of_the_page_is_served_with_a_type_that_browsers_take(server):
    for address, file in page_files().items():
        status, headers, body = ask(server, f"/{address}", **{"Accept-Encoding": "gzip"})
        assert status == 200
        assert headers["Content-Type"] == webpage.TYPES[Path(address).suffix]
        assert (gzip.decompress(body) if headers["Content-Encoding"] == "gzip" else body) == file.read()


def test_programs_that_do_not_ask_for_compression_get_none(server):
    address = next(address for address, file in page_files().items() if file.compressed)
    status, headers, body = ask(server, f"/{address}")
    assert (status, headers["Content-Encoding"], headers["Content-Type"]) == (200, None, "application/wasm")
    assert body.startswith(b"\0asm") and int(headers["Content-Length"]) == len(body)


def test_the_named_files_are_listed_and_served(server):
    status, headers, body = ask(server, list_address(server))
    listed = json.loads(body)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert [file["name"] for file in listed] == ["a photo.looc", "standard input"]
    folder = list_address(server).rpartition("/")[0]
    assert [ask(server, f"{folder}/{file['url']}")[2] for file in listed] == [b"\x8cLC photo", b"\x8cLC input"]


def test_a_file_that_has_gone_is_no_longer_there(server, tmp_path):
    (tmp_path / "a photo.looc").unlink()
    status, _, body = ask(server, list_address(server).replace("list.json", "1.looc"))
    assert status == 404 and b"a photo.looc" in body


def test_models_are_served_as_listed(server):
    listed = json.loads(ask(server, "/models.json")[2])
    assert {model["name"] for model in listed} == {"photo", "photo-psnr"}
    for model in listed:
        status, headers, body = ask(server, f"/{model['url']}")
        assert (status, len(body)) == (200, model["bytes"])
        assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "address", ["/../pyproject.toml", "/%2e%2e/pyproject.toml", "//etc/passwd", "/etc/passwd", "/page/", "/files/1.looc", "/files/list.json", "/a%20photo.looc", "/page/../../README.md"]
)
def test_nothing_else_is_served(server, address):
    assert ask(server, address)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "127.0.0.1:1", "", "localhost"])
def test_other_host_names_are_refused(server, host):
    for address in ("/", list_address(server)):
        status, _, body = ask(server, address, Host=host.format(port=server.server_port))
        assert status == 421 and b"\x8cLC" not in body


def test_its_own_names_are_not(server):
    for name in ("127.0.0.1", "localhost", "LocalHost"):
        assert ask(server, "/", Host=f"{name}:{server.server_port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_sent_to_it(server, method):
    assert ask(server, "/", method)[0] == 501


def test_heads_are_like_the_answers_without_them(server):
    for address in ("/", "/models.json", "/app.js"):
        status, headers, body = ask(server, address, "HEAD")
        assert (status, body) == (200, b"")
        assert headers["Content-Length"] == ask(server, address)[1]["Content-Length"]


def test_only_this_machine_can_connect(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_addresses_of_files_cannot_be_guessed(tmp_path):
    file = OpenFile("a", None, b"")
    urls = set()
    for _ in range(3):
        with PageServer([file], []) as server:
            urls.add(list_address(server))
    assert len(urls) == 3 and all(re.fullmatch(r"/files/[\w-]{20,}/list\.json", url) for url in urls)


# --- looc view --------------------------------------------------------------------------------------------------------


def test_view_ends_with_ctrl_c_as_it_should(tmp_path):
    path = tmp_path / "photo.looc"
    path.write_bytes((ROOT / "weights" / "looc-photo.golden.looc").read_bytes())
    process = subprocess.Popen(
        [sys.executable, "-m", "looc_codec", "view", "--no-browser", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        # A shell has its background jobs ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    url, words = process.stdout.readline(), process.stderr.readline()
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and errors == ""
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?open=files/[\w-]+/list\.json\n", url) and rest == ""
    assert words == "the page is there until Ctrl-C, and only for this machine\n"


@pytest.mark.parametrize("opens", [True, False])
def test_view_opens_the_browser(monkeypatch, opens):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or opens)
    monkeypatch.setattr("threading.Thread", _AtOnce)
    monkeypatch.setattr(PageServer, "serve_forever", _interrupted)
    result = run("view")
    assert result.exit_code == 0
    assert opened == [result.stdout.strip()]
    assert ("no browser could be opened" in result.stderr) == (not opens)


class _AtOnce:
    """A thread that has done its work when it is started."""

    def __init__(self, target, args, daemon):
        self.start = lambda: target(*args)


def _interrupted(self):
    raise KeyboardInterrupt


def test_view_refuses_what_cannot_be_read(tmp_path):
    assert_failed_in_one_line(run("view", "--no-browser", tmp_path / "nothing.looc"), "nothing.looc")
    assert_failed_in_one_line(run("view", "--no-browser", tmp_path), str(tmp_path))


def test_view_says_that_a_port_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_failed_in_one_line(run("view", "--no-browser", "--port", port), f"port {port} cannot be used", "--port")


# --- looc web ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_shipped_models(monkeypatch):
    """Weights are copied as they are; most tests need not do it."""
    monkeypatch.setattr(registry, "shipped_models", list)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_web_writes_the_page_with_all_shipped_models(tmp_path):
    site = tmp_path / "new" / "site"
    result = run("web", site)
    assert result.exit_code == 0, result.output
    assert files_in(site) >= {"index.html", "app.js", "looc.js", "viewer.js", "client.js", "worker.js", "models.json", "looc-web.json"}
    assert not [name for name in files_in(site) if name.endswith(".gz")]
    models = json.loads((site / "models.json").read_text())
    assert {model["name"] for model in models} == {"photo", "photo-psnr"}
    for model in models:
        assert (site / model["url"].partition("?")[0]).stat().st_size == model["bytes"]
    (wasm,) = site.rglob("*.wasm")
    assert wasm.read_bytes().startswith(b"\0asm")
    total = sum((site / name).stat().st_size for name in files_in(site))
    assert f"{total / 1e6:.2f} MB" in result.stdout and "Cross-Origin-Opener-Policy: same-origin" in result.stderr


def test_web_writes_chosen_models_and_takes_old_ones_away(tmp_path, tiny_model_file):
    assert run("web", tmp_path, "-m", "photo", "--quiet").stdout == ""
    before = files_in(tmp_path)
    (tmp_path / "my photo.looc").write_bytes(b"mine")
    result = run("web", tmp_path, "-m", tiny_model_file, "--json")
    record = json.loads(result.stdout)
    assert list(record["models"]) == ["tiny"] and record["output"] == str(tmp_path)
    gone = {name for name in before if name.startswith("models/")}
    assert len(gone) == 1 and not gone & files_in(tmp_path)
    assert (tmp_path / "my photo.looc").read_bytes() == b"mine"
    assert record["files"] == len(files_in(tmp_path)) - 1


def test_web_leaves_folders_of_others_alone(tmp_path, no_shipped_models):
    (tmp_path / "index.html").write_text("mine")
    assert_failed_in_one_line(run("web", tmp_path), str(tmp_path), "--force")
    assert files_in(tmp_path) == {"index.html"}
    assert run("web", tmp_path, "--force").exit_code == 0
    assert (tmp_path / "index.html").read_text() != "mine"


@pytest.mark.parametrize("manifest", ['{"files": ["../precious"]}', '{"files": ["/etc/passwd"]}', '{"files": ["a/../../precious"]}', '{"files": [1]}', "[]", "{"])
def test_a_forged_manifest_deletes_nothing(tmp_path, no_shipped_models, manifest):
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "precious").write_text("mine")
    (site / "looc-web.json").write_text(manifest)
    assert run("web", site).exit_code == 1
    assert run("web", site, "--force").exit_code == 0
    assert (tmp_path / "precious").read_text() == "mine"


def test_web_writes_compressed_copies_that_are_worth_it(tmp_path, no_shipped_models):
    assert run("web", tmp_path, "--gzip", "--quiet").exit_code == 0
    copies = [path for path in tmp_path.rglob("*.gz")]
    assert any(path.name.endswith(".wasm.gz") for path in copies)
    for path in copies:
        assert gzip.decompress(path.read_bytes()) == path.with_suffix("").read_bytes()


def test_web_says_why_it_cannot_write(tmp_path, no_shipped_models):
    (tmp_path / "file").write_text("")
    assert_failed_in_one_line(run("web", tmp_path / "file" / "site"), "file")
    assert_failed_in_one_line(run("web", tmp_path / "site", "-m", "none-such"), "none-such")
    assert not (tmp_path / "site").exists()


def test_a_wheel_without_the_page_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(webpage, "_PACKAGE", tmp_path / "looc_codec")
    with pytest.raises(OutputError, match="lacks the page"):
        write_page(tmp_path / "site", [])


def test_the_page_is_complete_and_loads_nothing_from_elsewhere():
    """Every file that a page, style or script of ours names is there, and no address leads to another server."""
    addresses = page_files()
    for address, file in addresses.items():
        if address.startswith("vendor/") and not address.endswith(".js"):
            continue
        text = file.read().decode()
        # Comments show how the element is used.
        code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        named = re.findall(r"""(?:from|import)\s*\(?\s*["'](\.{1,2}/[^"']+)["']""", code) + re.findall(r'(?:src|href)="([^"#:]+)"', code)
        for name in named:
            assert _joined(Path(address).parent, name) in addresses, f"{address} names {name}"
        assert not re.search(r"""["'(]https?://(?!www\.w3\.org/|ns\.adobe\.com/)""", code), address


def _joined(folder: Path, name: str) -> str:
    parts: list[str] = []
    for part in (*folder.parts, *name.split("/")):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
