"""The layers of the transforms as few kernels of a GPU (interpreted where there is none)."""

from __future__ import annotations


import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_config

from looc_codec.networks.transforms import Analysis, ResidualBlock, Synthesis

fused = pytest.importorskip("looc_codec.training.fused_layers", reason="needs triton", exc_type=ImportError)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.fixture
def in_bfloat16(monkeypatch):
    """Autocast, with the kernels used whatever the device is."""
    monkeypatch.setattr(fused, "applies", lambda x: torch.is_grad_enabled())
    with torch.autocast(DEVICE, torch.bfloat16):
        yield


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    return bool((one.float() - other.float()).norm() <= tolerance * other.float().norm())


@pytest.mark.parametrize("shape", [(130, 48), (64, 64), (3, 20), (700, 192)])
def test_elementwise_kernels_give_sums_and_gradients_of_all_positions(shape):
    value, other, bias = values(*shape), values(*shape, seed=1), values(shape[1], seed=2)
    total, half = fused.add_bias(value, bias, other, half=True)
    torch.testing.assert_close(total, value + bias + other)
    # Triton's interpreter cuts bfloat16 off instead of rounding.
    torch.testing.assert_close(half.float(), total, rtol=2**-7, atol=0)
    total, half, sums = fused.add_gradients(value, other, half=True)
    assert torch.equal(total, value + other)
    torch.testing.assert_close(half.float(), total, rtol=2**-7, atol=0)
    torch.testing.assert_close(sums, total.sum(0), rtol=1e-4, atol=1e-4)
    wide = (2 * value).requires_grad_()
    (expected,) = torch.autograd.grad(F.gelu(wide), wide, other)
    found, sums = fused.gelu_backward(other, wide.detach())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sums, expected.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_are_those_of_single_operations(in_bfloat16, dtype):
    torch.manual_seed(0)
    blocks = torch.nn.Sequential(*(ResidualBlock(24) for _ in range(2))).to(DEVICE)
    for block in blocks:
        torch.nn.init.normal_(block.project.weight, std=0.2)
        torch.nn.init.normal_(block.project.bias, std=0.2)
    x = values(2, 24, 6, 5).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, found = values(2, 24, 6, 5, seed=1), []
    # The standard is float32: both are bfloat16 within.
    with torch.autocast(DEVICE, enabled=False):
        plain = blocks(x.float())
        found.append(torch.autograd.grad((plain * weight).sum(), [x, *blocks.parameters()]))
    own = fused.blocks_forward(blocks, x)
    assert own.dtype == dtype and close(own, plain, 0.01)
    found.append(torch.autograd.grad((own * weight).sum(), [x, *blocks.parameters()]))
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape and close(other, one, 0.03)


def test_joined_features_are_those_of_single_operations(in_bfloat16):
    torch.manual_seed(0)
    synthesis = Synthesis(tiny_config(synthesis_widths=(8, 8, 40))).to(DEVICE)
    for table in synthesis.modulation4.parameters():
        torch.nn.init.normal_(table)
    coarse, entered = values(2, 160, 5, 9).requires_grad_(), values(2, 40, 10, 18, seed=1).requires_grad_()
    weight, quality, found = values(2, 40, 10, 18, seed=2), torch.tensor([20.0, 70.0], device=DEVICE), []
    inputs = [coarse, entered, *synthesis.modulation4.parameters()]
    for function in (fused.joined_forward, Synthesis.joined):
        out = function(synthesis, coarse, entered, quality)
        found.append([out, *torch.autograd.grad((out * weight).sum(), inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_transforms_are_those_of_single_operations(in_bfloat16):
    config = tiny_config()
    torch.manual_seed(0)
    analysis, synthesis = Analysis(config).to(DEVICE), Synthesis(config).to(DEVICE)
    for transform in (analysis, synthesis):
        for parameter in transform.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    quality, pixels = torch.tensor([20.0, 70.0], device=DEVICE), 128 + 40 * values(2, 3, 64, 48)
    results = []
    for own in (False, True):
        if own:
            for transform in (analysis, synthesis):
                fused.fuse(transform)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=own):
            latent = analysis(pixels, quality)
            decoded = synthesis(latent.float().round(), quality)
        parameters = [*analysis.parameters(), *synthesis.parameters()]
        gradients = torch.autograd.grad((decoded.float() - pixels).square().mean() + latent.square().mean(), parameters, allow_unused=True)
        results.append((latent, decoded, gradients))
    (latent, decoded, gradients), (own_latent, own_decoded, own_gradients) = results
    assert close(own_latent, latent, 0.01) and close(own_decoded, decoded, 0.02)
    for one, other in zip(gradients, own_gradients, strict=True):
        assert (one is None) == (other is None)
        assert one is None or close(other, one, 0.06)
