"""The block forms of the lapped transform are the wide strided convolutions of CODEC.md."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from looc_codec.transforms import lapped_analysis, lapped_synthesis


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
