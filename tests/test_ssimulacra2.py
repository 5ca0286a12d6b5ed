"""SSIMULACRA 2 with a gradient: the package's figures, and a gradient that is finite and true."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from test_codec import photo

from looc_codec.networks import gaussian, ssimulacra2
from looc_codec.networks.ssimulacra2 import score, visible_error
from looc_codec.report.distortion import METRICS


def tensor(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float()


def noisy(rgb: np.ndarray, sigma: float) -> np.ndarray:
    return np.clip(np.rint(rgb + np.random.default_rng(0).normal(0, sigma, rgb.shape)), 0, 255).astype(np.uint8)


def smoothed(rgb: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(rgb, (sigma, sigma, 0))


def own_score(decoded: np.ndarray, rgb: np.ndarray) -> float:
    return float(score(visible_error(tensor(decoded), tensor(rgb))))


def with_margins_of_the_package(maps: torch.Tensor) -> torch.Tensor:
    """Zeros left and right, mirrored above and below."""
    wide = np.pad(maps.double().numpy(), [(0, 0)] * (maps.ndim - 1) + [(5, 5)])
    return torch.from_numpy(ndimage.gaussian_filter(wide, 1.5, radius=5, axes=(-2, -1))[..., 5:-5]).float()


DISTORTIONS = [*((noisy, sigma) for sigma in (1, 4, 15)), *((smoothed, sigma) for sigma in (0.5, 1, 2))]


@pytest.mark.parametrize("size", [(256, 256), (301, 275)])
def test_it_is_the_packages_but_for_margins(monkeypatch, size):
    """Five scales, those of the smallest picture that has all of them; odd sides, too."""
    rgb = photo(*size)
    pairs = [(make(rgb, sigma), rgb) for make, sigma in DISTORTIONS]
    package = [METRICS["ssimulacra2"].compute(original, decoded) for decoded, original in pairs]
    own = [own_score(*pair) for pair in pairs]
    assert np.argsort(own).tolist() == np.argsort(package).tolist()
    assert np.abs(np.subtract(own, package)).max() < 6
    monkeypatch.setattr(ssimulacra2, "windowed_mean", with_margins_of_the_package)
    assert [own_score(*pair) for pair in pairs] == pytest.approx(package, abs=0.02)


def test_equal_pictures_have_the_highest_score():
    rgb = photo(100, 90)
    assert own_score(rgb, rgb) == 100
    assert own_score(noisy(rgb, 1), rgb) < 99


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (8, 8), (20, 200), (176, 176)])
def test_the_gradient_is_finite_everywhere(size):
    texture = tensor(photo(*size))
    flat, black, white = (torch.full_like(texture, value) for value in (90.0, 0.0, 255.0))
    pairs = [(texture, texture), (flat, flat), (black, black), (white, white), (black, white), (flat, texture), (texture, flat)]
    for decoded, pixels in (*pairs, (5 * texture - 400, texture), (texture + 1e-4, texture)):
        decoded = decoded.clone().requires_grad_()
        error = visible_error(decoded, pixels).sum()
        assert error.isfinite() and error >= 0
        assert torch.autograd.grad(error, decoded)[0].isfinite().all()


def test_the_gradient_is_true():
    rgb = photo(80, 96)
    decoded, pixels = tensor(smoothed(noisy(rgb, 6), 0.7)).requires_grad_(), tensor(rgb)
    (gradient,) = torch.autograd.grad(visible_error(decoded, pixels).sum(), decoded)
    way = 0.5 * gradient / gradient.abs().max()
    with torch.no_grad():
        difference = visible_error(decoded + way, pixels) - visible_error(decoded - way, pixels)
    assert float(difference) == pytest.approx(2 * float((gradient * way).sum()), rel=0.02)


def test_pictures_of_a_batch_do_not_meet():
    pixels = torch.cat([tensor(photo(64, 70, seed=seed)) for seed in range(2)])
    decoded = pixels + 4 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([visible_error(decoded[index : index + 1], pixels[index : index + 1]) for index in range(2)])
    torch.testing.assert_close(visible_error(decoded, pixels), alone, rtol=1e-4, atol=1e-5)


def test_the_window_is_scipys_and_its_gradient_that_of_a_convolution():
    maps = torch.rand(2, 37, 70, generator=torch.Generator().manual_seed(0)).requires_grad_()
    window = torch.exp(-((torch.arange(11) - 5.0) ** 2) / 4.5)
    window = window / window.sum()
    expected = torch.nn.functional.conv2d(maps[:, None], (window[:, None] * window)[None, None], padding=5)[:, 0]
    found = gaussian.blurred(maps)
    torch.testing.assert_close(found, expected)
    weights = torch.rand(found.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(*(torch.autograd.grad((blurred * weights).sum(), maps)[0] for blurred in (found, expected)))
    torch.testing.assert_close(ssimulacra2.windowed_mean(torch.ones(2, 9, 3)), torch.ones(2, 9, 3))
