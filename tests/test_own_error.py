"""The rounding error's own share of the gradient, left out."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import tiny_config
from test_codec import photo

from looc_codec.data import PictureStore
from looc_codec.format.constants import LATENT_ONE
from looc_codec.networks.model import LoocModel
from looc_codec.training.codes import untrellised
from looc_codec.training.loop import Trainer, TrainOptions
from looc_codec.training.own_error import coded_error, explained, without_own_error
from looc_codec.training.run import fit_codes


@pytest.fixture
def latents():
    generator = torch.Generator().manual_seed(1)
    latent = 2 * torch.randn(2, 3, 6, 5, generator=generator)
    # The prior's means are anywhere; plain rounding of residuals gives some zeros.
    residual = LATENT_ONE * latent - torch.randint(-9, 9, latent.shape, generator=generator)
    code = torch.floor(residual / LATENT_ONE + 0.5) * LATENT_ONE
    return latent, (LATENT_ONE * latent - residual + code) / LATENT_ONE, residual, code


def test_the_gradient_lacks_what_the_rounding_errors_explain(latents):
    latent, latent_hat, residual, code = latents
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(2))
    gradient = 0.1 * noise + 0.7 * (latent_hat - latent)
    given = {}
    for left_out in (False, True):
        own = latent.clone().requires_grad_()
        decoded = own + (latent_hat - latent)
        decoded = without_own_error(decoded, own, residual) if left_out else decoded
        torch.testing.assert_close(decoded, latent_hat)
        decoded.backward(gradient)
        given[left_out] = own.grad
    error = coded_error(latent_hat, latent, residual)
    torch.testing.assert_close(given[False], gradient)
    torch.testing.assert_close(given[True], gradient - explained(gradient, error))
    # Nothing of it is left along the errors (against them it may point), and what is left out is a
    # good part of the gradient.
    assert (given[True] * error).sum((2, 3)).max() < 1e-4
    assert given[True].square().sum() < 0.6 * given[False].square().sum()


def test_codes_of_zero_keep_their_gradient(latents):
    latent, latent_hat, residual, code = latents
    error = coded_error(latent_hat, latent, residual)
    assert (code == 0).any() and torch.all(error[code == 0] == 0)
    torch.testing.assert_close(error[code != 0], (latent_hat - latent)[code != 0])


def test_slopes_below_zero_leave_nothing_out():
    error = torch.randn(1, 2, 4, 4)
    assert torch.all(explained(-error, error) == 0)
    torch.testing.assert_close(explained(3 * error, error), 3 * error)


def test_training_with_it_learns_and_changes_the_analysis_alone():
    store, gradients = PictureStore([photo(96, 80, seed=index) for index in range(3)]), []
    for left_out in (False, True):
        torch.manual_seed(0)
        options = TrainOptions(
            stage="codes",
            minutes=None,
            steps=24,
            batch=2,
            crop=32,
            prior_only_share=0.0,
            warmup_steps=4,
            leave_own_error=left_out,
        )
        model = LoocModel(tiny_config())
        codes = fit_codes(
            model,
            store,
            "cpu",
            lambda kind, row: None,
            book=untrellised(model.config),
            batches=3,
            crop=32,
            rounds=1,
        )
        trainer = Trainer(model, store, options, codes=codes)
        torch.manual_seed(1)
        trainer.passed(False, *trainer.inputs())
        gradients.append(
            {
                name: parameter.grad.clone()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }
        )
        losses = [float(trainer.step()["loss"].mean()) for _ in range(24)]
        assert all(map(math.isfinite, losses)) and sum(losses[-6:]) < sum(losses[:6])
    first, second = gradients
    assert all(
        torch.equal(first[name], second[name])
        for name in first
        if name.startswith(("synthesis.", "prior."))
    )
    assert any(
        not torch.equal(first[name], second[name]) for name in first if name.startswith("analysis.")
    )
