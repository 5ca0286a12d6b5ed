"""Pictures that came out wrong once: each is made here as some program writes it, and each stands for a kind."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin
from test_images import png

from looc_codec.errors import ImageError
from looc_codec.images import picture_from_pillow, read_picture


def ramp(height: int = 24, width: int = 32) -> np.ndarray:
    return np.add.outer(np.arange(height) * 3, np.arange(width) * 5).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("outlier", [1.01, 40.0, np.inf])
def test_a_few_bright_floats_do_not_blacken_the_rest(outlier):
    samples = ramp().astype(np.float32) / 255
    samples[3, 4] = outlier
    for picture in (picture_from_pillow(Image.fromarray(samples)), read_picture(saved(Image.fromarray(samples), "TIFF"))):
        expected = ramp().astype(int)
        expected[3, 4] = 255
        assert np.abs(picture.rgb[..., 0] - expected).max() <= 1
        assert any("1 is taken as white" in notice for notice in picture.notices)


@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate"])
def test_white_is_zero_is_no_negative(compression):
    samples = ramp().astype(np.uint16) * 257
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    data = saved(Image.fromarray(samples), "TIFF", tiffinfo=tags, compression=compression)
    with Image.open(io.BytesIO(data)) as image:
        assert image.tag_v2[262] == 0
    assert np.abs(read_picture(data).rgb[..., 0].astype(int) - (255 - ramp())).max() <= 1


def test_a_turned_picture_has_no_stale_thumbnail():
    exif = Image.Exif()
    exif[0x0112] = 6
    sub = exif.get_ifd(0x8769)
    sub[0xA002], sub[0xA003] = 32, 24
    data = saved(Image.fromarray(ramp()).convert("RGB"), "JPEG", exif=exif, quality=95)
    picture = read_picture(data)
    assert (picture.width, picture.height) == (24, 32)
    kept = Image.Exif()
    kept.load(b"Exif\0\0" + picture.exif)
    assert kept.get(0x0112, 1) == 1
    assert (kept.get_ifd(0x8769)[0xA002], kept.get_ifd(0x8769)[0xA003]) == (24, 32)
    assert not kept.get_ifd(1)


def test_the_preview_of_a_larger_picture_is_not_taken_for_it():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    with pytest.raises(ImageError, match="preview|reduced"):
        read_picture(saved(Image.fromarray(ramp()).convert("RGB"), "TIFF", tiffinfo=tags))


def test_exif_in_text_is_exif():
    """As ImageMagick writes it into PNG files."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    block = exif.tobytes()
    digits = block.hex()
    lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{lines}\n", zip=True)
    picture = read_picture(saved(Image.fromarray(ramp()).convert("RGB"), "PNG", pnginfo=text))
    assert (picture.width, picture.height) == (24, 32) and b"a maker" in picture.exif


def test_wide_colours_without_a_profile_are_said():
    header = struct.pack(">IIBBBBB", 4, 2, 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(range(12)) for _ in range(2))
    picture = read_picture(png(header, rows, (b"cICP", bytes([9, 16, 0, 1]))))
    assert any("colours" in notice for notice in picture.notices)


def test_what_cannot_be_kept_is_named():
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a prompt")
    picture = read_picture(saved(Image.fromarray(ramp()).convert("RGB"), "PNG", pnginfo=text))
    assert any("parameters" in notice for notice in picture.notices)


def test_comments_and_resolution_travel_as_exif():
    picture = read_picture(saved(Image.fromarray(ramp()).convert("RGB"), "JPEG", comment=b"taken at dawn", dpi=(300, 300)))
    kept = Image.Exif()
    kept.load(b"Exif\0\0" + picture.exif)
    assert b"taken at dawn" in picture.exif and kept[0x011A] == 300


def test_left_out_colours_are_a_notice():
    from PIL import ImageCms

    image = Image.fromarray(ramp()).convert("RGB")
    image.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    stripped = picture_from_pillow(image).without_metadata()
    assert stripped.icc is None and any("colour profile is left out" in notice for notice in stripped.notices)
