"""The fast forms of layers are the layers of CODEC.md: the block form of the lapped transform, the synthesis in stages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_config

from looc_codec.networks.transforms import QualityTable, Synthesis, blended, lapped_analysis, lapped_synthesis


def test_analysis_is_the_strided_convolution():
    kernels, pixels = torch.randn(10, 3, 32, 32), torch.randn(2, 3, 80, 112)
    torch.testing.assert_close(lapped_analysis(pixels, kernels), F.conv2d(pixels, kernels, stride=16), rtol=1e-4, atol=1e-3)


def test_synthesis_is_the_transposed_convolution_without_its_margin():
    kernels, latent = torch.randn(10, 3, 32, 32), torch.randn(2, 10, 4, 6)
    expected = F.conv_transpose2d(latent, kernels, stride=16)[:, :, 8:-8, 8:-8]
    torch.testing.assert_close(lapped_synthesis(latent, kernels), expected, rtol=1e-4, atol=1e-3)


def test_synthesis_is_the_transpose_of_analysis():
    kernels = torch.randn(10, 3, 32, 32)
    pixels, latent = torch.randn(1, 3, 48, 64), torch.randn(1, 10, 3, 4)
    forward = (lapped_analysis(F.pad(pixels, (8,) * 4), kernels) * latent).sum()
    torch.testing.assert_close(forward, (lapped_synthesis(latent, kernels) * pixels).sum(), rtol=1e-3, atol=1e-2)


@pytest.fixture(scope="module")
def synthesis() -> Synthesis:
    """A synthesis all of whose layers do something."""
    generator = torch.Generator().manual_seed(2)
    synthesis = Synthesis(tiny_config()).eval().requires_grad_(False)
    for parameter in synthesis.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return synthesis


def test_the_stages_of_the_synthesis_make_all_of_it(synthesis):
    latent, quality = 3 * torch.randn(2, 24, 5, 7), torch.tensor([20.0, 70.0])
    corrected, features = synthesis.corrected(latent, quality)
    assert not torch.equal(corrected, latent)
    linear = synthesis.linear_pixels(corrected, quality)
    expected = F.conv_transpose2d(corrected * synthesis.log_step(quality).exp(), synthesis.linear, stride=16)[:, :, 8:-8, 8:-8]
    torch.testing.assert_close(linear, expected, rtol=1e-4, atol=1e-2)
    pixels = synthesis.finished(synthesis.features8(features), F.pad(linear, (4,) * 4), quality)
    assert pixels.shape == (2, 3, 80, 112) and (pixels - linear - 128).abs().max() > 1
    torch.testing.assert_close(pixels, synthesis(latent, quality), rtol=1e-5, atol=1e-3)


def test_a_synthesis_without_blocks_is_its_linear_pixels():
    synthesis = Synthesis(tiny_config(synthesis_blocks=(0, 0, 0)))
    latent, quality = torch.randn(1, 24, 3, 4), torch.tensor([50.0])
    assert torch.equal(synthesis(latent, quality), synthesis.linear_pixels(latent, quality) + 128)


@pytest.mark.parametrize("shrink", [2, 4, 8, 16])
def test_small_pixels_are_the_means_of_the_linear_ones(synthesis, shrink):
    latent, quality = 3 * torch.randn(2, 24, 5, 7), torch.tensor([20.0, 70.0])
    expected = F.avg_pool2d(synthesis.linear_pixels(latent, quality), shrink)
    torch.testing.assert_close(synthesis.small_pixels(latent, quality, shrink), expected, rtol=1e-4, atol=1e-2)


def test_a_quality_table_blends_all_anchors_to_what_it_looks_up():
    table = QualityTable(8, 5)
    torch.nn.init.normal_(table.table)
    quality = torch.tensor([1.0, 2.0, 33.0, 57.5, 99.0, 100.0])
    torch.testing.assert_close(blended(table.table, quality)[:, :, None, None], table(quality), rtol=1e-5, atol=1e-6)
