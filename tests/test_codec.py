"""Pictures ↔ bytes with a tiny model: sizes, tiles, models, checks."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import decoder_of, encoder_of, tiny_config
from PIL import Image

from looc_codec import api
from looc_codec.codec.tiles import Tile
from looc_codec.errors import FormatError, ImageError, LimitError, ModelError
from looc_codec.format import container
from looc_codec.metrics import psnr_db
from looc_codec.networks.model import LoocModel
from looc_codec.training.codes import CodeFitter
from looc_codec.training.export import export


def photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channels = [128 + 90 * np.sin(x / 13 + k) * np.cos(y / 19 - k) + generator.normal(0, 5, (height, width)) for k in range(3)]
    return np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("quality", [1, 50, 100])
def test_decoder_gets_the_encoders_latent_exactly(tiny_model, quality):
    encoder = encoder_of(tiny_model)
    latent = encoder.transforms.analyse(photo(150, 90), quality)
    coding = encoder.encode_latent(latent, quality)
    decoded = decoder_of(tiny_model).decode_latent(coding.segments, coding.checksum, latent.shape[1:], quality)
    assert decoded.dtype == coding.latent.dtype == np.int16 and np.array_equal(decoded, coding.latent)


def test_codes_follow_the_latent(tiny_model):
    encoder = encoder_of(tiny_model)
    latent = encoder.transforms.analyse(photo(160, 128), 60)
    error = latent - encoder.encode_latent(latent, 60).latent / 16
    assert np.abs(error).mean() < 0.6, "a quantised latent is within about half a step of the latent"


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (16, 16), (17, 33), (15, 31), (300, 2), (2, 300), (129, 257)])
def test_any_size_comes_back_with_its_size(tiny_model, size):
    rgb = photo(*size)
    data = api.compress(rgb, quality=40, model=tiny_model)
    back = api.decompress(data, model=tiny_model)
    assert back.size == size and back.mode == "RGB"


def test_every_size_up_to_40(tiny_model):
    for width in range(1, 41, 3):
        for height in range(1, 41):
            data = api.compress(photo(width, height), quality=30, model=tiny_model)
            assert api.decompress(data, model=tiny_model).size == (width, height)


def test_tiles_make_no_difference(tiny_model):
    rgb, encoder = photo(500, 300), encoder_of(tiny_model)
    whole, tiled = (encoder.transforms.analyse(rgb, 70, side=side) for side in (1000, 8))
    assert np.abs(whole - tiled).max() < 1e-3
    latent = encoder.encode_latent(whole, 70).latent
    one, many = (encoder.transforms.synthesise(latent, (300, 500), 70, side=side) for side in (1000, 8))
    assert np.abs(one.astype(int) - many.astype(int)).max() <= 1
    reference = psnr_db(rgb, one)
    assert abs(reference - psnr_db(rgb, many)) < 0.02


@pytest.mark.parametrize(("synthesis_blocks", "analysis_blocks"), [((4, 3, 4), (4, 3)), ((5, 3, 4), (4, 3)), ((1, 2, 3), (1, 1)), ((1, 0, 0), (1, 0)), ((0, 1, 2), (0, 3)), ((0, 0, 3), (2, 1)), ((0, 0, 0), (0, 0))])
def test_a_tile_with_its_halo_is_what_the_whole_gives(synthesis_blocks, analysis_blocks):
    trainable = LoocModel(tiny_config(synthesis_blocks=synthesis_blocks, analysis_blocks=analysis_blocks))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        # A fresh transform has branches that add nothing and windows that do not overlap.
        for parameter in (*trainable.analysis.parameters(), *trainable.synthesis.parameters()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    CodeFitter(trainable).start()
    model = export(trainable)
    latent = torch.randint(-32, 33, (model.config.channels, 22, 22), generator=generator).numpy().astype(np.int16)
    stored = LoocModel.of(model)
    with torch.no_grad():
        whole = stored.synthesis(torch.from_numpy(latent)[None].float() / 16, torch.tensor([60.0]))[0].numpy()
    transforms = encoder_of(model).transforms
    for tile in (Tile(10, 12, 10, 12), Tile(0, 2, 20, 22), Tile(0, 22, 0, 22), Tile(1, 21, 3, 22)):
        made = transforms.pixels_of(latent, tile, 60, context=True)
        np.testing.assert_allclose(made.inner, tile.scaled(16).of(whole), rtol=1e-4, atol=1e-2)
    rgb = torch.randint(0, 256, (352, 352, 3), generator=generator).numpy().astype(np.uint8)
    found, tiled = transforms.analyse(rgb, 60, side=22), transforms.analyse(rgb, 60, side=5)
    with torch.no_grad():
        expected = stored.analysis(torch.from_numpy(rgb).permute(2, 0, 1)[None].float(), torch.tensor([60.0]))[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(tiled, expected, rtol=1e-4, atol=1e-3)


def test_higher_quality_is_larger(tiny_model):
    """That it is better too needs trained weights: tests/test_shipped_weights.py."""
    rgb = photo(200, 150)
    sizes = [len(api.compress(rgb, quality=quality, model=tiny_model)) for quality in (5, 35, 65, 95)]
    assert sizes == sorted(set(sizes))


def test_pillow_images_arrays_and_streams_are_taken(tiny_model, tmp_path):
    rgb = photo(40, 30)
    data = api.compress(Image.fromarray(rgb), quality=50, model=tiny_model)
    assert data == api.compress(rgb, quality=50, model=tiny_model)
    path = tmp_path / "a.looc"
    path.write_bytes(data)
    with path.open("rb") as stream:
        assert api.decompress(stream, model=tiny_model).size == (40, 30)


@pytest.mark.parametrize("quality", [0, 101, 50.5, "50"])
def test_wrong_quality_is_refused(tiny_model, quality):
    with pytest.raises(ImageError, match="quality"):
        api.compress(photo(20, 20), quality=quality, model=tiny_model)


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), "photo.png"])
def test_wrong_inputs_are_refused(tiny_model, array):
    with pytest.raises(ImageError):
        api.compress(array, model=tiny_model)


def test_model_files_are_found_and_checked(tiny_model, tiny_model_file, tmp_path):
    data = api.compress(photo(30, 30), model=str(tiny_model_file))
    assert container.unpack(data).fingerprint == tiny_model.fingerprint
    with pytest.raises(ModelError, match="fingerprint|installed|model"):
        api.decompress(data)
    damaged = bytearray(tiny_model_file.read_bytes())
    header_length = int.from_bytes(damaged[:8], "little")
    begin, end = json.loads(damaged[8 : 8 + header_length])["core.codebook.codevectors"]["data_offsets"]
    damaged[8 + header_length + (begin + end) // 2] ^= 255
    other = tmp_path / "damaged.safetensors"
    other.write_bytes(damaged)
    with pytest.raises(ModelError):
        model = api.load_model(other)
        api.decompress(data, model=model)


def test_wrong_codes_are_noticed_by_the_code_checksum(tiny_model):
    data = api.compress(photo(64, 64), quality=80, model=tiny_model)
    file = container.unpack(data)
    payload = bytearray(file.segments[1])
    payload[len(payload) // 2] ^= 16
    forged = container.pack(dataclasses.replace(file, segments=(file.segments[0], bytes(payload), *file.segments[2:])))
    with pytest.raises(FormatError, match="checksum|damaged"):
        api.decompress(forged, model=tiny_model)
    with pytest.raises(FormatError):
        api.verify(forged, model=tiny_model)
    api.verify(data, model=tiny_model)


def test_pixel_limit_holds_before_anything_is_decoded(tiny_model):
    data = api.compress(photo(64, 64), model=tiny_model)
    with pytest.raises(LimitError):
        api.decompress(data, model=tiny_model, max_pixels=4095)


def test_wrong_number_of_segments_is_refused(tiny_model):
    file = container.unpack(api.compress(photo(32, 32), model=tiny_model))
    forged = container.pack(dataclasses.replace(file, segments=file.segments[:-1]))
    with pytest.raises(FormatError, match="segments"):
        api.decompress(forged, model=tiny_model)
