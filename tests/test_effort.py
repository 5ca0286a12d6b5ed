"""--effort: never a dearer file for its picture, the same decoder, the same default."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import run, tiny_installed  # noqa: F401
from test_codec import photo

from looc_codec import codec, rate_control, refine
from looc_codec.errors import ImageError
from looc_codec.images import Picture


def cost(data: bytes, rgb: np.ndarray, quality: int, model) -> float:
    return refine.lagrangian_cost(len(data), rgb, np.asarray(codec.decompress(data, model=model).convert("RGB")), quality, model.config)


@pytest.mark.parametrize("quality", [1, 30, 60, 100])
@pytest.mark.parametrize("size", [(1, 1), (70, 50), (129, 33)])
def test_effort_never_costs_more(tiny_model, quality, size):
    rgb = photo(*size)
    plain = codec.compress(rgb, quality=quality, model=tiny_model)
    costs = [cost(codec.compress(rgb, quality=quality, model=tiny_model, effort=effort), rgb, quality, tiny_model) for effort in range(3)]
    assert codec.compress(rgb, quality=quality, model=tiny_model, effort=0) == plain
    assert costs == sorted(costs, reverse=True)


def test_effort_gains_with_the_shipped_weights():
    from skimage.data import astronaut

    rgb = np.ascontiguousarray(astronaut()[:192, 130:322, :3])
    model = codec.load_model()
    costs = [cost(codec.compress(rgb, quality=30, model=model, effort=effort), rgb, 30, model) for effort in (0, 1, 2)]
    assert costs[1] < 0.997 * costs[0] and costs[2] < 0.995 * costs[0]


def test_grey_pictures_are_refined_as_grey(tiny_model):
    plane = np.ascontiguousarray(photo(80, 60)[..., 0])
    rgb = np.repeat(plane[..., None], 3, 2)
    before, after = (cost(codec.compress(Image.fromarray(plane), quality=60, model=tiny_model, effort=effort), rgb, 60, tiny_model) for effort in (0, 2))
    assert after <= before


def test_correction_of_tiles_is_that_of_the_whole(tiny_model):
    rgb = photo(230, 150)
    latent_hat = codec.encode_latent(codec.analyse(rgb, 60, tiny_model), 60, tiny_model)[2]
    halo = codec.synthesis_halo(tiny_model.config.synthesis_blocks)
    whole, tiled = (refine.decode_with_correction(latent_hat, rgb, 60, tiny_model, halo, False, tile=tile) for tile in (100, 4))
    assert np.abs(whole[0].astype(int) - tiled[0]).max() <= 1
    assert np.abs(whole[0].astype(int) - codec.synthesise(latent_hat, rgb.shape[:2], 60, tiny_model)).max() <= 1
    assert (whole[1] - tiled[1]).abs().max() < 0.02 * whole[1].abs().max()


def test_correction_of_an_orthonormal_transform_is_the_error_of_the_latent():
    """Without branches a fresh pair is the DCT, whose corrected target is the analysed latent itself."""
    from conftest import tiny_config

    from looc_codec.model import LoocModel

    model = LoocModel(tiny_config(channels=768, groups=(256, 512), analysis_blocks=(0, 0), synthesis_blocks=(0, 0, 0))).eval().requires_grad_(False)
    rgb = photo(64, 48)
    latent = codec.analyse(rgb, 50, model)
    latent_hat = (latent * 4).round().int() * 4
    _, correction, _ = refine.decode_with_correction(latent_hat, rgb, 50, model, 4, False)
    assert (latent_hat.float() / 16 - correction - latent).abs().max() < 1e-3


def test_gradient_through_contexts_of_tiles_is_that_of_the_whole(tiny_model):
    latent_hat = codec.encode_latent(codec.analyse(photo(300, 230), 60, tiny_model), 60, tiny_model)[2]
    whole, tiled = (tiny_model.prior.context_gradient(latent_hat, 60, tile=tile) for tile in (100, 4))
    assert whole.abs().max() > 0.01
    torch.testing.assert_close(tiled, whole, rtol=1e-3, atol=1e-4)


def test_what_nothing_is_predicted_from_has_no_gradient_through_contexts(tiny_model):
    """The last level of the last group; a change of any latent before it reaches bits."""
    from looc_codec.prior import level_masks, levels_of_group

    groups = tiny_model.config.groups
    latent_hat = codec.encode_latent(codec.analyse(photo(160, 130), 80, tiny_model), 80, tiny_model)[2]
    gradient = tiny_model.prior.context_gradient(latent_hat, 80)[-groups[-1] :]
    first, last = level_masks(levels_of_group(len(groups) - 1), *latent_hat.shape[1:])
    assert not gradient[:, last].any() and gradient[:, first].any()


def test_bits_follow_the_gradient_through_contexts(tiny_model):
    """Steps of the latents with the largest gradients change the bits of what is predicted from them about as much as the gradient says."""
    coded = codec.encode_latent(codec.analyse(photo(160, 130), 60, tiny_model), 60, tiny_model)[2]
    gradient = tiny_model.prior.context_gradient(coded, 60)
    step = gradient.sign() * (gradient.abs() > gradient.abs().quantile(0.99))
    with torch.no_grad():
        lower, upper = (float(tiny_model.prior.bits_given((coded + sign * 16 * step)[None].float(), coded[None].float(), 60)) for sign in (-1, 1))
    expected = 2 * float((gradient * step).sum())
    assert 0.5 * expected < upper - lower < 2 * expected


@pytest.mark.parametrize("effort", [-1, 4, 1.5, "2", None])
def test_wrong_effort_is_refused(tiny_model, effort):
    with pytest.raises(ImageError, match="effort"):
        codec.compress(photo(20, 20), model=tiny_model, effort=effort)


def test_rate_control_takes_effort(tiny_model):
    picture = Picture(rgb=photo(90, 70))
    trial = rate_control.compress_to_size(picture, 700, model=tiny_model, effort=1)
    assert len(trial.data) <= 700
    assert codec.decompress(trial.data, model=tiny_model).size == (90, 70)


def test_the_command_takes_effort(tmp_path, tiny_installed):  # noqa: F811
    source, packed = tmp_path / "a.png", tmp_path / "a.looc"
    Image.fromarray(photo(70, 50)).save(source)
    assert run("compress", source, "-o", packed, "-m", tiny_installed, "--effort", 2).exit_code == 0
    assert packed.read_bytes() == codec.compress(Image.open(source), model=tiny_installed, effort=2)
    assert run("compress", source, "-m", tiny_installed, "--effort", 4).exit_code == 2
