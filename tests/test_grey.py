"""Grey pictures: coded once, restored as grey, never with a tinge of colour."""

from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import encoder_of
from PIL import Image
from test_codec import photo

from looc_codec import api, images
from looc_codec.codec.prior import traverse
from looc_codec.codec.rate_control import Target
from looc_codec.codec.search import ENCODER_LAMBDA
from looc_codec.codec.tiles import Tile
from looc_codec.format.container import Colour, read_header
from looc_codec.format.order import units_of
from looc_codec.metrics import psnr_db


def grey(width: int = 70, height: int = 50) -> np.ndarray:
    return np.ascontiguousarray(photo(width, height)[..., 1])


def picture_of(mode: str) -> Image.Image:
    plane = Image.fromarray(grey())
    if mode == "I;16":
        return Image.fromarray(grey().astype(np.uint16) * 257)
    if mode == "LA":
        plane.putalpha(Image.linear_gradient("L").resize(plane.size))
        return plane
    return plane.convert(mode)


@pytest.mark.parametrize(("mode", "restored"), [("1", "L"), ("L", "L"), ("LA", "LA"), ("I;16", "L"), ("I", "L"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("P", "RGB")])
def test_mode_follows_the_input_and_colour_never_appears(tiny_model, mode, restored):
    source = picture_of("LA").convert("RGBA") if mode == "RGBA" else picture_of(mode)
    data = api.compress(source, quality=40, model=tiny_model)
    assert read_header(data).colour == (Colour.GREY if restored in ("L", "LA") else Colour.GREY_AS_RGB)
    back = api.decompress(data, model=tiny_model)
    assert back.mode == restored
    planes = np.asarray(back.convert("RGB"))
    assert (planes == planes[..., :1]).all()


def test_grey_costs_no_more_than_the_same_content_as_rgb(tiny_model):
    as_grey = api.compress(Image.fromarray(grey()), quality=60, model=tiny_model)
    as_rgb = api.compress(Image.fromarray(grey()).convert("RGB"), quality=60, model=tiny_model)
    assert len(as_grey) == len(as_rgb)


def test_grey_is_the_mean_of_the_planes_before_rounding(tiny_model):
    plane = grey(64, 48)
    rgb = np.repeat(plane[..., None], 3, 2)
    encoder = encoder_of(tiny_model)
    latent, whole = encoder.encode_latent(encoder.transforms.analyse(rgb, 50), 50).latent, Tile(0, 3, 0, 4)
    restored = encoder.transforms.synthesise(latent, plane.shape, 50, grey=True)
    exact = encoder.transforms.pixels_of(latent, whole, 50, context=False).pixels.mean(0)
    assert np.array_equal(restored[..., 0], np.rint(exact).clip(0, 255).astype(np.uint8))
    coloured = encoder.transforms.synthesise(latent, plane.shape, 50)
    assert psnr_db(rgb, restored) >= psnr_db(rgb, coloured)


def test_one_coloured_pixel_makes_a_colour_picture(tiny_model):
    rgb = np.repeat(grey()[..., None], 3, 2)
    rgb[3, 4, 2] ^= 1
    data = api.compress(rgb, model=tiny_model)
    assert read_header(data).colour == Colour.RGB and api.decompress(data, model=tiny_model).mode == "RGB"


def test_a_grey_file_with_a_profile_for_rgb_is_restored_as_rgb(tiny_model):
    from PIL import ImageCms

    source = Image.fromarray(grey())
    source.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    back = api.decompress(api.compress(source, model=tiny_model), model=tiny_model)
    assert back.mode == "RGB" and back.info["icc_profile"]
    assert np.array_equal(np.asarray(back)[..., 0], np.asarray(back)[..., 2])


@pytest.mark.parametrize("suffix", sorted(images.PILLOW_FORMATS))
@pytest.mark.parametrize("mode", ["L", "LA"])
def test_every_format_takes_grey(suffix, mode):
    picture = images.picture_from_pillow(picture_of(mode))
    if mode == "LA" and suffix in ("jpg", "jpeg", "bmp"):
        pytest.skip("no transparency in this format")
    target = io.BytesIO()
    images.write_picture(picture, target, format=suffix)
    with Image.open(target) as back:
        if suffix not in ("webp", "avif"):
            assert back.mode == mode
        planes = np.asarray(back.convert("RGB")).astype(int)
        assert np.abs(planes[..., 0] - planes[..., 2]).max() <= (4 if suffix == "avif" else 0)
        if suffix not in ("jpg", "jpeg", "avif"):
            assert np.array_equal(planes, picture.rgb)


def test_rate_control_measures_the_grey_picture(tiny_model):
    picture = images.picture_from_pillow(Image.fromarray(grey()))
    trial = api.compress_picture(picture, target=Target("psnr", 24.0), model=tiny_model)
    restored = np.asarray(api.decompress(trial.data, model=tiny_model))
    assert trial.score == pytest.approx(psnr_db(picture.rgb[..., 0], restored))


def test_pillow_plugin_opens_grey_as_grey(tiny_model_file, tmp_path, monkeypatch):
    import looc_codec.pillow_plugin  # noqa: F401

    monkeypatch.setenv("LOOC_MODELS", str(tiny_model_file.parent))
    for mode in ("L", "LA"):
        path = tmp_path / f"{mode}.looc"
        path.write_bytes(api.compress(picture_of(mode), model=tiny_model_file))
        with Image.open(path) as image:
            assert image.mode == mode
            assert np.array_equal(np.asarray(image), np.asarray(api.decompress(path.read_bytes())))


def test_chroma_of_a_grey_picture_is_nearly_free_with_the_shipped_weights():
    """Units of two chroma channels, all of them together, take less than a thousandth of the file."""
    from skimage.data import camera

    model = api.load_model()
    linear, dim = model.tensor("synthesis.linear"), model.config.codevector_dim
    luma_share = np.square(linear.sum(1)).sum((1, 2)) / 3 / np.square(linear).sum((1, 2, 3))
    chroma = (luma_share.reshape(-1, dim) < 0.5).all(1)
    assert 0 < int(chroma.sum())
    plane = np.ascontiguousarray(camera()[100:356, 100:356])
    encoder, tables, bits = encoder_of(model), model.tables, []
    latent = encoder.transforms.analyse(np.repeat(plane[..., None], 3, 2), 50)

    def code(step, rows, mean):
        codes = model.search.pick(units_of(step.take(latent), dim) * 16 - mean, rows, ENCODER_LAMBDA)
        cost = tables.bits[rows, codes.second].astype(float)
        wide = tables.digit_factor[rows] > 1
        cost[wide] += tables.bits[tables.first_digit_row[rows[wide]], codes.first]
        bits.append((step.first // dim, cost))
        return mean + tables.value(codes, rows)

    traverse(model, encoder.engine, *latent.shape[1:], 50, code)
    spent = 0.0
    for first, cost in bits:
        # Units before positions.
        units = chroma[first:][: model.config.groups[[0, *np.cumsum(model.config.groups)].index(first * dim)] // dim]
        spent += float(cost.reshape(len(units), -1)[units].sum())
    assert spent < 0.001 * float(sum(cost.sum() for _, cost in bits))
