"""--effort: never a dearer file for its picture, the same decoder, the same default."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import encoder_of, tiny_config
from PIL import Image
from test_cli import run, tiny_installed  # noqa: F401
from test_codec import photo

from looc_codec import api, effort as refinement
from looc_codec.codec.model import CodecModel
from looc_codec.codec.rate_control import Target
from looc_codec.errors import ImageError
from looc_codec.images import Picture


def cost(data: bytes, rgb: np.ndarray, level: int, model) -> float:
    return refinement.lagrangian_cost(len(data), rgb, np.asarray(api.decompress(data, model=model).convert("RGB")), level, model.config)


@pytest.mark.parametrize("level", [1, 30, 60, 100])
@pytest.mark.parametrize("size", [(1, 1), (70, 50), (129, 33)])
def test_effort_never_costs_more(tiny_model, level, size):
    rgb = photo(*size)
    plain = api.compress(rgb, level=level, model=tiny_model)
    costs = [cost(api.compress(rgb, level=level, model=tiny_model, effort=effort), rgb, level, tiny_model) for effort in range(3)]
    assert api.compress(rgb, level=level, model=tiny_model, effort=0) == plain
    assert costs == sorted(costs, reverse=True)


def test_effort_gains_with_the_shipped_weights():
    from skimage.data import astronaut

    rgb = np.ascontiguousarray(astronaut()[:192, 130:322, :3])
    model = api.load_model()
    costs = [cost(api.compress(rgb, level=30, model=model, effort=effort), rgb, 30, model) for effort in (0, 1, 2)]
    assert costs[1] < 0.997 * costs[0] and costs[2] < 0.995 * costs[0]


def test_effort_serves_the_metric_of_the_model(tiny_model_file):
    """By structure where a picture is large enough for it, by squared error elsewhere."""
    model = api.load_model(tiny_model_file)
    config = dataclasses.replace(model.config, metric="ms-ssim")
    model = CodecModel(config, dict(model.core), dict(model.transforms), dict(model.shapes), dict(model.graphs))
    large, small = photo(200, 170), photo(200, 100)
    for rgb in (large, small):
        costs = [cost(api.compress(rgb, level=40, model=model, effort=effort), rgb, 40, model) for effort in range(3)]
        assert costs == sorted(costs, reverse=True)
    decoded = np.asarray(api.decompress(api.compress(large, level=40, model=model), model=model).convert("RGB"))
    by_structure, by_error = (refinement.lagrangian_cost(0, large, decoded, 40, dataclasses.replace(model.config, metric=metric)) for metric in ("ms-ssim", "mse"))
    assert by_structure != pytest.approx(by_error, rel=0.02)
    decoded = np.asarray(api.decompress(api.compress(small, level=40, model=model), model=model).convert("RGB"))
    by_structure, by_error = (refinement.lagrangian_cost(0, small, decoded, 40, dataclasses.replace(model.config, metric=metric)) for metric in ("ms-ssim", "mse"))
    assert by_structure == pytest.approx(by_error, rel=1e-4)


def test_effort_of_the_shipped_structure_model_gains_structure():
    """In SSIMULACRA 2, which it serves, and in MS-SSIM."""
    from skimage.data import astronaut

    from looc_codec import metrics
    from looc_codec.networks.ssimulacra2 import visible_error

    rgb = np.ascontiguousarray(astronaut()[:192, 130:322, :3])
    plain, refined = (api.compress(rgb, level=30, model="photo", effort=effort) for effort in (0, 1))
    decoded = [np.asarray(api.decompress(data).convert("RGB")) for data in (plain, refined)]
    similar = [1 - metrics.ms_ssim(rgb, picture) for picture in decoded]
    visible = [float(visible_error(*(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() for pixels in (picture, rgb)))) for picture in decoded]
    assert visible[1] < 0.95 * visible[0] and similar[1] < 0.99 * similar[0] and len(refined) < 1.04 * len(plain)


def test_a_cost_through_a_filter_is_that_of_the_filtered_picture(tiny_model):
    """In one tile and in several, whose borders need what lies beyond them."""
    config = dataclasses.replace(tiny_model.config, metric="ms-ssim")
    rgb = photo(200, 170)
    decoded = np.clip(rgb + np.random.default_rng(0).normal(0, 6, rgb.shape), 0, 255).astype(np.uint8)
    statistics = refinement.Statistics(False)
    statistics.add(decoded.transpose(2, 0, 1).astype(np.float32), refinement.Margins(0, 0, 0, 0), rgb.transpose(2, 0, 1).astype(np.float32))
    wiener, gain = statistics.fit(1.0)
    assert wiener is not None and gain > 0
    shown = refinement.filtered(torch.from_numpy(decoded.transpose(2, 0, 1).astype(np.float32)), wiener).clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
    through = refinement.lagrangian_cost(0, rgb, decoded, 40, config, wiener)
    assert through == pytest.approx(refinement.lagrangian_cost(0, rgb, shown, 40, config), rel=1e-5)
    assert through < refinement.lagrangian_cost(0, rgb, decoded, 40, config)
    # Tiles this small are judged by squared error, which does not mind where it is cut.
    by_tiles = []
    for positions in (48, 4):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(refinement, "TILE_POSITIONS", positions)
            patch.setattr(refinement, "SERVED", {"ms-ssim": "mse"})
            by_tiles.append(refinement.lagrangian_cost(0, rgb, decoded, 40, config, wiener))
    assert by_tiles[1] == pytest.approx(by_tiles[0], rel=1e-5)


def test_grey_pictures_are_refined_as_grey(tiny_model):
    plane = np.ascontiguousarray(photo(80, 60)[..., 0])
    rgb = np.repeat(plane[..., None], 3, 2)
    before, after = (cost(api.compress(Image.fromarray(plane), level=60, model=tiny_model, effort=effort), rgb, 60, tiny_model) for effort in (0, 2))
    assert after <= before


def test_correction_of_tiles_is_that_of_the_whole(tiny_model):
    rgb = photo(230, 150)
    encoder, refine = encoder_of(tiny_model), refinement.Refinement(tiny_model, 1, 2)
    coding = encoder.encode_latent(encoder.transforms.analyse(rgb, 60), 60)
    whole, tiled = (refine.decode_with_correction(coding, rgb, side=side) for side in (100, 4))
    assert np.abs(whole[0].astype(int) - tiled[0]).max() <= 1
    assert np.abs(whole[0].astype(int) - encoder.transforms.synthesise(coding.latent, rgb.shape[:2], 60)).max() <= 1
    assert (whole[1] - tiled[1]).abs().max() < 0.02 * whole[1].abs().max()


def test_correction_of_an_orthonormal_transform_is_the_error_of_the_latent():
    """Without branches a fresh pair is the DCT, whose corrected target is the analysed latent itself."""
    from looc_codec.networks.model import LoocModel
    from looc_codec.training.codes import CodeFitter
    from looc_codec.training.export import export

    config = tiny_config(channels=768, groups=(256, 512), analysis_blocks=(0, 0), synthesis_blocks=(0, 0, 0))
    trainable = LoocModel(config).requires_grad_(False)
    CodeFitter(trainable).start()
    model = export(trainable)
    encoder, refine = encoder_of(model), refinement.Refinement(model, 1, 2)
    # Stored kernels are rounded to 12 bits; these are not.
    refine.synthesis = trainable.synthesis
    rgb = photo(64, 48)
    latent = trainable.analysis(torch.from_numpy(rgb).permute(2, 0, 1)[None].float(), torch.tensor([50.0]))[0].numpy()
    coding = dataclasses.replace(encoder.encode_latent(latent, 50), latent=(np.round(latent * 4) * 4).astype(np.int16))
    _, correction, _ = refine.decode_with_correction(coding, rgb)
    assert np.abs(coding.latent / 16 - correction.numpy() - latent).max() < 1e-3


def test_descent_leaves_what_rounding_explains():
    """A correction that is a multiple of the own error moves a latent by a tenth of that error at most, one that is not by all of it over the slope."""
    error = torch.randn(4, 20, 30, generator=torch.Generator().manual_seed(0))
    slope = torch.tensor([0.3, 0.5, 0.8, 1.0])[:, None, None]
    moved = refinement.descent(error, slope * error)
    assert (moved - 0.1 * error).abs().max() < 0.1 * error.abs().max()
    other = 0.1 * torch.randn(4, 20, 30, generator=torch.Generator().manual_seed(1))
    other -= (other * error).sum((1, 2), keepdim=True) / error.square().sum((1, 2), keepdim=True) * error
    torch.testing.assert_close(refinement.descent(error, slope * error + other) - moved, -other / slope, rtol=0.1, atol=0.1)


def test_no_code_goes_far_beyond_the_errors_of_its_channel():
    """Where a metric's gradient has a peak."""
    error = 0.3 * torch.randn(4, 20, 30, generator=torch.Generator().manual_seed(0))
    peak = torch.zeros_like(error)
    peak[:, 7, 9] = 80
    moved = refinement.descent(error, 0.5 * error + peak, refinement.FARTHEST)
    assert (moved[:, 7, 9] < -0.4).all() and moved.abs().max() < 0.35 * refinement.FARTHEST
    assert refinement.descent(error, 0.5 * error + peak).abs().max() > 50


def test_nothing_to_correct_moves_nothing():
    still = torch.zeros(3, 2, 2)
    assert torch.equal(refinement.descent(still, still), still)


@pytest.mark.parametrize("effort", [-1, 4, 1.5, "2", None])
def test_wrong_effort_is_refused(tiny_model, effort):
    with pytest.raises(ImageError, match="effort"):
        api.compress(photo(20, 20), model=tiny_model, effort=effort)


def test_rate_control_takes_effort(tiny_model):
    picture = Picture(rgb=photo(90, 70))
    trial = api.compress_picture(picture, target=Target("size", 700), model=tiny_model, effort=1)
    assert len(trial.data) <= 700
    assert api.decompress(trial.data, model=tiny_model).size == (90, 70)


def test_the_command_takes_effort(tmp_path, tiny_installed):  # noqa: F811
    source, packed = tmp_path / "a.png", tmp_path / "a.looc"
    Image.fromarray(photo(70, 50)).save(source)
    assert run("compress", source, "-o", packed, "-m", tiny_installed, "--effort", 2).exit_code == 0
    assert packed.read_bytes() == api.compress(Image.open(source), model=tiny_installed, effort=2)
    assert run("compress", source, "-m", tiny_installed, "--effort", 4).exit_code == 2
