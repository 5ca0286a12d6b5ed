"""The fast forms of layers are the layers of CODEC.md: the block form of the lapped transform, blocks worked off in the cache."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from looc_codec import transforms
from looc_codec.transforms import QualityTable, ResidualBlock, blended, lapped_analysis, lapped_synthesis


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


@pytest.mark.parametrize("shape", [(1, 6, 9, 7), (3, 6, 5, 8), (1, 6, 1, 1), (2, 1, 4, 4)])
@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
def test_a_block_without_gradients_is_the_block_with_them(monkeypatch, shape, memory):
    # So few features at a time that there are many runs, the last one short.
    monkeypatch.setattr(transforms, "CACHED_FEATURES", 60)
    block = ResidualBlock(shape[1])
    torch.nn.init.normal_(block.project.weight)
    x = torch.randn(shape).contiguous(memory_format=memory)
    kept = x.clone()
    expected = block(x).detach()
    with torch.no_grad():
        found = block(x)
    assert not torch.equal(expected, x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(x, kept)


def test_a_quality_table_blends_all_anchors_to_what_it_looks_up():
    table = QualityTable(8, 5)
    torch.nn.init.normal_(table.table)
    quality = torch.tensor([1.0, 2.0, 33.0, 57.5, 99.0, 100.0])
    torch.testing.assert_close(blended(table.table, quality)[:, :, None, None], table(quality), rtol=1e-5, atol=1e-6)
