"""What samples mean: float and 16-bit grey, negatives, pages of TIFF and raw files, colours stated by code points."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from test_images import encoded, gradient, grey_profile, png

from looc_codec.errors import ImageError
from looc_codec.images import picture_from_pillow, read_picture

HEADER = struct.pack(">IIBBBBB", 40, 30, 8, 2, 0, 0, 0)
ROWS = b"".join(b"\0" + row.tobytes() for row in gradient())


def page(
    levels: np.ndarray,
    photometric: int = 1,
    tags: dict[int, tuple[int, list[int]]] | None = None,
    *,
    deflate=False,
    tile=0,
    bits=0,
):
    """The tags of a TIFF page as (type, values), and its strips or tiles; `levels` is (H, W) or (H, W, 3)."""
    planes = 1 if levels.ndim == 2 else levels.shape[2]
    height, width = levels.shape[:2]
    bits = bits or 8 * levels.itemsize
    parts = [levels]
    if tile:
        padded = np.pad(levels, [(0, -height % tile), (0, -width % tile)])
        parts = [padded[y : y + tile, x : x + tile] for y in range(0, height, tile) for x in range(0, width, tile)]
    data = [zlib.compress(part.tobytes()) if deflate else part.tobytes() for part in parts]
    layout = (
        {322: (3, [tile]), 323: (3, [tile]), 325: (4, list(map(len, data)))}
        if tile
        else {278: (3, [height]), 279: (4, [len(data[0])])}
    )
    found = {
        256: (3, [width]), 257: (3, [height]), 258: (3, [bits] * planes), 259: (3, [8 if deflate else 1]),
        262: (3, [photometric]),
        277: (3, [planes]), 339: (3, [3 if levels.dtype.kind == "f" else 1] * planes), **layout, **(tags or {}),
    }  # fmt: skip
    return found, data, 324 if tile else 273


def tiff(*pages, big: bool = False) -> bytes:
    """A little-endian TIFF or BigTIFF file of these pages."""
    file = bytearray(b"II+\0\x08\0\0\0" + bytes(8) if big else b"II*\0" + bytes(4))
    link, word, head = (8, "Q", "Q") if big else (4, "I", "H")
    sizes = {1: "B", 3: "H", 4: "I"}
    for tags, data, offsets_tag in pages:
        offsets = []
        for part in data:
            offsets.append(len(file))
            file += part
        entries = b""
        for tag, (kind, values) in sorted({**tags, offsets_tag: (4, offsets)}.items()):
            value = struct.pack(f"<{len(values)}{sizes[kind]}", *values)
            if len(value) > struct.calcsize(word):
                file += bytes(len(file) % 2)
                place = len(file)
                file += value
                value = struct.pack("<" + word, place)
            entries += struct.pack("<HH" + word, tag, kind, len(values)) + value.ljust(struct.calcsize(word), b"\0")
        file += bytes(len(file) % 2)
        struct.pack_into("<" + word, file, link, len(file))
        file += struct.pack("<" + head, len(tags) + 1) + entries
        link = len(file)
        file += bytes(struct.calcsize(word))
    return bytes(file)


# --- float samples ----------------------------------------------------------------------------------------------------


def ramp() -> np.ndarray:
    return np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)


def expected_of(levels: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("odd", [1.01, 40.0, 1e30, np.inf, -np.inf, np.nan, -5.0])
@pytest.mark.parametrize("scale", [1, 255, 65535])
@pytest.mark.parametrize("way", ["array", "tiff"])
def test_one_float_pixel_decides_nothing(odd: float, scale: int, way: str) -> None:
    levels = ramp() * scale
    levels[5, 7] = odd * scale
    picture = picture_from_pillow(Image.fromarray(levels)) if way == "array" else read_picture(tiff(page(levels)))
    wanted = expected_of(np.nan_to_num(levels / scale, nan=0, posinf=1, neginf=0))
    assert np.abs(picture.rgb[..., 0].astype(int) - wanted).max() <= 1
    assert any(f"{scale} is taken as white" in notice for notice in picture.notices)


def test_highlights_above_one_are_clipped() -> None:
    levels = ramp()
    levels[40:] *= 6
    picture = picture_from_pillow(Image.fromarray(levels))
    assert (picture.rgb[..., 0] == expected_of(levels)).all()


def test_a_scale_of_its_own_has_its_white_from_the_picture() -> None:
    picture = picture_from_pillow(Image.fromarray(ramp() * 1e6))
    assert 250 <= picture.rgb[-1, 0, 0] <= 255 and abs(picture.rgb.mean() - 128) < 3


@pytest.mark.parametrize("value", [0, np.nan, np.inf, -1])
def test_float_pictures_without_any_light(value: float) -> None:
    picture = picture_from_pillow(Image.fromarray(np.full((4, 4), value, np.float32)))
    assert (picture.rgb == (255 if value == np.inf else 0)).all()


# --- TIFF: negatives and pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("options", [{}, {"deflate": True}, {"tile": 16}, {"tile": 16, "deflate": True}], ids=str)
@pytest.mark.parametrize("big", [False, True])
def test_white_is_zero_is_a_negative(dtype: type, options: dict, big: bool) -> None:
    grey = gradient()[..., 1]
    scale = {np.uint8: 1, np.uint16: 257, np.float32: np.float32(1 / 255)}[dtype]
    levels = (grey * np.asarray(scale)).astype(dtype)
    assert (read_picture(tiff(page(levels, 1, **options), big=big)).rgb == grey[..., None]).all()
    assert (read_picture(tiff(page(levels, 0, **options), big=big)).rgb == 255 - grey[..., None]).all()


def test_twelve_bit_samples_use_their_whole_range() -> None:
    packed = np.frombuffer(bytes([0xFF, 0xF8, 0x00]), np.uint8).reshape(1, 3)
    tags = {256: (3, [2])}
    picture = read_picture(tiff(page(packed, tags=tags, bits=12)))
    assert picture.rgb[0, :, 0].tolist() == [255, 128]
    assert any("12 bits" in notice for notice in picture.notices)


SMALL, WHOLE = gradient(20, 15), gradient()
REDUCED = {254: (4, [1])}


@pytest.mark.parametrize("more", [{50706: (1, [1, 4, 0, 0])}, {330: (4, [8])}], ids=["dng", "sub-ifd"])
def test_the_preview_of_a_raw_file_is_refused(more: dict) -> None:
    data = tiff(page(SMALL, 2, REDUCED | more))
    with pytest.raises(
        ImageError, match="scan is a camera raw file, of which only a preview of 20x15 .*develop it first"
    ):
        read_picture(data, name="scan")
    with Image.open(io.BytesIO(data)) as image, pytest.raises(ImageError, match="camera raw"):
        picture_from_pillow(image)


@pytest.mark.parametrize("tags", [REDUCED, {254: (4, [4])}, {255: (3, [2])}], ids=["reduced", "mask", "old tag"])
def test_a_reduced_first_page_is_not_the_picture(tags: dict) -> None:
    data = tiff(page(SMALL, 2, tags), page(SMALL, 2, tags), page(WHOLE, 2), page(SMALL, 2))
    picture = read_picture(data)
    assert (picture.rgb == WHOLE).all() and any("page 3 alone is kept" in notice for notice in picture.notices)
    with pytest.raises(ImageError, match="reduced copy of 20x15 pixels"):
        read_picture(tiff(page(SMALL, 2, tags)))
    with Image.open(io.BytesIO(data)) as image:
        with pytest.raises(ImageError, match="give the page"):
            picture_from_pillow(image)
        assert image.tell() == 0
        image.seek(2)
        assert (picture_from_pillow(image).rgb == WHOLE).all()


def test_reduced_pages_after_the_picture_do_no_harm() -> None:
    assert (read_picture(tiff(page(WHOLE, 2), page(SMALL, 2, REDUCED))).rgb == WHOLE).all()


def test_the_page_taken_is_within_the_limit() -> None:
    with pytest.raises(ImageError, match="40x30 pixels, more than the limit"):
        read_picture(tiff(page(SMALL, 2, REDUCED), page(WHOLE, 2)), max_pixels=400)


# --- colours stated otherwise than by a profile -----------------------------------------------------------------------

P3, PQ = bytes([12, 13, 0, 1]), bytes([9, 16, 0, 1])
# Red, green, blue of Display P3 in linear sRGB, from the published matrices.
P3_IN_SRGB = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
CHRM_P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
CHRM_SRGB = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
GAMMA_22 = struct.pack(">I", 45455)


def shown(rgb: list[int], icc: bytes) -> np.ndarray:
    """(3,) sRGB of one colour through its profile."""
    image = Image.fromarray(np.array([[rgb]], np.uint8))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return np.array(ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), renderingIntent=1))[0, 0]


def srgb_of_p3(rgb: list[int], exponent: float | None = None) -> np.ndarray:
    """(3,) sRGB of a colour of Display P3, or one with a plain exponent, calculated without any profile."""
    values = np.array(rgb) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    if exponent is not None:
        linear = values**exponent
    linear = np.clip(P3_IN_SRGB @ linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055) * 255


COLOURS = [[128, 100, 90], [200, 180, 40], [20, 30, 60], [255, 255, 255], [90, 140, 120]]


def test_cicp_of_display_p3_becomes_a_profile() -> None:
    data = png(HEADER, ROWS, (b"cICP", P3))
    for picture in (read_picture(data), picture_from_pillow(Image.open(io.BytesIO(data)))):
        assert (picture.rgb == gradient()).all() and picture.notices == ()
        for colour in COLOURS:
            assert np.abs(shown(colour, picture.icc) - srgb_of_p3(colour)).max() < 2


def test_cicp_overrules_every_other_colour_chunk() -> None:
    wrong = encoded(
        Image.fromarray(gradient()), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    length = int.from_bytes(wrong[33:37], "big")
    iccp = (b"iCCP", wrong[41 : 41 + length])
    assert wrong[37:41] == b"iCCP"
    alone = read_picture(png(HEADER, ROWS, (b"cICP", P3))).icc
    for other in (iccp, (b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000)), (b"cHRM", CHRM_SRGB)):
        assert read_picture(png(HEADER, ROWS, (b"cICP", P3), other)).icc == alone
    assert read_picture(png(HEADER, ROWS, (b"cICP", bytes([1, 13, 0, 1])), iccp)).icc is None
    # Nothing better than the profile beside it can be said of PQ.
    hdr = read_picture(png(HEADER, ROWS, (b"cICP", PQ), iccp))
    assert hdr.icc is not None and hdr.notices == ()


@pytest.mark.parametrize("points", [PQ, bytes([12, 18, 0, 1]), bytes([10, 13, 0, 1])])
def test_colours_that_no_profile_states_give_a_notice(points: bytes) -> None:
    picture = read_picture(png(HEADER, ROWS, (b"cICP", points)))
    assert picture.icc is None and "wide-gamut or HDR" in picture.notices[0]


@pytest.mark.parametrize("points", [bytes([1, 13, 0, 1]), bytes([2, 2, 0, 1]), bytes([6, 6, 0, 1])])
def test_code_points_near_srgb_need_nothing(points: bytes) -> None:
    picture = read_picture(png(HEADER, ROWS, (b"cICP", points)))
    assert picture.icc is None and picture.notices == ()


def test_damaged_colour_chunks_do_no_harm() -> None:
    for data in (b"", b"\x0c"):
        assert read_picture(png(HEADER, ROWS, (b"cICP", data))).icc is None
    for values in ([0] * 8, [31270, 32900] * 4, [31270, 0, 64000, 33000, 30000, 60000, 15000, 6000], [2**32 - 1] * 8):
        picture = read_picture(png(HEADER, ROWS, (b"gAMA", GAMMA_22), (b"cHRM", struct.pack(">8I", *values))))
        assert picture.icc is None and "primaries are impossible" in picture.notices[0]


def nclx(points: bytes) -> bytes:
    """An AVIF file whose code points are these; Pillow writes BT.709 and sRGB."""
    data = encoded(Image.fromarray(gradient()), "AVIF")
    place = data.index(b"colrnclx") + 8
    return data[:place] + bytes([0, points[0], 0, points[1]]) + data[place + 4 :]


def test_avif_and_png_agree_on_code_points() -> None:
    for points in (P3, PQ, bytes([1, 13, 0, 1])):
        from_png, from_avif = read_picture(png(HEADER, ROWS, (b"cICP", points))), read_picture(nclx(points))
        assert (from_png.icc, from_png.notices) == (from_avif.icc, from_avif.notices)


def test_primaries_with_a_gamma_become_a_profile() -> None:
    picture = read_picture(png(HEADER, ROWS, (b"gAMA", GAMMA_22), (b"cHRM", CHRM_P3)))
    assert (picture.rgb == gradient()).all() and "primaries" in picture.notices[0]
    for colour in COLOURS:
        assert np.abs(shown(colour, picture.icc) - srgb_of_p3(colour, 2.2)).max() < 2
    assert read_picture(png(HEADER, ROWS, (b"gAMA", GAMMA_22), (b"cHRM", CHRM_SRGB))).icc is None
    assert read_picture(png(HEADER, ROWS, (b"gAMA", GAMMA_22), (b"cHRM", CHRM_P3), (b"sRGB", b"\0"))).icc is None
    alone = read_picture(png(HEADER, ROWS, (b"cHRM", CHRM_P3)))
    assert alone.icc is None and "without a gamma" in alone.notices[0]


def test_profiles_that_are_made_are_small_and_whole() -> None:
    icc = read_picture(png(HEADER, ROWS, (b"cICP", P3))).icc
    assert len(icc) < 600 and int.from_bytes(icc[:4], "big") == len(icc) and icc[16:20] == b"RGB "
    assert read_picture(encoded(Image.fromarray(gradient()), icc_profile=icc)).icc == icc


def test_icc_profiles_in_the_text_form_are_read() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = f"\nicc\n    {len(profile)}\n{profile.hex()}\n".encode()
    chunk = (b"zTXt", b"Raw profile type icc\0\0" + zlib.compress(text))
    assert read_picture(png(HEADER, ROWS, chunk)).icc == profile
    grey = f"\nicc\n    {len(grey_profile())}\n{grey_profile().hex()}\n".encode()
    coloured = read_picture(png(HEADER, ROWS, (b"tEXt", b"Raw profile type icc\0" + grey)))
    assert coloured.icc is None and "not one for RGB" in coloured.notices[0]
