"""The picture's own filter: its bytes, what it does to pixels, how it is fitted, and its place in a file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from conftest import decoder_of, encoder_of
from test_codec import photo

from looc_codec import api
from looc_codec.codec.encoder import FIT_TILES, fitting_tiles
from looc_codec.codec.engine import Engine, default_threads
from looc_codec.codec.rate_control import Target
from looc_codec.codec.tiles import Margins, Tile
from looc_codec.codec.wiener import Statistics, apply_filter, features_of
from looc_codec.config import COLOUR_AXES
from looc_codec.errors import FormatError, MalformedError
from looc_codec.format import container
from looc_codec.format.filter import WINDOW, Wiener, window_maps
from looc_codec.images import Picture
from looc_codec.metrics import psnr_db

filters = st.builds(
    Wiener,
    st.integers(0, 15),
    st.lists(st.one_of(st.just(0), st.integers(-3, 3), st.integers(-127, 127)), min_size=54, max_size=54).filter(any).map(tuple),
)


NO_CONTEXT = Margins(0, 0, 0, 0)


@pytest.fixture(scope="module")
def engine(tiny_model) -> Engine:
    return tiny_model.engine(default_threads())


def planes_of(rgb: np.ndarray) -> np.ndarray:
    return rgb.transpose(2, 0, 1).astype(np.float32)


def some_taps(seed: int, size: int = 3) -> tuple[int, ...]:
    return tuple(int(tap) for tap in np.random.default_rng(seed).integers(-size, size + 1, 54))


@settings(max_examples=200, deadline=None)
@given(filters)
def test_bytes_are_read_back(filter: Wiener):
    data = filter.to_bytes()
    assert Wiener.from_bytes(data) == filter
    assert 1 <= len(data) <= 102 and (len(data) == 1 or data[-1] != 0xFF)


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=255))
def test_other_bytes_are_refused(data: bytes):
    try:
        read = Wiener.from_bytes(data)
    except MalformedError:
        return
    assert read.to_bytes() == data


@pytest.mark.parametrize("data", [b"\x5f", b"\xff", b"\x50" + bytes(254), b"\x54\xff", bytes(255), b"\x50\x08\x07"])
def test_no_filter_is_written_like_this(data):
    """All taps 0, a tap too large, bytes of ones at the end, zeros without end."""
    with pytest.raises(MalformedError, match="filter"):
        Wiener.from_bytes(data)


def test_pixels_are_those_of_the_definition(engine):
    """Axis by axis and tap by tap, on one picture in double precision."""
    filter = Wiener(6, some_taps(1))
    pixels = planes_of(photo(11, 9))
    axes = np.array(COLOUR_AXES)
    values = np.einsum("ci,iyx->cyx", axes, np.pad(pixels.astype(float) - 128, ((0, 0), (2, 2), (2, 2)), mode="edge"))
    expected = values.copy()
    for index, tap in enumerate(filter.taps):
        axis, number = divmod(index, 18)
        sources = [axis] * 9 + [other for other in range(3) if other != axis for _ in range(4)] + [None]
        source, step = sources[number], 2.0**-filter.exponent
        distance = WINDOW[number if number < 9 else (number - 9) % 4] if source is not None else None
        for y in range(2, 11):
            for x in range(2, 13):
                if source is None:
                    feature, scale = 1.0, 4
                elif distance == (0, 0):
                    feature, scale = values[source, y, x], 1 / 16 if source == 0 else 1 / 4
                else:
                    places = {(y + i * distance[0], x + j * distance[1]) for i in (-1, 1) for j in (-1, 1)}
                    feature, scale = sum(values[source, b, a] - values[source, y, x] for b, a in places), 1 / 4 if source == 0 else 1 / 2
                expected[axis, y, x] += tap * step * scale * feature
    expected = np.einsum("ci,cyx->iyx", axes, expected[:, 2:-2, 2:-2]) + 128
    np.testing.assert_allclose(apply_filter(engine, filter, pixels, NO_CONTEXT), expected, atol=2e-3)


def test_a_part_with_context_is_what_the_whole_gives(engine):
    filter, pixels = Wiener(5, some_taps(2)), planes_of(photo(60, 50))
    whole = apply_filter(engine, filter, pixels, NO_CONTEXT)
    np.testing.assert_allclose(apply_filter(engine, filter, pixels[:, 16:36, 36:60], Margins(4, 4, 4, 0)), whole[:, 20:32, 40:60], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(apply_filter(engine, filter, pixels[:, :18, 10:32], Margins(0, 2, 2, 2)), whole[:, :16, 12:30], rtol=1e-5, atol=1e-3)


def gathered(decoded: np.ndarray, original: np.ndarray, grey: bool = False) -> Statistics:
    statistics = Statistics(grey)
    statistics.add(decoded.astype(np.float32), NO_CONTEXT, original.astype(np.float32))
    return statistics


def test_a_filter_is_found_again(engine):
    """A picture that differs from the decoded one by a filter: its taps are found, and its whole error is said to be taken off."""
    decoded = np.random.default_rng(4).normal(128, 30, (3, 90, 80))
    filter = Wiener(6, some_taps(3))
    original = apply_filter(engine, filter, decoded.astype(np.float32), NO_CONTEXT).astype(float)
    found, gain = gathered(decoded, original).fit(1e3)
    # At the same or a finer step, since a shift by one exponent doubles the taps.
    assert tuple(tap * 2 ** (found.exponent - 6) for tap in filter.taps) == found.taps
    assert gain == pytest.approx(float(((original - decoded) ** 2).sum()), rel=1e-3)


def test_noise_gets_no_filter_and_few_bits_buy_few_taps():
    generator = np.random.default_rng(5)
    decoded = generator.normal(128, 30, (3, 90, 80))
    noise = decoded + generator.normal(0, 4, decoded.shape)
    assert gathered(decoded, noise).fit(1e-3) == (None, 0.0)
    shifted = noise + np.array([3.0, 3.0, 3.0])[:, None, None]
    found, gain = gathered(decoded, shifted).fit(1e-3)
    assert sum(map(bool, found.taps)) == 1 and found.taps[17] > 0 and gain == pytest.approx(27 * 90 * 80, rel=0.1)


def test_the_gain_is_what_the_filter_takes_off(engine):
    decoded = photo(120, 100, seed=3).transpose(2, 0, 1).astype(float)
    original = decoded + 0.3 * (np.roll(decoded, 1, 1) - decoded) + np.random.default_rng(6).normal(0, 3, decoded.shape)
    found, gain = gathered(decoded, original).fit(0.05)
    after = apply_filter(engine, found, decoded.astype(np.float32), NO_CONTEXT)
    assert gain > 0 and ((original - decoded) ** 2).sum() - ((original - after) ** 2).sum() == pytest.approx(gain, rel=1e-3)


def test_what_is_cut_off_anyway_is_no_error():
    """Overshoot beyond 255 over white: a filter that took it back would change nothing that is seen, and pays for its taps with the rest of the picture."""
    decoded = photo(80, 70, seed=8).transpose(2, 0, 1).astype(float)
    original = decoded.copy()
    decoded[:, 20:50] = 300 + np.random.default_rng(9).normal(0, 10, decoded[:, 20:50].shape)
    original[:, 20:50] = 255
    assert gathered(decoded, original).fit(10.0) == (None, 0.0)


def test_of_a_grey_picture_only_the_first_axis_is_filtered():
    decoded = photo(80, 70, seed=7).transpose(2, 0, 1).astype(float)
    original = np.repeat(decoded.mean(0, keepdims=True) + 5, 3, 0)
    found, _ = gathered(decoded, original, grey=True).fit(1.0)
    assert any(found.taps[:18]) and not any(found.taps[18:])


def filtered_file(model, quality: int = 60, size: tuple[int, int] = (150, 101)) -> tuple[np.ndarray, bytes]:
    rgb = photo(*size)
    data = api.compress(rgb, quality=quality, model=model)
    assert container.unpack(data).filter
    return rgb, data


def test_a_file_with_its_filter_is_closer_to_the_picture(tiny_model):
    rgb, data = filtered_file(tiny_model)
    file = container.unpack(data)
    bare = container.pack(dataclasses.replace(file, filter=b""))
    with_filter, without = (api.restore_picture(each, model=tiny_model).rgb for each in (data, bare))
    assert psnr_db(rgb, with_filter) > psnr_db(rgb, without) + 0.05


def test_tiles_make_no_difference_to_the_filter(tiny_model):
    rgb, data = filtered_file(tiny_model, size=(300, 210))
    file = container.unpack(data)
    coding, transforms = decoder_of(tiny_model).decode(file), decoder_of(tiny_model).transforms
    assert coding.wiener is not None
    one, many = (transforms.synthesise(coding.latent, (210, 300), 60, wiener=coding.wiener, side=side) for side in (1000, 4))
    assert np.abs(one.astype(int) - many.astype(int)).max() <= 1


def test_previews_do_without_the_filter(tiny_model):
    rgb, data = filtered_file(tiny_model)
    bare = container.pack(dataclasses.replace(container.unpack(data), filter=b""))
    for groups in (1, 2):
        same = np.array_equal(*(api.restore_picture(each, model=tiny_model, groups=groups).rgb for each in (data, bare)))
        assert same == (groups == 1)
    cut = container.truncate(data, groups=1)
    preview = api.restore_picture(cut, model=tiny_model, allow_truncated=True).rgb
    assert np.array_equal(preview, api.restore_picture(bare, model=tiny_model, groups=1).rgb)


def test_a_malformed_filter_is_refused(tiny_model):
    _, data = filtered_file(tiny_model)
    forged = container.pack(dataclasses.replace(container.unpack(data), filter=b"\xff"))
    for read in (api.decompress, api.verify):
        with pytest.raises(FormatError, match="filter"):
            read(forged, model=tiny_model)


def test_large_pictures_are_sampled_everywhere():
    every = fitting_tiles(60, 64)
    assert sum((tile.bottom - tile.top) * (tile.right - tile.left) for tile in every) == 60 * 64
    some = fitting_tiles(300, 400)
    assert len(some) == FIT_TILES and some[0].top < 80 and some[-1].bottom > 220
    assert all(tile.bottom <= 300 and tile.right <= 400 for tile in some)
    thin = fitting_tiles(1, 9000)
    assert sum(tile.right - tile.left for tile in thin) >= 8 * 24
    assert min(tile.left for tile in thin) < 1200 < 8000 < max(tile.right for tile in thin)


def test_a_target_psnr_counts_the_filter(tiny_model):
    picture = Picture(rgb=photo(120, 90))
    trial = api.compress_picture(picture, target=Target("psnr", 24.0), model=tiny_model)
    assert container.unpack(trial.data).filter
    assert trial.score == psnr_db(picture.rgb, api.restore_picture(trial.data, model=tiny_model).rgb) >= 24.0


def test_tiles_that_are_there_already_give_the_same_filter(tiny_model):
    """The encoder keeps what it synthesised for the details of a small picture."""
    rgb, encoder = photo(150, 101), encoder_of(tiny_model)
    coding = encoder.encode_latent(encoder.transforms.analyse(rgb, 60), 60)
    kept = {tile: made for tile, made in encoder.transforms.each_pixels(coding.latent, 60, context=True)}
    assert list(kept) == [Tile(0, 7, 0, 10)]
    assert encoder.fit_filter(coding, rgb, kept) == encoder.fit_filter(coding, rgb) is not None


def test_features_are_those_of_their_windows():
    values = np.random.default_rng(2).normal(size=(3, 21, 17)).astype(np.float32)
    features = features_of(values)
    views = np.lib.stride_tricks.sliding_window_view(values.astype(float), (5, 5), (1, 2))
    windows = np.einsum("ayxij,nij->anyx", views, window_maps()).reshape(27, -1)
    np.testing.assert_allclose(features[:27], windows, rtol=0, atol=1e-5)
    assert (features[27] == 1).all()
