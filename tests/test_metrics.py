"""Metrics against independent implementations: scikit-image, pytorch-msssim, scipy, and values known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from looc_codec import metrics
from looc_codec.errors import LoocError

ANCHOR = [(0.18, 24.7), (0.27, 26.7), (0.46, 29.1), (0.74, 31.4), (1.0, 32.9), (1.5, 35.4)]
TEST = [(0.10, 25.7), (0.27, 28.9), (0.48, 31.2), (0.9, 34.7), (1.9, 39.4)]


def noisy_pair(shape=(180, 200, 3), seed=7):
    generator = np.random.default_rng(seed)
    smooth = np.linspace(20, 230, shape[1])[None, :, None] + 20 * np.sin(np.arange(shape[0]) / 9)[:, None, None]
    first = np.clip(smooth + generator.normal(0, 5, shape), 0, 255).astype(np.uint8)
    second = np.clip(first + generator.normal(0, 9, shape), 0, 255).astype(np.uint8)
    return first, second


def test_psnr_agrees_with_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio

    first, second = noisy_pair()
    assert metrics.psnr_db(first, second) == pytest.approx(peak_signal_noise_ratio(first, second, data_range=255), abs=1e-9)


def test_psnr_of_known_differences():
    black = np.zeros((4, 5, 3), np.uint8)
    assert metrics.psnr_db(black, black) == math.inf
    assert metrics.psnr_db(black, black + 255) == 0.0
    assert metrics.psnr_db(black, black + 1) == pytest.approx(48.1308, abs=1e-4)


def test_psnr_does_not_wrap_around_in_8_bits():
    low, high = np.full((2, 2), 1, np.uint8), np.full((2, 2), 254, np.uint8)
    assert metrics.psnr_db(low, high) == metrics.psnr_db(high, low) == pytest.approx(20 * math.log10(255 / 253))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)),
        (np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)),
        (np.zeros((0, 2), np.uint8), np.zeros((0, 2), np.uint8)),
    ],
)
def test_psnr_refuses_what_is_not_comparable(first, second):
    with pytest.raises(ValueError):
        metrics.psnr_db(first, second)


def test_ms_ssim_agrees_with_pytorch_msssim():
    pytorch_msssim = pytest.importorskip("pytorch_msssim")
    torch = pytest.importorskip("torch")
    first, second = noisy_pair()
    as_batch = [torch.tensor(picture.transpose(2, 0, 1)[None].astype(np.float32)) for picture in (first, second)]
    expected = float(pytorch_msssim.ms_ssim(*as_batch, data_range=255))
    assert metrics.ms_ssim(first, second) == pytest.approx(expected, abs=1e-4)
    assert 0.5 < expected < 0.999
    assert metrics.ms_ssim(first, first) == pytest.approx(1.0)


def test_ms_ssim_refuses_small_pictures():
    small = np.zeros((160, 300, 3), np.uint8)
    with pytest.raises(ValueError, match="160"):
        metrics.ms_ssim(small, small)


def test_ms_ssim_db():
    assert metrics.ms_ssim_db(0.9) == pytest.approx(10.0)
    assert metrics.ms_ssim_db(1.0) == math.inf


def test_bits_per_pixel():
    assert metrics.bits_per_pixel(49152, 768, 512) == 1.0


def scipy_mean(x, y, low, high):
    order = np.argsort(x)
    return PchipInterpolator(np.array(x)[order], np.array(y)[order]).integrate(low, high) / (high - low)


def test_bd_rate_agrees_with_scipy():
    (rate_a, psnr_a), (rate_t, psnr_t) = np.array(ANCHOR).T, np.array(TEST).T
    low, high = max(psnr_a.min(), psnr_t.min()), min(psnr_a.max(), psnr_t.max())
    difference = scipy_mean(psnr_t, np.log(rate_t), low, high) - scipy_mean(psnr_a, np.log(rate_a), low, high)
    assert metrics.bd_rate_percent(ANCHOR, TEST) == pytest.approx(100 * (np.exp(difference) - 1), abs=1e-9)


def test_bd_psnr_agrees_with_scipy():
    (rate_a, psnr_a), (rate_t, psnr_t) = np.array(ANCHOR).T, np.array(TEST).T
    low, high = np.log(max(rate_a.min(), rate_t.min())), np.log(min(rate_a.max(), rate_t.max()))
    expected = scipy_mean(np.log(rate_t), psnr_t, low, high) - scipy_mean(np.log(rate_a), psnr_a, low, high)
    assert metrics.bd_psnr_db(ANCHOR, TEST) == pytest.approx(expected, abs=1e-9)


def test_bd_rate_of_known_curves():
    assert metrics.bd_rate_percent(ANCHOR, ANCHOR) == pytest.approx(0.0, abs=1e-12)
    fewer_bits = [(0.7 * bpp, psnr) for bpp, psnr in ANCHOR]
    assert metrics.bd_rate_percent(ANCHOR, fewer_bits) == pytest.approx(-30.0)
    assert metrics.bd_rate_percent(fewer_bits, ANCHOR) == pytest.approx(100 * (1 / 0.7 - 1))
    better = [(bpp, psnr + 1.5) for bpp, psnr in ANCHOR]
    assert metrics.bd_psnr_db(ANCHOR, better) == pytest.approx(1.5)


def test_order_of_the_points_does_not_matter():
    assert metrics.bd_rate_percent(ANCHOR[::-1], TEST[::-1]) == metrics.bd_rate_percent(ANCHOR, TEST)


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ([(0.1, 40.0), (0.2, 45.0)], "no PSNR in common"),
        ([(0.1, 30.0)], "at least two points"),
        ([], "at least two points"),
        ([(0.1, 30.0), (0.2, 30.0)], "same PSNR twice"),
        ([(0.0, 30.0), (0.2, 31.0)], "rate above zero"),
        ([(0.1, math.inf), (0.2, 31.0)], "finite"),
    ],
)
def test_incomparable_curves_are_a_typed_error(test, words):
    with pytest.raises(metrics.CurveError, match=words) as caught:
        metrics.bd_rate_percent(ANCHOR, test)
    assert isinstance(caught.value, LoocError)


def test_psnr_at_bpp():
    for bpp, psnr in ANCHOR:
        assert metrics.psnr_at_bpp(ANCHOR, bpp) == pytest.approx(psnr)
    assert 29.1 < metrics.psnr_at_bpp(ANCHOR, 0.6) < 31.4
    for outside in (0.0, 0.17, 1.51):
        with pytest.raises(metrics.CurveError, match="covers 0.180 to 1.500 bpp"):
            metrics.psnr_at_bpp(ANCHOR, outside)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.floats(0.01, 5.0), min_size=2, max_size=9),
    values=st.lists(st.floats(-50, 50), min_size=9, max_size=9),
)
def test_pchip_agrees_with_scipy(steps, values):
    x = np.cumsum(steps)
    y = np.array(values[: len(x)])
    at = np.linspace(x[0], x[-1], 31)
    np.testing.assert_allclose(metrics.pchip_values(x, y, at), PchipInterpolator(x, y)(at), rtol=1e-7, atol=1e-7)
