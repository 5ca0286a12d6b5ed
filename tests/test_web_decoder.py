"""The page's decoder (web/decoder) gives what the command gives: equal codes, pixels within one level, the same sentence for the same damage."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from browser import ISOLATION, Browser, needs_browser, static_server
from PIL import Image
from test_codec import photo
from test_golden_files import CASES, GOLDEN, model_name

from looc_codec import api, images
from looc_codec.codec.model import read_model
from looc_codec.errors import FormatError, LoocError
from looc_codec.format import container
from looc_codec.format.container import Chunk, Colour

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import fuzz
import vendor_onnxruntime_web

WEIGHTS = ROOT / "weights"
SHIPPED = ("looc-photo", "looc-photo-psnr")
LONGEST_SECONDS = 120
"""No job takes so long on any machine; one that does hangs."""


def _node_version() -> tuple[int, ...]:
    node = shutil.which("node")
    words = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout if node else ""
    return tuple(int(part) for part in words.strip().lstrip("v").split(".")[:2] if part.isdecimal())


needs_node = pytest.mark.skipif(_node_version() < (20, 19), reason="no Node.js of 20.19 or later, which runs the page's modules as they are")


class Node:
    """The decoder in a Node process, which does one job after another."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["node", str(ROOT / "tests" / "web_decoder.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **job: object) -> dict:
        """The result of a job; one that hangs ends the process, and with it the test."""
        watch = threading.Timer(LONGEST_SECONDS, self._process.kill)
        watch.start()
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        assert line, "the decoder's process ended"
        return json.loads(line)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)


@pytest.fixture(scope="module")
def node():
    process = Node()
    yield process
    process.close()


def decoded(node: Node, weights: Path, data: bytes, folder: Path, **options: object) -> dict:
    path = folder / "case.looc"
    path.write_bytes(data)
    return node.ask(weights=str(weights), file=str(path), out=str(folder / "case"), **options)


def assert_same(node: Node, weights: Path, data: bytes, folder: Path) -> None:
    """Decodes a file both ways: codes must be equal, pixels within one level, alpha equal."""
    model, file = read_model(weights), container.unpack(data)
    found = decoded(node, weights, data, folder)
    assert "error" not in found, found
    decoder = api.decoder_for(model)
    coding = decoder.decode(file)
    np.testing.assert_array_equal(np.fromfile(folder / "case.latent", "<i2"), coding.latent.ravel())
    details = np.zeros(0, np.int16) if coding.details is None else coding.details.ravel()
    np.testing.assert_array_equal(np.fromfile(folder / "case.details", "<i2"), details)
    rgba = np.fromfile(folder / "case.rgba", np.uint8).reshape(file.height, file.width, 4)
    picture = api.restore_picture(file, model=model)
    assert (found["width"], found["height"]) == (file.width, file.height) and found["stages"] == ["codes", "pixels"]
    assert_close(rgba, picture)
    coarse = decoder.restore_small(file, 8)
    assert found["coarse"] == [coarse.shape[1], coarse.shape[0]]
    shown = np.fromfile(folder / "case.coarse", np.uint8).reshape(*coarse.shape[:2], 4)
    assert np.abs(shown[..., :3].astype(int) - coarse).max() <= 1


def assert_close(rgba: np.ndarray, picture: images.Picture) -> None:
    assert np.abs(rgba[..., :3].astype(int) - picture.rgb).max() <= 1
    np.testing.assert_array_equal(rgba[..., 3], 255 if picture.alpha is None else picture.alpha)


@needs_node
@pytest.mark.parametrize("case", CASES)
def test_golden_files_of_the_format(node, tmp_path, case):
    assert_same(node, GOLDEN / f"{model_name(case)}.safetensors", (GOLDEN / f"{case}.looc").read_bytes(), tmp_path)


@needs_node
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models(node, tmp_path, name):
    weights = WEIGHTS / f"{name}.safetensors"
    assert_same(node, weights, (WEIGHTS / f"{name}.golden.looc").read_bytes(), tmp_path)
    picture = np.asarray(Image.open(WEIGHTS / f"{name}.golden.png").convert("RGB"))
    model = read_model(weights)
    for quality in (5, 95):
        data = api.compress(np.ascontiguousarray(picture[:70, :90]), quality=quality, model=model)
        assert_same(node, weights, data, tmp_path)
    if name == "looc-photo-psnr":
        assert len(container.unpack(data).segments) == len(model.config.groups) + 1, "quality 95 should have brought details"


@needs_node
def test_sizes_that_are_no_multiples_of_16(node, tmp_path):
    weights = GOLDEN / "looc-golden-details.safetensors"
    model = read_model(weights)
    for width, height in ((1, 1), (1, 40), (40, 1), (2, 3), (16, 16), (17, 15), (31, 33), (40, 40)):
        data = api.compress(photo(width, height), quality=90, model=model)
        assert_same(node, weights, data, tmp_path)


@needs_node
def test_grey_pictures_alpha_and_metadata(node, tmp_path):
    weights = GOLDEN / "looc-golden-details.safetensors"
    model = read_model(weights)
    grey = np.repeat(photo(50, 34)[..., :1], 3, axis=2)
    pictures = [*fuzz.pictures_with_metadata(), images.Picture(grey), images.Picture(grey, one_plane=True)]
    seen = set()
    for picture in pictures:
        data = api.compress_picture(picture, quality=70, model=model).data
        assert_same(node, weights, data, tmp_path)
        assert_same_header(node, data, tmp_path)
        file = container.unpack(data)
        seen |= {chunk.type for chunk in file.chunks} | {file.colour}
    assert seen >= {"iccp", "exif", "xmp_", "ALPH", Colour.RGB, Colour.GREY, Colour.GREY_AS_RGB}


def assert_same_header(node: Node, data: bytes, folder: Path) -> None:
    header, info = container.read_header(data), api.info(data)
    found = decoded(node, Path(), data, folder, header=True)
    sound = {chunk.type: base64.b64encode(chunk.data).decode() for chunk in container.sound_chunks(header, data)}
    assert found == {
        "width": info.width, "height": info.height, "level": header.level, "fingerprint": info.fingerprint, "bytes": len(data), "bitsPerPixel": info.bpp,
        "groups": info.groups, "isGrey": info.grey, "hasAlpha": "ALPH" in info.chunks,
        "chunks": [{"kind": chunk.type, "bytes": chunk.length_bytes} for chunk in header.chunks],
        "icc": sound.get("iccp"), "exif": sound.get("exif"), "xmp": sound.get("xmp_"),
    }  # fmt: skip


@needs_node
def test_alpha_planes_of_every_kind(node, tmp_path):
    """Those that looc writes, and those that the format allows beyond."""
    weights = GOLDEN / "looc-golden.safetensors"
    model = read_model(weights)
    file = container.unpack(api.compress(photo(61, 47), quality=30, model=model))
    rows, columns = np.mgrid[0:47, 0:61]
    noise = np.random.default_rng(2).integers(0, 256, (47, 61))
    for plane in (noise, rows * 5 + columns, (rows > 20) * 255, np.hypot(rows - 20, columns - 30) * 8, noise // 64 * 80, noise // 20):
        alpha = Image.fromarray(np.clip(plane, 0, 255).astype(np.uint8))
        colour = Image.merge("RGB", (alpha.transpose(Image.Transpose.FLIP_LEFT_RIGHT), alpha, alpha.point(lambda value: 255 - value)))
        for image, options in ((alpha, {"format": "PNG"}), (alpha.convert("RGB"), {"format": "WEBP", "method": 0}), (colour, {"format": "WEBP", "method": 6})):
            path = tmp_path / "alpha"
            image.save(path, lossless=True, **options)
            changed = container.pack(dataclasses.replace(file, chunks=(Chunk("ALPH", path.read_bytes()),)))
            found = decoded(node, weights, changed, tmp_path)
            assert "error" not in found, found
            rgba = np.fromfile(tmp_path / "case.rgba", np.uint8).reshape(47, 61, 4)
            assert_close(rgba, api.restore_picture(changed, model=model))


# --- damaged and forged files -----------------------------------------------------------------------------------------


def answer(data: bytes, model) -> tuple[str, str] | images.Picture:
    """What the command's decoder makes of a file: a picture, or the class and sentence of its error."""
    try:
        return api.restore_picture(data, model=model, max_pixels=fuzz.MAX_PIXELS)
    except LoocError as error:
        return type(error).__name__, str(error)


def assert_same_answer(node: Node, weights: Path, model, data: bytes, folder: Path) -> str:
    """Gives both decoders a file; returns the class of the error, empty for a picture."""
    expected = answer(data, model)
    found = decoded(node, weights, data, folder, maxPixels=fuzz.MAX_PIXELS)
    if isinstance(expected, images.Picture):
        assert "error" not in found, found
        rgba = np.fromfile(folder / "case.rgba", np.uint8).reshape(*expected.rgb.shape[:2], 4)
        assert_close(rgba, expected)
        return ""
    kind, sentence = expected
    assert found.get("kind") == kind, (expected, found)
    # The page does not know which models are installed here.
    if kind != "ModelError":
        assert found["error"] == sentence
    return kind


@needs_node
def test_every_length_of_a_cut_file_and_every_flipped_byte(node, tmp_path):
    weights = GOLDEN / "looc-golden-details.safetensors"
    model = read_model(weights)
    alpha, *_ = fuzz.pictures_with_metadata()
    data = api.compress_picture(dataclasses.replace(alpha, icc=None), quality=70, model=model).data
    for length in range(0, len(data) - 1, 7):
        assert_same_answer(node, weights, model, data[:length], tmp_path)
    for place in range(0, len(data), 11):
        for changed in (data[:place] + bytes([data[place] ^ 0x81]) + data[place + 1 :], data + data[:place]):
            assert_same_answer(node, weights, model, changed, tmp_path)
    first = container.truncate(data, groups=1)
    assert assert_same_answer(node, weights, model, first, tmp_path) == "TruncatedError"


def mutated(count: int) -> list[bytes]:
    target = fuzz.build_target("decompress")
    return [target.mutate(random.Random(f"web:{number}")) for number in range(count)]


@needs_node
@pytest.mark.parametrize("count", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_mutated_files_get_the_same_answer(node, tmp_path, count):
    """Files of the fuzzer, most with forged checksums, so that damage reaches the code behind them."""
    weights = fuzz.TINY_WEIGHTS
    model = read_model(weights)
    kinds = [assert_same_answer(node, weights, model, data, tmp_path) for data in mutated(count)]
    assert len(set(kinds)) >= 5, kinds


@needs_node
def test_forged_headers_that_claim_a_lot(node, tmp_path):
    """Sizes at the limits are refused by the sentence of the command, before anything of their size is reserved."""
    data = (GOLDEN / "v1-70x50-q90.looc").read_bytes()
    for width, height in ((2**30 - 1, 2**30 - 1), (250_000_001, 1), (250_000_000, 1), (2**30, 1), (0, 5), (16_000, 16_000)):
        fields = fuzz.fields_of(data)
        fields.width, fields.height = width, height
        forged = fields.pack()
        with pytest.raises(FormatError) as refused:
            container.unpack(forged)
        found = decoded(node, GOLDEN / "looc-golden.safetensors", forged, tmp_path)
        assert (found["kind"], found["error"]) == (type(refused.value).__name__, str(refused.value))


@needs_node
def test_damaged_weights_are_refused(node, tmp_path):
    data = (GOLDEN / "v1-70x50-q90.looc").read_bytes()
    whole = (GOLDEN / "looc-golden.safetensors").read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:start])
    files = [b"", whole[:5], whole[: start // 2], whole[:-1000]]
    for tensor in ("core.codebook.frequencies", "core.prior.nets.0.1.entry.weight", "graph.prior.0.1"):
        place = start + header[tensor]["data_offsets"][0] + 9
        files.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for number, weights in enumerate(files):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(weights)
        found = decoded(node, path, data, tmp_path)
        assert found.get("kind") == "ModelError", found


@needs_node
@pytest.mark.slow
def test_a_photo_of_two_megapixels(node, tmp_path):
    """A photograph of the repository in mirror image, over several tiles and bands, with filter and, at 80, details."""
    part = np.asarray(Image.open(WEIGHTS / "looc-photo.golden.png").convert("RGB"))
    both = np.concatenate([part, part[:, ::-1]], 1)
    both = np.concatenate([both, both[::-1]], 0)
    whole = np.ascontiguousarray(np.tile(both, (7, 7, 1))[:1224, :1632])
    weights = WEIGHTS / "looc-photo.safetensors"
    for quality in (50, 80):
        assert_same(node, weights, api.compress(whole, quality=quality, model=read_model(weights)), tmp_path)


# --- the runtime ------------------------------------------------------------------------------------------------------


def test_the_vendored_runtime_is_the_one_that_was_recorded():
    assert vendor_onnxruntime_web.differences() == []
    assert "MIT License" in (vendor_onnxruntime_web.FOLDER / "LICENSE").read_text()


@needs_node
def test_the_runtime_uses_no_relaxed_instructions(node):
    """An engine that does not know relaxed SIMD takes the module: no result depends on whether the machine fuses products and sums."""
    found = node.ask(relaxed=True)
    if found["known"]:
        pytest.skip("this Node.js knows relaxed SIMD, so it cannot tell")
    assert not found["needed"]


# --- the worker in a browser ------------------------------------------------------------------------------------------

DECODE = """
const { createDecoder } = await import('/client.js');
globalThis.shared ??= createDecoder();
const bytes = await (await fetch(arguments[0])).arrayBuffer();
const stages = [], coarse = [];
const onProgress = (fraction, stage) => { if (stages.at(-1) !== stage) stages.push(stage); };
const text = (data) => { let all = ''; for (let at = 0; at < data.length; at += 8192) all += String.fromCharCode(...data.subarray(at, at + 8192)); return btoa(all); };
try {
  const made = await shared.decode(bytes, { onProgress, onCoarse: ({ width, height }) => coarse.push([width, height]) });
  return { width: made.width, height: made.height, data: text(made.data), level: made.header.level, stages, coarse, left: bytes.byteLength, isolated: crossOriginIsolated };
} catch (error) { return { name: error.constructor.name, kind: error.kind, error: error.message }; }
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The decoder as a web server has it, with two models and some files."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "web", folder, dirs_exist_ok=True)
    runtime = folder / "vendor" / "onnxruntime-web" / vendor_onnxruntime_web.WASM
    runtime.write_bytes(gzip.decompress(runtime.with_name(f"{runtime.name}.gz").read_bytes()))
    models = []
    for path in (WEIGHTS / "looc-photo.safetensors", GOLDEN / "looc-golden-details.safetensors"):
        os.link(path, folder / path.name) if os.stat(path).st_dev == os.stat(folder).st_dev else shutil.copy(path, folder)
        model = read_model(path)
        models.append({"name": model.name, "fingerprint": model.fingerprint.hex(), "url": path.name, "bytes": path.stat().st_size})
    (folder / "models.json").write_text(json.dumps(models))
    (folder / "blank.html").write_text("<!doctype html><title>blank</title><link rel=icon href=data:,>")
    shutil.copy(WEIGHTS / "looc-photo.golden.looc", folder / "photo.looc")
    shutil.copy(GOLDEN / "v1-150x101-q80-details.looc", folder / "details.looc")
    shutil.copy(GOLDEN / "v1-70x50-q90.looc", folder / "unknown.looc")
    (folder / "damaged.looc").write_bytes((GOLDEN / "v1-150x101-q80-details.looc").read_bytes()[:-1] + b"x")
    return folder


@needs_browser
@pytest.mark.parametrize("headers", [ISOLATION, None], ids=["threads", "one thread"])
def test_a_browser_gives_the_same_pixels(site, headers):
    with static_server(site, headers) as address, Browser() as browser:
        browser.open(f"{address}/blank.html")
        for name, weights in (("photo", WEIGHTS / "looc-photo.safetensors"), ("details", GOLDEN / "looc-golden-details.safetensors")):
            found = browser.run(DECODE, f"{name}.looc")
            assert "error" not in found, found
            data = (site / f"{name}.looc").read_bytes()
            picture = api.restore_picture(data, model=read_model(weights))
            rgba = np.frombuffer(base64.b64decode(found["data"]), np.uint8).reshape(picture.height, picture.width, 4)
            assert_close(rgba, picture)
            assert found["stages"] == ["weights", "codes", "pixels"] and found["coarse"] and found["isolated"] == (headers is not None)
            assert found["left"] == len(data), "the caller's bytes are gone"
        assert browser.console() == []


@needs_browser
def test_the_worker_refuses_stops_and_starts_again(site):
    with static_server(site, ISOLATION) as address, Browser() as browser:
        browser.open(f"{address}/blank.html")
        refused = browser.run(DECODE, "damaged.looc")
        assert refused == {"name": "LoocError", "kind": "DamagedError", "error": "the .looc file is damaged: its checksum does not match; get a fresh copy"}
        unknown = browser.run(DECODE, "unknown.looc")
        assert unknown["kind"] == "ModelError" and "4658b9d570b4437d" in unknown["error"]
        # One job stopped while it waits, one while it runs; the third is not harmed.
        outcome = browser.run("""
            const bytes = await (await fetch('details.looc')).arrayBuffer();
            const running = new AbortController(), waiting = new AbortController();
            const jobs = [shared.decode(bytes, { signal: running.signal, onProgress: () => running.abort() }),
                          shared.decode(bytes, { signal: waiting.signal }), shared.decode(bytes)];
            waiting.abort();
            return (await Promise.allSettled(jobs)).map((job) => job.reason ? [job.reason.constructor.name, job.reason.name] : job.value.width);
        """)
        assert outcome == [["LoocError", "AbortError"], ["LoocError", "AbortError"], 150]
        # A worker that dies takes its job with it, in one sentence; the next job has a new worker.
        outcome = browser.run("""
            const { createDecoder } = await import('/client.js');
            const bytes = await (await fetch('details.looc')).arrayBuffer();
            const Real = Worker;
            const made = [];
            globalThis.Worker = class extends Real { constructor(...given) { super(...given); made.push(this); } };
            const decoder = createDecoder();
            const first = decoder.decode(bytes, { onProgress: () => made[0].dispatchEvent(new ErrorEvent('error', { message: 'out of memory', cancelable: true })) });
            const jobs = await Promise.allSettled([first, decoder.decode(bytes)]);
            globalThis.Worker = Real;
            decoder.close();
            const closed = await decoder.decode(bytes).catch((error) => error.message);
            return [jobs[0].reason.constructor.name, jobs[0].reason.message, jobs[1].value?.width, made.length, closed];
        """)
        assert outcome == ["LoocError", "the decoder stopped (out of memory); try again, or use the looc command", 150, 2, "the decoder is closed"]


@needs_browser
def test_weights_are_fetched_once_and_checked(site, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    weights = tmp_path / "site" / "looc-golden-details.safetensors"
    away = tmp_path / weights.name
    with static_server(tmp_path / "site") as address, Browser() as browser:
        browser.open(f"{address}/blank.html")
        assert browser.run(DECODE, "details.looc")["width"] == 150
        weights.rename(away)
        browser.open(f"{address}/blank.html")
        assert browser.run(DECODE, "details.looc")["width"] == 150
        # What is damaged in the browser's cache is fetched anew, or said to be missing.
        browser.run("""
            const cache = await caches.open((await caches.keys())[0]);
            for (const key of await cache.keys()) await cache.put(key, new Response(new Uint8Array(1000)));
        """)
        browser.open(f"{address}/blank.html")
        missing = browser.run(DECODE, "details.looc")
        assert missing["kind"] == "ModelError" and missing["error"].endswith(f"{weights.name} is not there (status 404)")
        away.rename(weights)
        assert browser.run(DECODE, "details.looc")["width"] == 150


@needs_browser
@pytest.mark.slow
def test_the_speed_of_the_page_is_measured(tmp_path):
    golden = WEIGHTS / "looc-photo.golden.png"
    words = ("--image", golden, "--megapixels", "0.01", "--threads", "2", "--json", tmp_path / "speed.json")
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "web_speed.py"), *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert [(row["threads"], row["state"]) for row in rows] == [(threads, state) for threads in (1, 2) for state in ("command", "first", "again")]
    assert all(row["seconds"] > 0 and row["cpu_seconds"] > 0 for row in rows)
