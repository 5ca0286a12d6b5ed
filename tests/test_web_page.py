"""The page and the element in a real browser, on a plain web server: no headers, so no threads. Without a browser all is skipped."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, needs_browser, static_server
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from test_cli import photo

import looc_codec
from looc_codec import registry
from looc_codec.images.profiles import profile_of_code_points
from looc_codec.metrics import psnr_db
from looc_codec.webpage import write_page

pytestmark = needs_browser
ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "weights"
MODEL = ROOT / "tests" / "golden" / "looc-golden.safetensors"
"""A small model, so that pages are quick."""
WIDE = profile_of_code_points(12, 13, [])
"""The profile of Display P3."""
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'

READY = "document.querySelector('#viewer').dataset.stage === 'whole'"
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(`${event.violatedDirective} ${event.blockedURI}`));
window.failures = [];
addEventListener("error", (event) => event.target === window && failures.push(event.message));
addEventListener("unhandledrejection", (event) => failures.push(String(event.reason)));
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_page(folder, [*registry.shipped_models(), registry.read_entry(MODEL)])
    return folder


@pytest.fixture(scope="module")
def address(site):
    with static_server(site) as address:
        yield address


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def shared_browser(downloads):
    with Browser(downloads=downloads) as browser:
        browser.cdp("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        yield browser


@pytest.fixture
def browser(shared_browser, address):
    """The page, empty; at the end nothing may have gone wrong in it that no test asked for, and nothing been asked of other servers."""
    shared_browser.console()
    shared_browser.requests()
    shared_browser.open(f"{address}/")
    shared_browser.wait_for("!!window.loocDecode")
    yield shared_browser
    assert shared_browser.run("return [violations, failures]") == [[], []]
    assert shared_browser.console() == []
    assert {url for url in shared_browser.requests() if not url.startswith((address, "blob:", "data:"))} == set()


def packed(folder: Path, name: str, image: Image.Image, **options) -> Path:
    path = folder / name
    path.write_bytes(looc_codec.compress(image, **{"model": MODEL, "quality": 60} | options))
    return path


def rgba_of(path: Path, model: Path | None = None) -> np.ndarray:
    return np.asarray(looc_codec.decompress(path, model=model).convert("RGBA"))


def page_pixels(browser: Browser, path: Path) -> np.ndarray:
    """What the page's function for scripts makes of a file: (height, width, 4)."""
    width, height, data = browser.run(
        "return loocDecode(Uint8Array.from(arguments[0]).buffer).then(({width, height, data}) => [width, height, Array.from(data)])",
        list(path.read_bytes()),
    )
    return np.array(data, np.uint8).reshape(height, width, 4)


def open_file(browser: Browser, path: Path) -> None:
    browser.choose_files("#files", path)
    browser.wait_for(f"document.querySelector('#name').textContent === arguments[0] && {READY}", path.name)


def text(browser: Browser, selector: str) -> str:
    return browser.run("return document.querySelector(arguments[0]).textContent", selector)


def is_shown(browser: Browser, selector: str) -> bool:
    return browser.run("return document.querySelector(arguments[0]).checkVisibility()", selector)


def information(browser: Browser) -> dict[str, str]:
    return browser.run("return Object.fromEntries([...document.querySelectorAll('#information dt')].map((row) => [row.textContent, row.nextSibling.textContent]))")


def assert_alike(first: np.ndarray, second: np.ndarray) -> None:
    """Within one level, as everywhere (docs/EXACTNESS.md)."""
    assert first.shape == second.shape
    assert np.abs(first.astype(int) - second.astype(int)).max() <= 1


@pytest.mark.parametrize("model", ["photo", "photo-psnr"])
def test_the_golden_files_of_both_models_open(browser, model):
    path = WEIGHTS / f"looc-{model}.golden.looc"
    open_file(browser, path)
    assert_alike(page_pixels(browser, path), rgba_of(path))
    browser.press("i")
    rows = information(browser)
    facts = looc_codec.info(path)
    assert rows["Model"] == model
    assert rows["Quality level"] == str(facts.level)
    assert rows["Size"].startswith(f"{facts.width} × {facts.height} pixels")
    assert f"{facts.bpp:.3f} bits per pixel" in rows["File"]
    assert browser.run("return document.title") == f"{path.name} – looc"


def test_the_information_tells_what_the_camera_wrote(browser, tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Makers of cameras", "Model 1"
    exif.get_ifd(0x8769).update({0x829A: IFDRational(1, 125), 0x829D: IFDRational(56, 10), 0x8827: 200, 0x9003: "2023:07:04 18:30:11", 0x920A: IFDRational(35, 1)})
    exif.get_ifd(0x8825)[1] = "N"
    image = photo()
    image.info |= {"exif": exif.tobytes(), "icc_profile": WIDE}
    open_file(browser, packed(tmp_path, "photo.looc", image))
    browser.press("i")
    rows = information(browser)
    assert rows["Taken"] == "2023-07-04 18:30"
    assert rows["Camera"] == "Makers of cameras Model 1"
    assert rows["Exposure"] == "1/125 s, f/5.6, ISO 200, 35 mm"
    assert "where it was taken" in rows["Place"]
    assert "EXIF" in rows["Metadata"] and "colour profile" in rows["Metadata"]
    assert rows["Colours"].startswith("colour, ") and "sRGB" not in rows["Colours"]


def test_grey_and_transparent_pictures(browser, tmp_path):
    grey = packed(tmp_path, "grey.looc", photo().convert("L"))
    open_file(browser, grey)
    assert_alike(page_pixels(browser, grey), rgba_of(grey, MODEL))
    image = photo()
    image.putalpha(Image.fromarray(np.tile(np.arange(70, dtype=np.uint8) * 3, (50, 1))))
    clear = packed(tmp_path, "clear.looc", image)
    open_file(browser, clear)
    assert_alike(page_pixels(browser, clear), rgba_of(clear, MODEL))
    browser.press("s")
    assert browser.run("return document.querySelector('[data-kind=jpeg]').disabled")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_saved_files_keep_pixels_profile_and_metadata(browser, downloads, tmp_path, mode):
    exif = Image.Exif()
    exif[0x010F] = "Makers of cameras"
    image = photo().convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.info |= {"exif": exif.tobytes(), "xmp": XMP} | ({} if mode == "L" else {"icc_profile": WIDE})
    path = packed(tmp_path, f"{mode}.looc", image)
    expected = looc_codec.decompress(path, model=MODEL)
    open_file(browser, path)
    pixels = page_pixels(browser, path)
    for kind, suffix in (("png", "png"), ("webp", "webp"), *([("jpeg", "jpg")] if mode != "RGBA" else [])):
        browser.press("s")
        browser.click(f"[data-kind={kind}]")
        saved = downloads / f"{mode}.{suffix}"
        for _ in range(400):
            if saved.exists():
                break
            time.sleep(0.05)
        with Image.open(saved) as back:
            back.load()
            assert back.format == kind.upper()
            assert back.info.get("icc_profile") == expected.info.get("icc_profile")
            assert back.getexif()[0x010F] == "Makers of cameras"
            assert (back.info.get("xmp") or back.info.get("XML:com.adobe.xmp", "").encode()) == XMP
            difference = np.abs(np.asarray(back.convert("RGBA")).astype(int) - pixels)
            if kind == "png":
                assert back.mode == mode
                assert difference.max() == 0
            elif kind == "webp":
                # A canvas keeps colours times their transparency, so what is nearly transparent is not exact.
                assert difference[pixels[..., 3] > 127].max() <= 1
            else:
                assert difference.mean() < 4
        saved.unlink()


def test_a_comparison_gives_the_psnr_of_looc(browser, tmp_path):
    image = photo(150, 101)
    image.save(tmp_path / "original.png")
    image.save(tmp_path / "other.webp", lossless=True)
    path = packed(tmp_path, "photo.looc", image)
    open_file(browser, path)
    browser.drop_files("#stage", tmp_path / "original.png")
    shown = browser.wait_for("document.querySelector('#psnr').textContent")
    assert shown == f"PSNR {psnr_db(np.asarray(image), page_pixels(browser, path)[..., :3]):.2f} dB"
    assert float(shown.split()[1]) == pytest.approx(psnr_db(np.asarray(image), rgba_of(path, MODEL)[..., :3]), abs=0.05)
    browser.press("Escape")
    assert not is_shown(browser, "#comparison")
    browser.choose_files("#reference", tmp_path / "other.webp")
    assert browser.wait_for("document.querySelector('#psnr').textContent") == shown


def test_pictures_with_the_same_profile_are_compared_by_their_numbers(browser, tmp_path):
    image = photo()
    image.info["icc_profile"] = WIDE
    path = packed(tmp_path, "wide.looc", image)
    open_file(browser, path)
    expected = psnr_db(np.asarray(image), page_pixels(browser, path)[..., :3])
    for name, options in (("wide.png", {}), ("wide.webp", {"lossless": True})):
        image.save(tmp_path / name, icc_profile=image.info["icc_profile"], **options)
        browser.drop_files("#stage", tmp_path / name)
        browser.wait_for("document.querySelector('#psnr').textContent && document.querySelector('.looc-viewer-label').textContent === arguments[0]", name)
        assert text(browser, "#psnr") == f"PSNR {expected:.2f} dB"


def test_a_dropped_original_goes_to_the_file_of_its_name(browser, tmp_path):
    paths = [packed(tmp_path, f"{number}.looc", photo(seed=number)) for number in range(2)]
    photo(seed=1).save(tmp_path / "1.png")
    browser.drop_files("body", *paths, tmp_path / "1.png")
    assert browser.wait_for("document.querySelector('#psnr').textContent").startswith("PSNR ")
    assert text(browser, "#name") == "1.looc"


def test_equal_pictures_are_said_to_be_equal(browser, tmp_path):
    path = packed(tmp_path, "photo.looc", photo())
    open_file(browser, path)
    browser.choose_files("#reference", path)
    assert browser.wait_for("document.querySelector('#psnr').textContent") == "equal in every pixel"


@pytest.mark.parametrize(
    ("name", "words"),
    [("small.png", "small.png has 60 × 50 pixels and photo.looc 70 × 50; only pictures of equal size can be compared"),
     ("words.png", "words.png is not a picture that this browser can read")],
)  # fmt: skip
def test_what_cannot_be_compared_is_told(browser, tmp_path, name, words):
    open_file(browser, packed(tmp_path, "photo.looc", photo()))
    photo(60).save(tmp_path / "small.png")
    (tmp_path / "words.png").write_text("not a picture")
    browser.drop_files("#stage", tmp_path / name)
    assert browser.wait_for("document.querySelector('#notice span').textContent") == words
    assert not is_shown(browser, "#comparison")
    browser.press("Escape")
    assert not is_shown(browser, "#notice")


def viewer_pixel(browser: Browser, x: float, y: float) -> list[int]:
    """The colour on the viewer's canvas, at fractions of its width and height."""
    width, height = browser.run("const canvas = document.querySelector('#viewer canvas'); return [canvas.width, canvas.height]")
    return viewer_pixels(browser, int(x * width), int(y * height), 1, 1)[0, 0].tolist()


def viewer_pixels(browser: Browser, left: int, top: int, width: int, height: int, space: str = "srgb") -> np.ndarray:
    """A part of the viewer's canvas, in its own pixels: (height, width, 4)."""
    data = browser.run(
        "const [left, top, width, height, colorSpace] = arguments; const copy = new OffscreenCanvas(width, height).getContext('2d', {colorSpace});"
        "copy.drawImage(document.querySelector('#viewer canvas'), -left, -top);"
        "return Array.from(copy.getImageData(0, 0, width, height, {colorSpace}).data)",
        left, top, width, height, space,
    )  # fmt: skip
    return np.array(data, np.uint8).reshape(height, width, 4)


def middle(browser: Browser, width: int, height: int) -> tuple[int, int]:
    """Where a picture of that size begins that is shown in the middle of the viewer."""
    return tuple(browser.run(
        "const canvas = document.querySelector('#viewer canvas'); return [Math.round((canvas.width - arguments[0]) / 2), Math.round((canvas.height - arguments[1]) / 2)]",
        width, height,
    ))  # fmt: skip


def settle(browser: Browser) -> None:
    """Waits until the viewer has drawn."""
    browser.run("return new Promise((resolve) => setTimeout(resolve, 250))")


def test_divider_flicker_and_difference(browser, tmp_path):
    dark, light = Image.new("RGB", (80, 60), (40, 40, 40)), Image.new("RGB", (80, 60), (50, 40, 40))
    path = packed(tmp_path, "dark.looc", dark, quality=95)
    light.save(tmp_path / "light.png")
    open_file(browser, path)
    browser.press("0")
    browser.drop_files("#stage", tmp_path / "light.png")
    browser.wait_for("document.querySelector('#psnr').textContent")
    settle(browser)
    here = viewer_pixel(browser, 0.6, 0.5)
    assert viewer_pixel(browser, 0.4, 0.5) == [50, 40, 40, 255]
    assert here != [50, 40, 40, 255]
    slider = "document.querySelector('[role=slider]')"
    browser.run(f"{slider}.focus()")
    browser.press("End")
    settle(browser)
    assert browser.run(f"return {slider}.ariaValueNow ?? {slider}.getAttribute('aria-valuenow')") == "100"
    assert viewer_pixel(browser, 0.6, 0.5) == [50, 40, 40, 255]
    browser.press("Home", "Right", "Right")
    settle(browser)
    assert browser.run(f"return {slider}.getAttribute('aria-valuenow')") == "2"
    assert viewer_pixel(browser, 0.4, 0.5) == here
    box = browser.run(f"const box = {slider}.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]")
    browser.drag(box, (box[0] + 200, box[1]))
    settle(browser)
    assert int(browser.run(f"return {slider}.getAttribute('aria-valuenow')")) > 10
    browser.press("f")
    settle(browser)
    assert text(browser, ".looc-viewer-label") == "light.png"
    assert [viewer_pixel(browser, x, 0.5)[0] for x in (0.4, 0.6)] == [50, 50]
    browser.press("f")
    settle(browser)
    assert viewer_pixel(browser, 0.4, 0.5) == here
    browser.press("d")
    settle(browser)
    expected = [min(255, 8 * abs(first - second)) for first, second in zip((50, 40, 40), here[:3], strict=True)]
    assert viewer_pixel(browser, 0.5, 0.5)[:3] == expected
    assert browser.run("return document.querySelector('[data-mode=difference]').ariaPressed") == "true"


@pytest.mark.parametrize("gamut", ["srgb", "p3"])
def test_colours_of_wide_gamut_files_are_true(browser, address, tmp_path, gamut):
    image = Image.new("RGB", (64, 64), (230, 30, 30))
    image.info["icc_profile"] = WIDE
    path = packed(tmp_path, "red.looc", image, quality=95)
    browser.cdp("Emulation.setEmulatedMedia", features=[{"name": "color-gamut", "value": gamut}])
    try:
        browser.open(f"{address}/")
        browser.wait_for("!!window.loocDecode")
        open_file(browser, path)
        settle(browser)
        numbers = page_pixels(browser, path)[..., :3]
        place = middle(browser, 64, 64)
        if gamut == "p3":
            # Out of sRGB, so only a canvas of that gamut has it.
            shown, expected = viewer_pixels(browser, *place, 64, 64, "display-p3")[..., :3], numbers
        else:
            linear = np.where(numbers > 10, ((numbers / 255 + 0.055) / 1.055) ** 2.4, numbers / 255 / 12.92)
            # From Display P3 to sRGB, both of white D65.
            srgb = np.clip(linear @ np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]]).T, 0, 1)
            shown, expected = viewer_pixels(browser, *place, 64, 64)[..., :3], 255 * np.where(srgb > 0.0031, 1.055 * srgb ** (1 / 2.4) - 0.055, 12.92 * srgb)
        assert np.abs(shown - np.asarray(expected, float)).max() <= 3
    finally:
        browser.cdp("Emulation.setEmulatedMedia", features=[])


def sealed(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "big")


def test_bad_files_give_the_sentence_of_the_command(browser, tmp_path):
    good = packed(tmp_path, "good.looc", photo()).read_bytes()
    cases = {"cut.looc": good[: len(good) // 2], "changed.looc": good[:-30] + bytes([good[-30] ^ 1]) + good[-29:], "words.looc": b"words", "empty.looc": b"",
             "stranger.looc": sealed(good[:-4].replace(registry.read_entry(MODEL).fingerprint, b"\0" * 8))}  # fmt: skip
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
    browser.drop_files("#stage", *(tmp_path / name for name in cases), tmp_path / "good.looc")
    for number, (name, data) in enumerate(cases.items(), 1):
        browser.click(f"#strip li:nth-child({number}) button")
        browser.wait_for("document.querySelector('#problem-name').textContent === arguments[0] && !document.querySelector('#problem').hidden", name)
        shown = text(browser, "#problem-words")
        if name == "stranger.looc":
            assert f"needs the model with fingerprint {'0' * 16}, which this page does not have" in shown
            continue
        with pytest.raises(looc_codec.FormatError) as error:
            looc_codec.decompress(data, model=MODEL)
        assert shown.lower() == str(error.value).lower()
    browser.press("PageDown")
    browser.wait_for(READY)
    assert not is_shown(browser, "#problem")
    # An error is not the end of the page, and each file has its own.
    assert browser.run("return document.querySelectorAll('#strip .failed').length") == len(cases)


def test_many_files_are_a_strip_of_small_pictures(browser, tmp_path):
    paths = [packed(tmp_path, f"{number}.looc", photo(seed=number)) for number in range(4)]
    browser.drop_files("body", *paths)
    browser.wait_for("document.querySelectorAll('#strip canvas').length === 4")
    assert text(browser, "#name") == "0.looc"
    browser.press("PageDown", "PageDown")
    browser.wait_for(f"document.querySelector('#name').textContent === '2.looc' && {READY}")
    assert browser.run("return [...document.querySelectorAll('#strip button')].map((button) => button.getAttribute('aria-current'))") == ["false", "false", "true", "false"]
    browser.press("PageUp")
    browser.wait_for("document.querySelector('#name').textContent === '1.looc'")


def test_decoding_can_be_cancelled_and_taken_up_again(browser, tmp_path):
    path = packed(tmp_path, "large.looc", photo(256, 256), model="photo")
    browser.choose_files("#files", path)
    browser.wait_for("!document.querySelector('#progress').hidden")
    browser.press("Escape")
    browser.wait_for("document.querySelector('#progress-words').textContent === 'Cancelled'")
    assert not browser.run(f"return {READY}")
    browser.click("#again")
    browser.wait_for(READY)
    assert not is_shown(browser, "#progress")


def test_zoom_by_keys_and_pointer(browser, tmp_path):
    open_file(browser, packed(tmp_path, "photo.looc", photo()))
    settle(browser)
    assert text(browser, "#zoom-value") == "100 %"
    browser.press("+")
    settle(browser)
    assert text(browser, "#zoom-value") == "150 %"
    browser.press("-", "-")
    settle(browser)
    assert text(browser, "#zoom-value") == "67 %"
    browser.press("0")
    settle(browser)
    width, height = browser.run("const canvas = document.querySelector('#viewer canvas'); return [canvas.width, canvas.height]")
    assert text(browser, "#zoom-value") == f"{round(100 * min(width / 70, height / 50))} %"
    browser.press("1")
    settle(browser)
    assert text(browser, "#zoom-value") == "100 %"
    box = browser.run("const {x, y, width, height} = document.querySelector('#viewer').getBoundingClientRect(); return [x + width / 2, y + height / 2]")
    browser.wheel(box, -240)
    settle(browser)
    assert int(text(browser, "#zoom-value").split()[0]) > 120
    # At 1:1 a pixel of the picture is one of the screen, and above it a square.
    browser.press("1", "+", "+")
    settle(browser)
    pixels = page_pixels(browser, tmp_path / "photo.looc")
    shown = viewer_pixels(browser, *middle(browser, 140, 100), 140, 100)
    assert np.array_equal(shown, pixels.repeat(2, 0).repeat(2, 1))


def test_two_fingers_zoom_and_one_moves(browser, tmp_path):
    open_file(browser, packed(tmp_path, "photo.looc", photo(200, 100)))
    settle(browser)
    left, top, width, height = browser.run("const box = document.querySelector('#viewer').getBoundingClientRect(); return [box.x, box.y, box.width, box.height]")
    x, y = round(left + width / 2), round(top + height / 2)

    def touch(kind: str, *places: int) -> None:
        browser.cdp("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x + place, "y": y, "id": number} for number, place in enumerate(places)])

    touch("touchStart", -50, 50)
    for spread in range(60, 501, 40):
        touch("touchMove", -spread, spread)
    touch("touchEnd")
    settle(browser)
    assert int(text(browser, "#zoom-value").split()[0]) == pytest.approx(1000, rel=0.1)
    # The picture is now wider than the window.
    whole = viewer_pixels(browser, 0, 0, round(width), round(height))
    touch("touchStart", 0)
    touch("touchMove", 40)
    touch("touchMove", 80)
    touch("touchEnd")
    settle(browser)
    moved = viewer_pixels(browser, 0, 0, round(width), round(height))
    assert np.array_equal(moved[:, 80:], whole[:, :-80])


def test_one_to_one_respects_the_pixels_of_the_screen(address, tmp_path):
    path = packed(tmp_path, "photo.looc", photo(200, 100))
    with Browser(scale=2) as browser:
        browser.open(f"{address}/?open=photo.looc")
        browser.wait_for("!!window.loocDecode")
        open_file(browser, path)
        settle(browser)
        # As large as an <img> would be, at first.
        assert text(browser, "#zoom-value") == "200 %"
        browser.click("#actual")
        settle(browser)
        assert text(browser, "#zoom-value") == "100 %"
        assert browser.run("const canvas = document.querySelector('#viewer canvas'); return canvas.width === 2 * canvas.clientWidth")


def test_help_information_and_theme_by_keys(browser, tmp_path):
    open_file(browser, packed(tmp_path, "photo.looc", photo()))
    browser.press("?")
    assert browser.run("return document.querySelector('#keys').open")
    browser.press("Escape")
    assert not browser.run("return document.querySelector('#keys').open")
    browser.press("i")
    assert is_shown(browser, "#information")
    assert browser.run("return document.querySelector('#info').ariaExpanded") == "true"
    browser.press("i")
    assert not is_shown(browser, "#information")
    before = browser.run("return getComputedStyle(document.body).backgroundColor")
    browser.click("#theme")
    assert browser.run("return getComputedStyle(document.body).backgroundColor") != before
    browser.run("localStorage.clear()")


def test_everything_that_can_be_pressed_has_a_name(browser, tmp_path):
    open_file(browser, packed(tmp_path, "photo.looc", photo()))
    nodes = browser.cdp("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "link", "combobox", "slider", "image", "progressbar", "dialog", "img")
    seen = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert len(seen) > 8
    assert [role for role, name in seen if not name] == []
    assert ("image", "photo.looc") in seen or ("img", "photo.looc") in seen
    assert browser.wait_for("document.querySelector('#status').textContent") == "photo.looc is shown, 70 by 50 pixels"


def test_a_phone_shows_everything_within_its_width(address, tmp_path):
    photo(300, 200).save(tmp_path / "original.png")
    paths = [packed(tmp_path, f"{number}.looc", photo(300, 200)) for number in range(2)]
    with Browser(390, 844, scale=2) as browser:
        browser.open(f"{address}/")
        browser.wait_for("!!window.loocDecode")
        browser.drop_files("body", *paths)
        browser.wait_for(READY)
        browser.drop_files("body", tmp_path / "original.png")
        browser.wait_for("document.querySelector('#psnr').textContent")
        browser.press("i", "d")
        settle(browser)
        outside = browser.run(
            "return [...document.querySelectorAll('body *')].filter((one) => one.checkVisibility() && !one.closest('#strip, .looc-viewer, .unseen, svg')"
            " && one.tagName !== 'SPAN' && (one.getBoundingClientRect().right > innerWidth + 0.5 || one.getBoundingClientRect().left < -0.5)).map((one) => one.outerHTML)"
        )
        assert outside == []
        assert browser.run("return document.documentElement.scrollWidth") == 390


def test_the_policy_keeps_the_page_from_other_servers(browser, address):
    other = address.replace("127.0.0.1", "localhost")
    assert browser.run(f"return fetch('{other}/models.json').then(() => 'fetched', () => 'refused')") == "refused"
    assert browser.run("return violations.splice(0)") == [f"connect-src {other}/models.json"]
    assert len(browser.console()) >= 1


def test_files_named_by_the_address_open(browser, address, site, tmp_path):
    shutil.copy(packed(tmp_path, "photo.looc", photo()), site / "a photo.looc")
    try:
        browser.open(f"{address}/?open=a%20photo.looc")
        browser.wait_for(READY)
        assert text(browser, "#name") == "a photo.looc"
    finally:
        (site / "a photo.looc").unlink()


ELEMENTS = """<!doctype html><title>elements</title><link rel="icon" href="data:,">
<script>log = []; for (const type of ["load", "error"]) document.addEventListener(type, (event) => event.target.id && log.push([type, event.target.id, event.message ?? null]), true)</script>
<script type="module" src="../looc.js"></script>
<looc-img id="plain" src="a.looc" alt="A wave"></looc-img><looc-img id="narrow" src="a.looc" alt="" width="35"></looc-img>
<looc-img id="broken" src="words.looc" alt="Words"><b slot="error">no picture</b></looc-img>
<div style="height: 4000px"></div><looc-img id="far" src="b.looc" alt="Far away"></looc-img>
<looc-img id="eager" src="a.looc" loading="eager"></looc-img>"""


def test_the_element(browser, address, site, tmp_path):
    folder = site / "elsewhere"
    folder.mkdir()
    (folder / "index.html").write_text(ELEMENTS)
    image = photo()
    image.info["exif"] = Image.Exif().tobytes() + b"\0" * 9000  # more than the first bytes that are asked for
    shutil.copy(packed(tmp_path, "a.looc", photo()), folder)
    shutil.copy(packed(tmp_path, "b.looc", image, model=MODEL), folder)
    (folder / "words.looc").write_text("words")
    try:
        browser.open(f"{address}/elsewhere/")
        browser.wait_for("['plain', 'narrow', 'broken', 'eager'].every((id) => document.getElementById(id)?.complete) && document.getElementById('far').naturalWidth")
        sizes = browser.run("return [...document.querySelectorAll('looc-img')].map((one) => [one.id, one.offsetWidth, one.offsetHeight, one.naturalWidth])")
        assert [size for size in sizes if size[0] != "broken"] == [["plain", 70, 50, 70], ["narrow", 35, 25, 70], ["far", 70, 50, 70], ["eager", 70, 50, 70]]
        log = browser.run("return log")
        assert sorted(log) == [["error", "broken", log[[entry[0] for entry in log].index("error")][2]], ["load", "eager", None], ["load", "narrow", None], ["load", "plain", None]]
        assert "not a .looc file" in str(log)
        assert browser.run("return document.querySelector('#broken b').checkVisibility()")
        assert browser.run("const box = plain.shadowRoot.querySelector('canvas'); return [box.getAttribute('role'), box.ariaLabel, box.part.value, box.width, box.height]") == ["img", "A wave", "picture", 70, 50]
        assert not browser.run("return far.complete")
        browser.run("far.scrollIntoView()")
        browser.wait_for("far.complete")
        # Another file in its place.
        browser.run("log = []; plain.src = 'b.looc'; scrollTo(0, 0)")
        browser.wait_for("log.length && plain.complete")
        assert browser.run("return log") == [["load", "plain", None]]
    finally:
        shutil.rmtree(folder)


def run_view(*arguments: object) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LOOC_MODELS": str(MODEL.parent)}
    return subprocess.Popen(
        [sys.executable, "-m", "looc_codec", "view", "--no-browser", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        # A shell has its background jobs ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_looc_view_shows_the_named_files(shared_browser, tmp_path):
    first = packed(tmp_path, "first photo.looc", photo())
    (tmp_path / "second.looc").write_bytes(b"words")
    process = run_view(first, tmp_path / "second.looc")
    try:
        url = process.stdout.readline().strip()
        shared_browser.console()
        shared_browser.requests()
        shared_browser.open(url)
        shared_browser.wait_for(READY)
        assert shared_browser.run("return crossOriginIsolated")
        assert text(shared_browser, "#name") == "first photo.looc"
        assert_alike(page_pixels(shared_browser, first), rgba_of(first, MODEL))
        assert shared_browser.run("return [violations, failures]") == [[], []]
        assert shared_browser.console() == []
        shared_browser.press("PageDown")
        shared_browser.wait_for("!document.querySelector('#problem').hidden")
        assert "not a .looc file" in text(shared_browser, "#problem-words")
        origin = re.match(r"http://127\.0\.0\.1:\d+/", url)[0]
        assert {asked for asked in shared_browser.requests() if not asked.startswith((origin, "blob:"))} == set()
        # The next run has another port: what this one kept would only fill the disk.
        assert shared_browser.run("return caches.keys().then((names) => Promise.all(names.map((name) => caches.open(name).then((one) => one.keys())))).then((all) => all.flat().length)") == 0
        shared_browser.open("about:blank")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
