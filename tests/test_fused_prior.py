"""The prior's rates in few launches of a GPU (interpreted where there is none)."""

from __future__ import annotations


import pytest
import torch
from conftest import tiny_config

from looc_codec.networks.model import LoocModel
from looc_codec.networks.prior import JointIntegers
from looc_codec.training.codes import CodeFitter

fused_search = pytest.importorskip("looc_codec.training.fused_search", reason="needs triton", exc_type=ImportError)
fused = pytest.importorskip("looc_codec.training.fused_prior", reason="needs triton", exc_type=ImportError)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH, HEIGHT, WIDTH = 2, 9, 7


@pytest.fixture(params=[True, False], ids=["codes", "rounding"])
def case(request, monkeypatch):
    """A prior with uneven weights, what quantises for it, and latents with some far values."""
    monkeypatch.setattr(fused, "HALF", torch.float32)
    monkeypatch.setattr(fused, "product", lambda one, other: one @ other)
    # The same noise for both, whatever the order in which they draw it.
    monkeypatch.setattr(torch, "rand_like", lambda x, **options: torch.full_like(x, 0.3))
    torch.manual_seed(0)
    model = LoocModel(tiny_config(groups=(8, 10, 6), prior_depth=2, ratio_classes=5, trellis_states=1)).to(DEVICE)
    for name, parameter in model.prior.named_parameters():
        if name.endswith("table") or "neighbours" in name or name.endswith("bias"):
            torch.nn.init.uniform_(parameter, -0.3, 0.5)
    codes = CodeFitter(model, DEVICE)
    codes.start()
    latent = (3 * torch.randn(BATCH, 24, HEIGHT, WIDTH)).to(DEVICE)
    latent[0, :3] *= 40
    return model.prior, codes if request.param else None, latent


def results(prior, codes, latent, rates, kept):
    """Figures of a batch, and gradients of a function of them."""
    latent = latent.clone().requires_grad_()
    with JointIntegers(list(prior.integer_layers().values())):
        # The codes' own choice on a CPU has a short cut.
        quantise = None if codes is None else lambda residual, log_scale: fused_search.quantise(codes.book, residual, log_scale, codes.lagrangian)
        result = rates(latent, torch.tensor([13.0, 88.0], device=DEVICE), quantise, kept)
    generator = torch.Generator().manual_seed(5)
    weights = [torch.randn(result[name].shape, generator=generator).to(DEVICE) for name in ("residual", "log_scale", "latent_hat")]
    value = sum((result[name] * weight).sum() for name, weight in zip(("residual", "log_scale", "latent_hat"), weights, strict=True)) + 0.1 * result["bits"].sum()
    return result, torch.autograd.grad(value, [latent, *prior.parameters()], allow_unused=True)


@pytest.mark.parametrize("kept", [None, (1.0, 3.0)])
def test_rates_and_gradients_are_those_of_single_operations(case, kept):
    prior, codes, latent = case
    kept = None if kept is None else torch.tensor(kept, device=DEVICE)
    quick = fused.FusedRates(prior, None if codes is None else codes.book, 0.0 if codes is None else codes.lagrangian)
    (plain, gradients), (own, own_gradients) = (results(prior, codes, latent, rates, kept) for rates in (prior.rates, quick))
    for name in ("residual", "log_scale", "latent_hat", "bits"):
        assert own[name].shape == plain[name].shape
        torch.testing.assert_close(own[name], plain[name], rtol=1e-4, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}")
    names = ["latent", *(name for name, _ in prior.named_parameters())]
    assert any("neighbours" in name and value.abs().max() > 0 for name, value in zip(names, gradients, strict=True))
    for name, one, other in zip(names, gradients, own_gradients, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3 * float(one.abs().max() + 1), msg=lambda text, name=name: f"{name}: {text}")


def test_products_of_activations_and_integer_weights_are_exact():
    one, other = torch.randint(0, 256, (40, 160), device=DEVICE).bfloat16(), torch.randint(-127, 128, (160, 24), device=DEVICE).bfloat16()
    assert torch.equal(fused.product(one, other).double(), one.double() @ other.double())
