"""Pictures in and out: every kind of file becomes upright 8-bit RGB with its metadata, or one sentence."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import io
import struct
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin

from looc_codec.format.container import Chunk
from looc_codec.errors import FormatError, ImageError, OutputError
from looc_codec.images import (
    Picture,
    chunks_of_picture,
    picture_from_pillow,
    picture_to_pillow,
    picture_with_chunks,
    read_picture,
    write_picture,
)

ODD = Path(__file__).resolve().parents[2] / "shared" / "data" / "odd"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="1" title="\xc3\xa4"/></x:xmpmeta>'


def gradient(width: int = 40, height: int = 30) -> np.ndarray:
    """(height, width, 3) uint8 without any symmetry."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, (rows * 3 + columns) % 256], axis=2).astype(np.uint8)


def exif_block(orientation: int | None = None, order: str = "<") -> bytes:
    """An EXIF block with a maker, and perhaps an orientation."""
    entries = [struct.pack(order + "HHI4s", 0x010F, 2, 4, b"abc\0")]
    if orientation is not None:
        entries.append(struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0))
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "IH", 8, len(entries)) + b"".join(entries) + bytes(4) + b"maker's note"


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey_profile() -> bytes:
    """A minimal grey ICC profile of gamma 1."""
    curve = struct.pack(">4sII", b"curv", 0, 0)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    table = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, 12)
    header = struct.pack(">I4sI4s4s4s12s4s28s3i", 188, b"", 0x02100000, b"mntr", b"GRAY", b"XYZ ", b"", b"acsp", b"", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + white + curve


# --- reading ----------------------------------------------------------------------------------------------------------


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a b ü.png"
    path.write_bytes(encoded(Image.fromarray(gradient())))
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        picture = read_picture(source)
        assert (picture.rgb == gradient()).all()
        assert picture.rgb.flags.c_contiguous and picture.rgb.flags.writeable and picture.rgb.dtype == np.uint8
        assert (picture.width, picture.height) == (40, 30)
        assert (picture.alpha, picture.icc, picture.exif, picture.xmp, picture.notices) == (None, None, None, None, ())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", "<>")
def test_orientation_is_applied_once(orientation: int, order: str) -> None:
    exif = exif_block(orientation, order)
    alpha = gradient()[..., 1]
    data = encoded(Image.fromarray(np.dstack([gradient(), alpha])), exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    picture = read_picture(data)
    shown = expected[..., 3] > 0
    assert (picture.rgb[shown] == expected[..., :3][shown]).all() and (picture.alpha == expected[..., 3]).all()
    assert picture.exif == exif_block(1, order)
    again = read_picture(encoded(picture_to_pillow(picture), exif=picture.exif))
    assert (again.rgb == picture.rgb).all()


@pytest.mark.parametrize(("orientation", "turned"), [(6, True), (1, False), (None, False)])
def test_xmp_never_turns_the_picture(orientation: int | None, turned: bool) -> None:
    xmp = XMP.replace(b'Orientation="1"', b'Orientation="6"')
    data = encoded(Image.fromarray(gradient()), "WEBP", lossless=True, exif=exif_block(orientation), xmp=xmp)
    picture = read_picture(data)
    assert picture.xmp == XMP
    assert (picture.rgb == (np.rot90(gradient(), -1) if turned else gradient())).all()


@pytest.mark.parametrize("exif", [b"nonsense", b"II*\0\xff\xff\xff\xff", b"II*\0", b"II*\0\x08\0\0\0\xff\xff" + bytes(7), b"MM\0*" + b"\xff" * 20])
def test_damaged_exif_does_no_harm(exif: bytes) -> None:
    picture = read_picture(encoded(Image.fromarray(gradient()), exif=exif))
    assert (picture.rgb == gradient()).all()
    assert picture.exif in (None, exif)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F", "LAB", "PA", "La", "RGBa", "RGBX"])
def test_every_mode_of_pillow_becomes_rgb(mode: str) -> None:
    grey = Image.fromarray(gradient()).convert("L")
    if mode in ("I;16", "I"):
        source = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        source = source.convert("I") if mode == "I" else source
    elif mode == "F":
        source = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    elif mode == "LAB":
        source = ImageCms.profileToProfile(Image.fromarray(gradient()), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB")
    elif mode == "PA":
        source = Image.fromarray(gradient()).convert("P").convert("PA")
    elif mode in ("La", "RGBa"):
        source = Image.fromarray(gradient()).convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    else:
        source = Image.fromarray(gradient()).convert(mode)
    assert source.mode == mode
    picture = picture_from_pillow(source)
    assert picture.rgb.shape == (30, 40, 3) and picture.alpha is None
    if mode in ("L", "LA", "I;16", "I", "F", "La"):
        assert (picture.rgb == np.asarray(grey)[..., None]).all()
    elif mode not in ("1", "P", "PA"):
        assert np.abs(picture.rgb.astype(int) - gradient()).mean() < 4


def test_sixteen_bits_are_rounded_with_a_notice() -> None:
    samples = np.array([[0, 128, 129, 385, 386, 65406, 65407, 65535]], np.uint16)
    picture = read_picture(encoded(Image.fromarray(samples)))
    assert picture.rgb[0, :, 0].tolist() == np.rint(samples[0] / 257).astype(int).tolist()
    assert any("16 bits" in notice for notice in picture.notices)


def test_sixteen_bits_of_colour_give_a_notice() -> None:
    rows = b"".join(b"\0" + struct.pack(">6H", 0, 257, 65535, 4000, 5000, 6000) for _ in range(2))
    picture = read_picture(png(struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0), rows))
    assert picture.rgb[0, 0].tolist() == [0, 1, 255]
    assert any("16 bits" in notice for notice in picture.notices)


def png(header: bytes, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file from its IHDR, its filtered rows and further chunks before IDAT."""
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def test_samples_without_a_stated_white_are_refused() -> None:
    with pytest.raises(ImageError, match="white is not stated"):
        picture_from_pillow(Image.fromarray(np.array([[0, 70_000]], np.int32)))


def test_32_bit_integers_of_8_bit_values_stay() -> None:
    assert picture_from_pillow(Image.fromarray(np.array([[0, 200]], np.int32))).rgb[0, :, 0].tolist() == [0, 200]


def test_float_samples_survive_oddities() -> None:
    picture = picture_from_pillow(Image.fromarray(np.array([[np.nan, -1, 0.5, np.inf]], np.float32)))
    assert picture.rgb[0, :, 0].tolist() == [0, 0, 128, 255]


def test_alpha_is_kept_and_opaque_alpha_dropped() -> None:
    alpha = gradient()[..., 0]
    picture = picture_from_pillow(Image.fromarray(np.dstack([gradient(), alpha])))
    assert (picture.alpha == alpha).all()
    assert (picture.rgb[alpha > 0] == gradient()[alpha > 0]).all()
    assert picture_from_pillow(Image.fromarray(np.dstack([gradient(), np.full_like(alpha, 255)]))).alpha is None


def test_transparency_keys_and_palettes_become_alpha() -> None:
    palette = Image.fromarray(gradient()).quantize(8)
    data = encoded(palette, transparency=bytes([0, 128, 255]))
    with Image.open(io.BytesIO(data)) as image:
        expected = np.array(image.convert("RGBA"))[..., 3]
    assert (read_picture(data).alpha == expected).all() and len(np.unique(expected)) == 3
    grey = Image.fromarray(gradient()[..., 1])
    assert ((read_picture(encoded(grey, transparency=0)).alpha == 0) == (gradient()[..., 1] == 0)).all()
    keyed = encoded(Image.fromarray(gradient()), transparency=tuple(int(v) for v in gradient()[3, 3]))
    assert read_picture(keyed).alpha[3, 3] == 0
    header = struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0)
    assert read_picture(png(header, struct.pack(">B2H", 0, 300, 301), (b"tRNS", b"\x01\x2c"))).alpha.tolist() == [[0, 255]]


def test_invisible_colours_become_smooth() -> None:
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)
    alpha = np.zeros((37, 53), np.uint8)
    alpha[10:20, 10:20] = 7
    rgb[10:20, 10:20] = (200, 100, 50)
    picture = picture_from_pillow(Image.fromarray(np.dstack([rgb, alpha])))
    assert (picture.rgb == (200, 100, 50)).all()
    empty = picture_from_pillow(Image.fromarray(np.dstack([rgb, np.zeros_like(alpha)])))
    assert np.ptp(empty.rgb) == 0 and (empty.alpha == 0).all()


def test_rgb_profiles_travel_with_untouched_values() -> None:
    picture = read_picture(encoded(Image.fromarray(gradient()), icc_profile=SRGB))
    assert picture.icc == SRGB and (picture.rgb == gradient()).all()
    assert picture.without_metadata().icc is None


@pytest.mark.parametrize("profile", [b"nonsense", SRGB[:200], b""])
def test_damaged_profiles_are_left_out(profile: bytes) -> None:
    picture = picture_from_pillow(with_info(Image.fromarray(gradient()), icc_profile=profile))
    assert picture.icc is None and bool(picture.notices) == bool(profile)


def with_info(image: Image.Image, **info: object) -> Image.Image:
    image.info.update(info)
    return image


def test_grey_profiles_are_applied_and_never_attached() -> None:
    samples = np.full((4, 4), 64, np.uint8)
    picture = read_picture(encoded(Image.fromarray(samples), icc_profile=grey_profile()))
    # Linear light of 64/255 is 137 in sRGB.
    assert picture.icc is None and np.abs(picture.rgb.astype(int) - 137).max() <= 2
    coloured = picture_from_pillow(with_info(Image.fromarray(gradient()), icc_profile=grey_profile()))
    assert coloured.icc is None and coloured.notices and (coloured.rgb == gradient()).all()


def test_cmyk_profiles_of_another_space_are_not_applied() -> None:
    picture = picture_from_pillow(with_info(Image.fromarray(gradient()).convert("CMYK"), icc_profile=SRGB))
    assert picture.icc is None and "without a usable profile" in picture.notices[0]


def test_gamma_of_a_png_becomes_a_profile() -> None:
    header, row = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0), b"\0\x40\x40\x40"
    picture = read_picture(png(header, row, (b"gAMA", struct.pack(">I", 100_000))))
    assert picture.rgb.tolist() == [[[64, 64, 64]]]
    shown = ImageCms.profileToProfile(Image.fromarray(picture.rgb), io.BytesIO(picture.icc), ImageCms.createProfile("sRGB"))
    assert np.abs(np.array(shown).astype(int) - 137).max() <= 2
    assert read_picture(png(header, row, (b"gAMA", struct.pack(">I", 45_455)))).icc is None
    assert read_picture(png(header, row, (b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0"))).icc is None


def test_animations_give_their_first_frame() -> None:
    frames = [Image.fromarray(gradient()), Image.fromarray(255 - gradient())]
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("GIF", {})):
        picture = read_picture(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
        assert any("first is kept" in notice for notice in picture.notices)
        assert np.abs(picture.rgb.astype(int) - gradient()).mean() < 12


# --- refusing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
def test_truncated_pictures_are_refused(kind: str) -> None:
    data = encoded(Image.fromarray(gradient(97, 61)), kind)
    for length in (0, 1, 10, len(data) // 3, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(ImageError):
            read_picture(data[:length])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "ICO", "PPM"])
def test_mutated_pictures_give_a_picture_or_an_image_error(kind: str) -> None:
    rng = np.random.default_rng(7)
    data = np.frombuffer(encoded(Image.fromarray(gradient()), kind, exif=exif_block(6)), np.uint8)
    for _ in range(60):
        mutated = data.copy()
        mutated[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
        try:
            assert isinstance(read_picture(mutated.tobytes(), max_pixels=1_000_000), Picture)
        except ImageError as error:
            assert "\n" not in str(error)


def test_over_limit_pictures_are_refused_before_decoding() -> None:
    data = encoded(Image.fromarray(gradient()))
    assert read_picture(data, max_pixels=1200).width == 40
    with pytest.raises(ImageError, match="40x30 pixels, more than the limit of 1199"):
        read_picture(data, max_pixels=1199)
    bomb = png(struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"")
    with pytest.raises(ImageError, match="limit of 250000000"):
        read_picture(bomb)
    with pytest.raises(ImageError, match="limit of 10"):
        picture_from_pillow(Image.new("L", (4, 4)), max_pixels=10)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "ICO", "PPM"])
def test_pillows_own_limit_is_neither_used_nor_changed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(gradient()), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_picture(data, max_pixels=5000).rgb.shape[2] == 3
    assert picture_from_pillow(Image.fromarray(gradient())).width == 40
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))


def test_two_threads_decode_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(gradient()))
    both_decode = threading.Barrier(2, timeout=20)
    limits = []

    def load(image: PngImagePlugin.PngImageFile) -> object:
        # Passed only while both threads are here; the limit is what the program around sees meanwhile.
        both_decode.wait()
        limits.append((Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES))
        return original(image)

    original = PngImagePlugin.PngImageFile.load
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load, raising=False)
    before = Image.MAX_IMAGE_PIXELS, False
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        for picture in threads.map(lambda limit: read_picture(data, max_pixels=limit), (1200, 5000)):
            assert (picture.rgb == gradient()).all()
    assert len(limits) >= 2 and set(limits) == {before}


def test_each_thread_has_its_own_limit() -> None:
    data = encoded(Image.fromarray(gradient()))
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda limit: outcome(data, limit), [1199, 1200, 100, 5000] * 25))
    assert results == [False, True, False, True] * 25


def outcome(data: bytes, max_pixels: int) -> bool:
    try:
        return read_picture(data, max_pixels=max_pixels).width == 40
    except ImageError:
        return False


def test_a_program_that_accepts_truncated_pictures_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(gradient(97, 61)))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert any("cut short" in notice for notice in read_picture(data[: len(data) * 2 // 3]).notices)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_large_pictures_within_the_limit_give_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(ImageError, match="damaged or cut short"):
        read_picture(png(struct.pack(">IIBBBBB", 15_000, 15_000, 1, 0, 0, 0, 0), b""))
    assert not recwarn


def test_each_refusal_names_the_file(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    for path in (text, tmp_path / "missing.png", tmp_path):
        with pytest.raises(ImageError, match=path.name):
            read_picture(path)
    with pytest.raises(ImageError, match="scan: is empty|scan is empty"):
        read_picture(b"", name="scan")
    with pytest.raises(ImageError, match="zero"):
        read_picture("zero\0byte")


def test_programs_are_not_started_for_postscript() -> None:
    with pytest.raises(ImageError, match="not a picture that looc can read"):
        read_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


def test_heic_and_jpeg_xl_name_their_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a machine without these readers; the extra `report` installs one of them.
    for module, kind in (("pillow_heif", "HEIF"), ("pillow_jxl", "JXL")):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(Image.OPEN, kind, raising=False)
    heads = ((b"\0\0\0\x18ftypheic" + bytes(16), "pillow-heif"), (b"\xff\x0a" + bytes(30), "pillow-jxl-plugin"))
    for head, package in heads:
        with pytest.raises(ImageError, match=package):
            read_picture(head)


# --- chunks -----------------------------------------------------------------------------------------------------------


def test_chunks_bring_everything_back() -> None:
    picture = Picture(gradient(), gradient()[..., 1], SRGB, exif_block(), XMP)
    chunks = chunks_of_picture(picture)
    assert [chunk.type for chunk in chunks] == ["iccp", "exif", "xmp_", "ALPH"]
    assert_same(picture_with_chunks(picture.rgb, (*chunks, Chunk("note", b"?"))), picture)
    assert chunks_of_picture(Picture(gradient())) == ()


def assert_same(one: Picture, other: Picture) -> None:
    assert (one.rgb == other.rgb).all()
    assert (one.alpha is None) == (other.alpha is None) and (one.alpha is None or (one.alpha == other.alpha).all())
    assert (one.icc, one.exif, one.xmp) == (other.icc, other.exif, other.xmp)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (64, 64), (20_000, 2)])
@pytest.mark.parametrize("content", ["noise", "edge", "constant"])
def test_alpha_planes_are_lossless(shape: tuple[int, int], content: str) -> None:
    rng = np.random.default_rng(3)
    alpha = {
        "noise": rng.integers(0, 256, shape),
        "edge": np.where(np.indices(shape).sum(axis=0) > 30, 255, 0),
        "constant": np.full(shape, 77),
    }[content].astype(np.uint8)
    rgb = np.zeros((*shape, 3), np.uint8)
    picture = picture_with_chunks(rgb, chunks_of_picture(Picture(rgb, alpha)))
    assert (picture.alpha == alpha).all()


def test_both_kinds_of_alpha_plane_are_read() -> None:
    plane = Image.fromarray(gradient()[..., 1])
    for data in (encoded(plane), encoded(plane.convert("RGB"), "WEBP", lossless=True)):
        assert (picture_with_chunks(gradient(), [Chunk("ALPH", data)]).alpha == gradient()[..., 1]).all()


def test_foreign_alpha_planes_are_refused() -> None:
    plane = Image.fromarray(gradient()[..., 1])
    good = encoded(plane)
    cases = [
        (b"", "neither"),
        (encoded(plane, "BMP"), "neither"),
        (encoded(plane, "JPEG"), "neither"),
        (encoded(plane.convert("RGB")), "neither"),
        (encoded(plane.convert("RGB"), "WEBP", quality=90), "neither"),
        (encoded(plane.convert("RGBA"), "WEBP", save_all=True, append_images=[plane.convert("L")]), "neither"),
        (encoded(plane.crop((0, 0, 39, 30))), "39x30"),
        (encoded(plane.crop((0, 0, 39, 30)).convert("RGB"), "WEBP", lossless=True), "39x30"),
        (encoded(plane, save_all=True, append_images=[plane.transpose(Image.Transpose.ROTATE_180)]), "cannot be decoded"),
        (good[: len(good) // 2], "cannot be decoded"),
        (good[:26], "cannot be decoded"),
        (encoded(plane.convert("RGB"), "WEBP", lossless=True)[:40], "cannot be decoded"),
    ]
    for data, sentence in cases:
        with pytest.raises(FormatError, match=sentence):
            picture_with_chunks(gradient(), [Chunk("ALPH", data)])


def test_unusable_metadata_chunks_are_left_out() -> None:
    chunks = [Chunk("iccp", grey_profile()), Chunk("exif", b"nonsense")]
    picture = picture_with_chunks(gradient(), chunks)
    assert (picture.icc, picture.exif) == (None, None) and picture.notices


# --- writing ----------------------------------------------------------------------------------------------------------

FULL = Picture(gradient(), gradient()[..., 1] | 1, SRGB, exif_block(1), XMP)
FULL_OPAQUE = dataclasses.replace(FULL, alpha=None)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "tiff"])
@pytest.mark.parametrize("source", [FULL, FULL_OPAQUE], ids=["alpha", "opaque"])
def test_lossless_formats_bring_everything_back(tmp_path: Path, suffix: str, source: Picture) -> None:
    path = tmp_path / f"a.{suffix}"
    assert write_picture(source, path) == ()
    picture = read_picture(path)
    if suffix.startswith("tif"):
        # The TIFF reader rebuilds the block; the maker must be in it.
        assert b"abc" in picture.exif
        picture = dataclasses.replace(picture, exif=source.exif)
    assert_same(picture, source)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "avif"])
def test_lossy_formats_keep_the_metadata(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    assert write_picture(FULL_OPAQUE, path) == ()
    picture = read_picture(path)
    assert (picture.icc, picture.xmp) == (SRGB, XMP) and b"abc" in picture.exif
    assert np.abs(picture.rgb.astype(int) - gradient()).mean() < 8


def test_bmp_says_what_it_loses(tmp_path: Path) -> None:
    notices = write_picture(FULL_OPAQUE, tmp_path / "a.bmp")
    assert "ICC and EXIF and XMP" in notices[0]
    assert (read_picture(tmp_path / "a.bmp").rgb == gradient()).all()


@pytest.mark.parametrize("suffix", ["jpg", "bmp"])
def test_transparency_is_not_lost_in_silence(suffix: str) -> None:
    with pytest.raises(OutputError, match="transparency"):
        write_picture(FULL, io.BytesIO(), suffix)


def test_metadata_too_long_for_a_format_is_left_out_with_a_notice() -> None:
    long = dataclasses.replace(FULL_OPAQUE, exif=exif_block() + bytes(70_000), xmp=XMP + b" " * 70_000)
    file = io.BytesIO()
    assert "EXIF and XMP" in write_picture(long, file, ".JPG")[0]
    assert read_picture(file.getvalue()).icc == SRGB
    broken = dataclasses.replace(FULL_OPAQUE, xmp=b"\xff not UTF-8")
    assert "XMP" in write_picture(broken, io.BytesIO())[0]


def test_file_objects_take_png_unless_told() -> None:
    file = io.BytesIO()
    write_picture(FULL, file)
    assert file.getvalue().startswith(b"\x89PNG")


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    for target, kind in ((tmp_path / "a.xyz", None), (tmp_path / "a.png", "gif"), (io.BytesIO(), "xyz")):
        with pytest.raises(OutputError, match="cannot write pictures of format"):
            write_picture(FULL, target, kind)
    wide = Picture(np.zeros((1, 70_000, 3), np.uint8))
    for kind in ("jpg", "webp"):
        with pytest.raises(OutputError, match="70000x1 pixels cannot be written"):
            write_picture(wide, tmp_path / f"a.{kind}")
    with pytest.raises(OutputError, match="folder does not exist"):
        write_picture(FULL, tmp_path / "missing" / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_pillow_images_carry_the_metadata() -> None:
    image = picture_to_pillow(FULL)
    assert image.mode == "RGBA" and image.info["icc_profile"] == SRGB
    assert image.getexif()[0x010F] == "abc"
    back = picture_from_pillow(image)
    assert_same(back, FULL)
    assert picture_to_pillow(FULL_OPAQUE).mode == "RGB"


def test_tiff_orientation_is_applied_once() -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x0112] = 6
    data = encoded(Image.fromarray(gradient()), "TIFF", tiffinfo=info)
    assert (read_picture(data).rgb == np.rot90(gradient(), -1)).all()


# --- files from the wild ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not ODD.is_dir(), reason="the folder of odd files is not here")
def test_odd_files_give_a_picture_or_an_image_error() -> None:
    refused = set()
    for path in sorted(ODD.glob("*.*")):
        try:
            picture = read_picture(path)
        except ImageError as error:
            assert path.name in str(error) and "\n" not in str(error)
            refused.add(path.name)
            continue
        assert picture.rgb.dtype == np.uint8 and picture.rgb.shape == (picture.height, picture.width, 3)
        assert picture.icc is None or picture.icc[16:20] == b"RGB "
    must_fail = {"broken.png", "broken_stream.png", "corrupt_header.jpg", "empty.jpg", "text.png", "truncated.gif", "truncated.jpg", "truncated.png", "truncated_half.jpg"}
    # Readable only with plug-ins, or with some versions of Pillow, or not at all.
    may_fail = {"README.md", "float32_rgb.tif", "ycbcr_lzw_broken.tif", "alpha.jxl", "bicycles.jxl", "grey.jxl", "cheers.heic", "hopper.heif"}
    assert must_fail <= refused <= must_fail | may_fail


@pytest.mark.skipif(not ODD.is_dir(), reason="the folder of odd files is not here")
def test_odd_files_that_are_turned_come_out_upright() -> None:
    # The first of the series was toned otherwise.
    expected = read_picture(ODD / "orient_2.jpg").rgb.astype(int)
    for orientation in range(3, 9):
        picture = read_picture(ODD / f"orient_{orientation}.jpg")
        assert np.abs(picture.rgb - expected).mean() < 6
