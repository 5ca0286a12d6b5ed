"""Fixtures shared by all tests: tiny seeded models, made once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# Kernels for a GPU are interpreted where there is none. Triton reads this when something imports it first, which may be PyTorch.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def one_thread():
    """Gradients of convolutions on two threads differ from run to run in their last bits; on one thread they do not."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_config(**changes):
    from looc_codec.config import LoocConfig

    values = dict(
        name="tiny", channels=24, codebook_size=64, groups=(8, 16), prior_width=8, prior_depth=1,
        analysis_widths=(8, 8), analysis_blocks=(1, 1), synthesis_widths=(8, 8, 8), synthesis_blocks=(1, 1, 1),
    )
    return LoocConfig(**(values | changes))


def build_trainable_model(**changes):
    """A trainable LooC-VAE of a few thousand weights with non-trivial, seeded values everywhere."""
    from looc_codec.networks.model import LoocModel
    from looc_codec.training.codes import CodeFitter

    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = LoocModel(tiny_config(**changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("linear") or "log_gain" in name or "log_step" in name:
                continue
            spread = 0.3 if name.startswith("details.") else 0.1 if name.startswith("prior.") else 0.02
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
        # Spreads of about ten steps at most, as a trained prior would expect of such pictures.
        model.prior.quality_log_scale.table += torch.linspace(-1.0, 2.5, len(model.prior.quality_log_scale.table))[:, None]
    CodeFitter(model).start()
    return model.eval().requires_grad_(False)


def build_tiny_model(**changes):
    """The codec model of `build_trainable_model`."""
    from looc_codec.training.export import export

    return export(build_trainable_model(**changes))


@pytest.fixture(scope="session")
def tiny_model():
    return build_tiny_model()


@pytest.fixture(scope="session")
def tiny_model_file(tiny_model, tmp_path_factory) -> Path:
    from looc_codec.codec.model import write_model

    path = tmp_path_factory.mktemp("models") / "looc-tiny.safetensors"
    write_model(tiny_model, path)
    return path


def encoder_of(model, **options):
    from looc_codec import api

    return api.encoder_for(model, **options)


def decoder_of(model, **options):
    from looc_codec import api

    return api.decoder_for(model, **options)


def pytest_addoption(parser):
    parser.addoption("--regenerate-golden", action="store_true", help="write tests/golden anew (new format versions only)")
