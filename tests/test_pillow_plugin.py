"""The Pillow plugin: opening reads the header only, loading decodes, saving compresses, errors are Pillow's own."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, UnidentifiedImageError

import looc_codec.pillow_plugin  # noqa: F401 - registers the format
from looc_codec import api, images
from looc_codec.format.container import Container, pack

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def photo(width: int = 70, height: int = 50, seed: int = 1) -> Image.Image:
    generator = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channels = [128 + 80 * np.sin(x / 17 + k) + 40 * np.cos(y / 11 - k) + generator.normal(0, 4, (height, width)) for k in range(3)]
    return Image.fromarray(np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8))


def tagged_exif(orientation: int | None = None) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    if orientation is not None:
        exif[0x0112] = orientation
    return exif


@pytest.fixture(autouse=True)
def tiny_installed(tiny_model_file, monkeypatch) -> str:
    """Installs the tiny model, so that files find it by fingerprint."""
    monkeypatch.setenv("LOOC_MODELS", str(Path(tiny_model_file).parent))
    return str(tiny_model_file)


@pytest.fixture
def model(tiny_installed):
    """The installed model: as stored, in half precision, unlike the one that it was saved from."""
    return api.load_model(tiny_installed)


@pytest.fixture
def data(model) -> bytes:
    return api.compress(photo(), quality=40, model=model)


# --- opening and loading -----------------------------------------------------------------------------------------------


def test_open_shows_what_the_header_says(data, model, tmp_path):
    path = tmp_path / "a.looc"
    path.write_bytes(data)
    with Image.open(path) as image:
        assert (image.format, image.size, image.mode) == ("LOOC", (70, 50), "RGB")
        assert image.info == {"quality": 40, "level": 40, "model_fingerprint": model.fingerprint.hex()}
        assert image.get_format_mimetype() == "image/x-looc"


def test_pixels_are_those_of_the_decoder(data, model):
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image), np.asarray(api.decompress(data, model=model)))


def test_open_reads_the_header_only():
    class Counting(io.BytesIO):
        count = 0

        def read(self, size=-1):
            part = super().read(size)
            self.count += len(part)
            return part

    # A payload that is not there in full, of a model that nobody has: nothing of that matters before loading.
    file = Counting(pack(Container(4000, 3000, 50, b"\x07" * 8, (bytes(1_000_000),), 1)))
    image = Image.open(file)
    assert image.size == (4000, 3000)
    assert file.count < 10_000


def test_the_codec_waits_until_pixels_are_needed(data, tmp_path):
    path = tmp_path / "a.looc"
    path.write_bytes(data)
    code = (
        "import sys; from PIL import Image; import looc_codec.pillow_plugin\n"
        f"image = Image.open({str(path)!r}); image.info, image.size, image.getexif()\n"
        "assert 'onnxruntime' not in sys.modules and 'constriction' not in sys.modules\n"
        "image.load()\nassert 'onnxruntime' in sys.modules and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_file_objects_are_left_open_and_paths_closed(data, tmp_path):
    path = tmp_path / "a.looc"
    path.write_bytes(data)
    with open(path, "rb") as file:
        image = Image.open(file)
        image.load()
        assert not file.closed
    image = Image.open(path)
    opened = image.fp
    image.load()
    assert opened.closed
    image.load()
    assert image.copy().size == (70, 50)


def test_loading_after_closing_is_refused(data):
    image = Image.open(io.BytesIO(data))
    image.close()
    with pytest.raises(ValueError, match="closed"):
        image.load()


def test_many_threads(data):
    results = []

    def load():
        with Image.open(io.BytesIO(data)) as image:
            results.append(np.asarray(image).tobytes())

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len(set(results)) == 1


# --- saving ------------------------------------------------------------------------------------------------------------


def test_save_by_extension_and_by_format(tiny_installed, model, tmp_path):
    path = tmp_path / "a.looc"
    photo().save(path, quality=33, model=tiny_installed)
    assert path.read_bytes() == api.compress(photo(), quality=33, model=model)
    stream = io.BytesIO()
    photo().save(stream, "LOOC", quality=33, model=tiny_installed)
    assert stream.getvalue() == path.read_bytes()
    stream = io.BytesIO()
    photo().save(stream, "LOOC", model=tiny_installed)
    assert stream.getvalue() == api.compress(photo(), quality=75, model=model)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_is_saved(mode, tiny_installed):
    stream = io.BytesIO()
    image = photo().convert("L").convert(mode) if mode == "I;16" else photo().convert(mode)
    image.save(stream, "LOOC", model=tiny_installed)
    with Image.open(stream) as back:
        assert back.size == (70, 50)
        back.load()


def test_transparency_is_kept_exactly(tiny_installed):
    image = photo().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    stream = io.BytesIO()
    image.save(stream, "LOOC", model=tiny_installed)
    with Image.open(stream) as back:
        assert back.mode == "RGBA"
        assert np.array_equal(np.asarray(back.getchannel("A")), np.asarray(image.getchannel("A")))


def test_metadata_travels_and_is_there_on_open(tiny_installed):
    image = photo()
    image.info.update(icc_profile=ICC, exif=tagged_exif().tobytes(), xmp=b"<x:xmpmeta/>")
    stream = io.BytesIO()
    image.save(stream, "LOOC", model=tiny_installed)
    back = Image.open(stream)
    assert back.info["icc_profile"] == ICC and back.info["xmp"] == b"<x:xmpmeta/>"
    assert back.getexif()[0x010E] == "a description"


def test_large_metadata_is_found(tiny_installed):
    image = photo()
    exif = b"Exif\0\0II*\0" + bytes(50_000)
    stream = io.BytesIO()
    image.save(stream, "LOOC", model=tiny_installed, exif=exif, icc_profile=ICC)
    back = Image.open(stream)
    assert (back.info["exif"], back.info["icc_profile"]) == (exif, ICC)


def test_options_replace_and_drop_metadata(tiny_installed):
    image = photo()
    image.info.update(icc_profile=ICC, exif=tagged_exif().tobytes(), xmp=b"<x:xmpmeta/>")
    stream = io.BytesIO()
    image.save(stream, "LOOC", model=tiny_installed, icc_profile=None, exif=b"", xmp=b"<other/>")
    info = Image.open(stream).info
    assert set(info) == {"quality", "level", "model_fingerprint", "xmp"} and info["xmp"] == b"<other/>"
    assert image.info["icc_profile"] == ICC, "the image itself is left as it is"


def test_given_orientation_is_applied_once(tiny_installed):
    stream = io.BytesIO()
    photo().save(stream, "LOOC", model=tiny_installed, exif=tagged_exif(6))
    back = Image.open(stream)
    assert back.size == (50, 70)
    assert back.getexif()[0x0112] == 1


def test_tiff_keeps_its_description_beside_another_profile(tiny_installed):
    source, stream = io.BytesIO(), io.BytesIO()
    photo().save(source, "TIFF", exif=tagged_exif())
    with Image.open(source) as image:
        image.save(stream, "LOOC", model=tiny_installed, icc_profile=ICC)
    back = Image.open(stream)
    assert back.getexif()[0x010E] == "a description" and back.info["icc_profile"] == ICC


@pytest.mark.parametrize("quality", [0, 101, 50.5, "high"])
def test_wrong_quality_is_a_value_error_and_leaves_no_file(quality, tiny_installed, tmp_path):
    path = tmp_path / "a.looc"
    with pytest.raises(ValueError, match="quality"):
        photo().save(path, quality=quality, model=tiny_installed)
    assert not path.exists()


def test_missing_model_is_an_os_error(tmp_path):
    path = tmp_path / "a.looc"
    with pytest.raises(OSError, match="nonsense"):
        photo().save(path, model="nonsense")
    assert not path.exists()


# --- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"nonsense, but long enough for every reader to look at it", b"\x8cLX" + bytes(60)])
def test_foreign_files_are_not_identified(content):
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(content))


@pytest.mark.parametrize("keep", [4, 8, 15, 20])
def test_a_header_cut_short_is_an_os_error(data, keep):
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(data[:keep]))


def test_a_newer_format_version_is_an_os_error(data):
    with pytest.raises(OSError, match="version"):
        Image.open(io.BytesIO(data[:3] + b"\xf5" + data[4:]))


@pytest.mark.parametrize("damage", ["cut", "flip", "append"])
def test_damage_is_an_os_error_on_load_and_verify(data, damage):
    damaged = {"cut": data[:-5], "flip": data[:-20] + bytes([data[-20] ^ 1]) + data[-19:], "append": data + b"more"}[damage]
    image = Image.open(io.BytesIO(damaged))
    for _ in range(2):
        with pytest.raises(OSError, match=r"\.looc file"):
            image.load()
    with pytest.raises(OSError, match=r"\.looc file"):
        Image.open(io.BytesIO(damaged)).verify()


def test_verify_accepts_a_whole_file(data):
    Image.open(io.BytesIO(data)).verify()


def test_damaged_metadata_is_left_out_on_open_and_reported_on_load(model):
    picture = images.picture_from_pillow(photo())
    whole = api.compress_picture(images.Picture(rgb=picture.rgb, icc=ICC, exif=b"II*\0" + bytes(40)), quality=40, model=model).data
    position = whole.index(ICC) + 200
    damaged = whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :]
    image = Image.open(io.BytesIO(damaged))
    assert "icc_profile" not in image.info and "exif" in image.info
    with pytest.raises(OSError, match="iccp"):
        image.load()


def test_unknown_model_is_an_os_error_that_names_its_fingerprint():
    image = Image.open(io.BytesIO(pack(Container(64, 48, 33, b"\x07" * 8, (b"abc", b"", b"defgh"), 5))))
    with pytest.raises(OSError, match="07" * 8):
        image.load()


def test_pillows_own_size_limit_holds(data, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70 * 50 // 2 - 1)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70 * 50 - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(data))


def test_huge_claims_cost_nothing():
    claim = pack(Container(2**29, 2**29, 50, b"\x07" * 8, (b"abc",), 5))
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(claim))


# --- options of saving, and small pictures -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"optimize": True}, {"lossless": True}, {"Quality": 50}, {"device": "cpu"},
        {"quality": -1}, {"quality": 101}, {"quality": True}, {"effort": 4}, {"effort": -1}, {"effort": 0.5}, {"effort": "1"},
        {"target_size": "many"}, {"target_size": 0}, {"target_bpp": -1.0}, {"target_psnr": float("nan")}, {"target_size": 900, "target_bpp": 1.0},
        {"threads": 0}, {"threads": -1}, {"threads": 10**6}, {"threads": "2"},
    ],
    ids=str,
)  # fmt: skip
def test_unknown_and_wrong_options_are_value_errors_and_leave_no_file(options, tiny_installed, tmp_path):
    path = tmp_path / "a.looc"
    with pytest.raises(ValueError, match=next(iter(options)).partition("_")[0]) as caught:
        photo().save(path, model=tiny_installed, **options)
    assert not path.exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "shrink"), [((70, 50), 1), ((36, 20), 1), ((35, 25), 2), ((17, 12), 4), ((8, 6), 8), ((5, 3), 8), ((4, 3), 16), ((1, 1), 16)]
)
def test_a_draft_is_the_small_picture_of_the_decoder(data, model, asked, shrink):
    with Image.open(io.BytesIO(data)) as image:
        found = image.draft("RGB", asked)
        expected = api.decompress(data, model=model, scale=1 / shrink)
        assert found == (None if shrink == 1 else ("RGB", (0, 0, 70 / shrink, 50 / shrink)))
        assert image.size == expected.size and image.size[0] >= asked[0] and image.size[1] >= asked[1]
        assert np.array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_a_draft_keeps_the_mode(mode, tiny_installed):
    stream, image = io.BytesIO(), photo().convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(stream, "LOOC", model=tiny_installed)
    with Image.open(stream) as image:
        assert image.draft("RGB", (8, 6))[0] == mode
        image.load()
        assert (image.mode, image.size) == (mode, (9, 7))


def test_a_draft_is_refused_once_decoded_or_drafted(data):
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.draft("RGB", (9, 7)) is None and image.size == (70, 50)
    with Image.open(io.BytesIO(data)) as image:
        assert image.draft("RGB", (35, 25)) is not None and image.draft("RGB", (9, 7)) is None
        assert image.size == (35, 25)


def test_thumbnail_uses_the_draft(data, model):
    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((10, 10))
        assert image.size == (10, 7) and image.format == "LOOC"
