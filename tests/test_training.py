"""Training on a handful of generated pictures: it learns, stops, resumes exactly and exports."""

from __future__ import annotations

import csv
import dataclasses
import math

import numpy as np
import pytest
import pytorch_msssim
import torch
from conftest import tiny_config
from PIL import Image
from test_codec import photo

from looc_codec import api
from looc_codec.format.container import pack, unpack
from looc_codec.data import PictureStore, load_pictures
from looc_codec.networks.distortion import MS_SSIM_IN_MSE, MSE_SHARE, distortion
from looc_codec.errors import ImageError, ModelError
from looc_codec.codec.model import SCALES, read_model
from looc_codec.networks.model import LoocModel
from looc_codec.training.codes import latent_of, units_of
from looc_codec.training.grow import grown
from looc_codec.training.loop import Trainer, TrainOptions, has_fast_bf16
from looc_codec.training.loss import distortion_weight
from looc_codec.training.run import CHECKPOINT, WEIGHTS, RunRequest, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    for index in range(4):
        Image.fromarray(photo(96, 80, seed=index)).save(path / f"{index}.png")
    return path


def options(**changes):
    return TrainOptions(**(dict(minutes=None, steps=6, batch=2, crop=32, prior_only_share=0.3, log_every=2, warmup_steps=2) | changes))


def request(folder, out, **changes):
    values = dict(data=folder, out=out, config=tiny_config().to_dict(), options=options())
    return RunRequest(**(values | changes))


def parameters_of(model):
    return [name for name in model.transforms if not name.endswith(SCALES)]


def silent(kind, row):
    pass


def state_of(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_resume_gives_the_weights_of_an_uninterrupted_run(folder, tmp_path, one_thread):
    store = PictureStore(load_pictures(folder, min_side=32))

    def trainer():
        torch.manual_seed(3)
        return Trainer(LoocModel(tiny_config()), store, options(steps=8))

    whole = trainer()
    for _ in range(8):
        whole.step()
    first = trainer()
    for _ in range(4):
        first.step()
    first.save(tmp_path)
    from looc_codec.training.checkpoint import read_meta

    second = trainer()
    torch.rand(100)
    second.resume(tmp_path / CHECKPOINT, read_meta(tmp_path / CHECKPOINT))
    for _ in range(4):
        second.step()
    for (name, expected), got in zip(state_of(whole).items(), state_of(second).values(), strict=True):
        assert torch.equal(expected, got), name
    assert all(torch.equal(whole.ema[name], second.ema[name]) for name in whole.ema)


def test_training_lowers_the_loss(folder):
    torch.manual_seed(0)
    store = PictureStore(load_pictures(folder, min_side=32))
    trainer = Trainer(LoocModel(tiny_config()), store, options(steps=160, batch=4, prior_only_share=0.0, prior_rate=5e-3, cut_share=0.0))
    pixels, quality, kept_groups = trainer.inputs()

    def loss() -> float:
        # One batch under one noise: those of the steps differ in content far more than training moves them.
        torch.manual_seed(3)
        with torch.no_grad():
            return float(trainer.joint_step(pixels, quality, kept_groups, False)["loss"].mean())

    before = loss()
    for _ in range(160):
        trainer.step()
    assert loss() < 0.75 * before


def test_two_stages_and_export_make_a_working_codec(folder, tmp_path):
    assert train(request(folder, tmp_path / "a", options=options(steps=20)), silent)
    rows = list(csv.DictReader((tmp_path / "a" / "log.csv").open()))
    assert len(rows) == 10 and float(rows[-1]["bpp"]) > 0
    second = request(folder, tmp_path / "b", init=tmp_path / "a" / CHECKPOINT, options=options(stage="codes", steps=6, prior_only_share=0.0))
    assert train(second, silent)
    model = read_model(tmp_path / "b" / WEIGHTS)
    rgb = photo(70, 50, seed=9)
    data = api.compress(rgb, quality=70, model=model)
    assert api.decompress(data, model=model).size == (70, 50)
    again = request(folder, tmp_path / "c", init=tmp_path / "b" / WEIGHTS, options=options(steps=2, prior_only_share=0.0))
    assert train(again, silent)


def test_stage_synthesis_changes_the_decoder_and_nothing_else(folder, tiny_model_file, tmp_path):
    rgb = photo(70, 50, seed=9)
    old = read_model(tiny_model_file)
    data = api.compress(rgb, quality=70, model=old)
    asked = request(folder, tmp_path / "a", config={}, init=tiny_model_file, options=options(stage="synthesis", steps=60, prior_only_share=0.0, batch=4, coded_crops=64))
    calls = []

    def interrupt(kind, row):
        calls.append(kind)
        if calls.count("training") == 20:
            raise KeyboardInterrupt

    assert train(asked, interrupt) is False
    assert train(request(folder, tmp_path / "a", options=options(stage="synthesis", steps=60), resume=True), silent)
    new = read_model(tmp_path / "a" / WEIGHTS)
    assert new.fingerprint == old.fingerprint
    assert all(np.array_equal(value, new.core[name]) for name, value in old.core.items())
    changed = {name for name in parameters_of(old) if not np.array_equal(old.tensor(name), new.tensor(name))}
    assert "synthesis.linear" in changed and all(name.startswith("synthesis.") for name in changed)
    files = [unpack(each) for each in (data, api.compress(rgb, quality=70, model=new))]
    assert len({(file.segments, file.code_checksum) for file in files}) == 1
    # The filter in a file is fitted to the synthesis that its writer had.
    bare = pack(dataclasses.replace(files[0], filter=b""))

    def error(model):
        return np.square(np.asarray(api.decompress(bare, model=model)).astype(float) - rgb).mean()

    assert error(new) < error(old)


def test_stage_synthesis_needs_a_weights_file(folder, tmp_path):
    with pytest.raises(ModelError, match="weights file"):
        train(request(folder, tmp_path, options=options(stage="synthesis", prior_only_share=0.0)), silent)


def test_stage_details_adds_details_and_changes_nothing_else(folder, tiny_model_file, tmp_path, monkeypatch):
    monkeypatch.setattr("looc_codec.training.details.BATCHES", 12)
    old, reports = read_model(tiny_model_file), []
    config = {"detail_channels": 64, "detail_width": 8, "detail_quality": 70}
    asked = request(folder, tmp_path / "a", config=config, init=tiny_model_file, options=options(stage="details", steps=60))
    assert train(asked, lambda kind, row: reports.append((kind, row)))
    new = read_model(tmp_path / "a" / WEIGHTS)
    assert all(np.array_equal(old.tensor(name), new.tensor(name)) for name in parameters_of(old))
    assert all(np.array_equal(value, new.core[name]) for name, value in old.core.items())
    found = next(row for kind, row in reports if kind == "details")
    assert 0.02 < found["gain"] < 1
    rgb = photo(96, 80, seed=0)
    before, after = (api.compress(rgb, quality=90, model=model) for model in (old, new))
    assert len(unpack(after).segments) == len(unpack(before).segments) + 1
    errors = [np.square(np.asarray(api.decompress(data, model=model)).astype(float) - rgb).mean() for data, model in ((before, old), (after, new))]
    assert errors[1] < 0.98 * errors[0]


def test_stage_details_needs_weights_and_channels(folder, tiny_model_file, tmp_path):
    with pytest.raises(ModelError, match="weights file"):
        train(request(folder, tmp_path, options=options(stage="details")), silent)
    with pytest.raises(ModelError, match="detail_channels"):
        train(request(folder, tmp_path, config={}, init=tiny_model_file, options=options(stage="details")), silent)


def test_a_run_of_a_model_with_details_fits_them_at_its_end(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("looc_codec.training.details.BATCHES", 4)
    monkeypatch.setattr("looc_codec.training.details.STEPS", 10)
    config = tiny_config(detail_channels=16, detail_width=8).to_dict()
    assert train(request(folder, tmp_path, config=config), silent)
    model = read_model(tmp_path / WEIGHTS)
    assert model.has_details and any(name.startswith("details.") for name in model.core)


def test_ctrl_c_leaves_a_checkpoint_that_resumes(folder, tmp_path):
    calls = []

    def interrupt(kind, row):
        calls.append(kind)
        if kind == "training" and calls.count("training") == 1:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    store_request = request(folder, out, options=options(steps=10))
    assert train(store_request, lambda kind, row: interrupt(kind, row)) is False
    assert (out / CHECKPOINT).exists()
    with pytest.raises(ModelError, match="resume"):
        train(store_request, silent)
    resumed = request(folder, out, options=options(steps=10), resume=True)
    assert train(resumed, silent) is True


def test_units_and_latents_are_inverse():
    latent = torch.randn(2, 6, 3, 5)
    assert torch.equal(latent_of(units_of(latent, 2), latent.shape), latent)


def test_crops_come_from_the_pictures(folder):
    pictures = load_pictures(folder, min_side=32)
    store = PictureStore(pictures)
    crop = store.crops(3, 32, torch.Generator().manual_seed(0))
    assert crop.shape == (3, 3, 32, 32) and crop.dtype == torch.float32
    shrunk = store.crops(3, 32, torch.Generator().manual_seed(0), shrink=0.6)
    assert shrunk.shape == (3, 3, 32, 32) and 0 <= shrunk.min() and shrunk.max() <= 255
    marked = [np.full((40, 40, 3), 7, np.uint8), np.full((60, 50, 3), 9, np.uint8)]
    values = PictureStore(marked).crops(64, 32, torch.Generator().manual_seed(1)).amax((1, 2, 3))
    assert set(values.tolist()) == {7.0, 9.0}, "no crop may mix two pictures"


@pytest.mark.parametrize("supported", [True, False])
def test_bfloat16_is_the_default_where_it_is_fast(monkeypatch, supported):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported, raising=False)
    assert has_fast_bf16("cpu") is supported and has_fast_bf16("cuda")


def test_windows_larger_than_some_pictures_come_from_the_others():
    small, large = np.full((33, 90, 3), 3, np.uint8), np.full((80, 90, 3), 5, np.uint8)
    store = PictureStore([small, large, small])
    assert store.largest_window == 80
    crops = {shrink: store.crops(64, 32, torch.Generator().manual_seed(1), shrink=shrink).round().unique().tolist() for shrink in (1.0, 0.6, 0.3)}
    assert crops == {1.0: [3.0, 5.0], 0.6: [5.0], 0.3: [5.0]}


def test_a_diverged_run_keeps_the_checkpoint_from_before(folder, tmp_path):
    store = PictureStore(load_pictures(folder, min_side=32))
    trainer = Trainer(LoocModel(tiny_config()), store, options(steps=6, prior_only_share=0.0))
    for _ in range(2):
        trainer.step()
    trainer.save(tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with torch.no_grad():
        trainer.model.synthesis.linear[0] = float("nan")
    with pytest.raises(ModelError, match="diverged before step"):
        trainer.run(tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records CUDA graphs")
def test_recorded_steps_are_those_of_launched_ones(folder):
    store, weights = PictureStore(load_pictures(folder, min_side=32), "cuda"), []
    for record in (False, True):
        torch.manual_seed(3)
        trainer = Trainer(LoocModel(tiny_config()), store, options(steps=10, prior_only_share=0.0, record=record), "cuda")
        for _ in range(10):
            trainer.step()
        weights.append(state_of(trainer))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4)


def test_kodak_is_refused_as_training_data(tmp_path):
    Image.fromarray(photo(40, 40)).save(tmp_path / "kodim01.png")
    with pytest.raises(ImageError, match="Kodak"):
        load_pictures(tmp_path, min_side=16)


def test_missing_data_and_missing_checkpoint_are_one_sentence(folder, tmp_path):
    with pytest.raises(ImageError, match="not a folder"):
        train(request(tmp_path / "nowhere", tmp_path / "x"), silent)
    with pytest.raises(ModelError, match="no .* to resume"):
        train(request(folder, tmp_path / "y", resume=True), silent)


@pytest.mark.parametrize("changes", [
    {"prior_depth": 3}, {"prior_width": 20}, {"synthesis_blocks": (2, 1, 3), "analysis_blocks": (3, 2)},
    {"synthesis_widths": (24, 20, 16), "synthesis_blocks": (2, 2, 2), "analysis_widths": (30, 20)}, {"prior_width": 13, "prior_depth": 2, "synthesis_blocks": (1, 2, 1), "codevector_dim": 1, "ratio_classes": 1},
])  # fmt: skip
def test_a_grown_model_starts_as_the_same_function_and_learns(changes):
    model = LoocModel(tiny_config())
    with torch.no_grad():
        for parameter in (*model.analysis.parameters(), *model.synthesis.parameters()):
            parameter.add_(0.01 * torch.randn_like(parameter))
    pixels, quality = torch.rand(2, 3, 96, 64) * 255, torch.tensor([20.0, 80.0])
    larger = grown(model, tiny_config(name="larger", **changes))
    results = []
    for network in (model, larger):
        torch.manual_seed(0)
        latent = network.analysis(pixels, quality)
        result = network.prior(latent, quality)
        results.append(result | {"pixels": network.synthesis(result["latent_hat"], quality)})
    assert larger.config.name == "larger" and sum(p.numel() for p in larger.parameters()) > sum(p.numel() for p in model.parameters())
    for key, value in results[0].items():
        torch.testing.assert_close(value, results[1][key], rtol=0, atol=1e-3, msg=key)
    (results[1]["bits"].sum() + results[1]["pixels"].square().mean()).backward()
    shapes = {name: value.shape for name, value in model.named_parameters()}
    added = [name for name, value in larger.named_parameters() if shapes.get(name) != value.shape]
    assert added and any(dict(larger.named_parameters())[name].grad.abs().sum() > 0 for name in added)


def test_finer_steps_carry_a_quality_over_to_the_one_of_the_same_step():
    model = LoocModel(tiny_config())
    with torch.no_grad():
        for parameter in (*model.analysis.parameters(), *model.synthesis.parameters(), *model.prior.parameters()):
            parameter.add_(0.01 * torch.randn_like(parameter))
        # Tables that are straight lines lose nothing when they are read off between and beyond their anchors.
        for name, parameter in model.named_parameters():
            if name.endswith(".table"):
                parameter.copy_(torch.lerp(parameter[:1], parameter[-1:], torch.linspace(0, 1, len(parameter))[:, None]))
    finer = grown(model, tiny_config(step_finest=model.config.step_finest / 2))
    old_quality, config = 60.0, model.config
    new_quality = 1 + (old_quality - 1) * math.log(config.step_coarsest / config.step_finest) / math.log(2 * config.step_coarsest / config.step_finest)
    assert finer.config.step(new_quality) == pytest.approx(config.step(old_quality))
    pixels = torch.rand(1, 3, 64, 48) * 255
    with torch.no_grad():
        latents = [network.analysis(pixels, torch.tensor([quality])) for network, quality in ((model, old_quality), (finer, new_quality))]
        torch.testing.assert_close(*latents, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(model.synthesis(latents[0], torch.tensor([old_quality])), finer.synthesis(latents[0], torch.tensor([new_quality])), rtol=1e-3, atol=0.05)


def test_added_channels_say_what_the_others_cannot(folder):
    model = LoocModel(tiny_config())
    groups = (*tiny_config().groups, 12)
    store = PictureStore(load_pictures(folder, min_side=32))
    larger = grown(model, tiny_config(channels=sum(groups), groups=groups), store)
    pixels, quality = store.crops(4, 48, torch.Generator().manual_seed(7)), torch.full((4,), 100.0)
    with torch.no_grad():
        latents = [network.analysis(pixels, quality) for network in (model, larger)]
        kept = model.config.channels
        torch.testing.assert_close(latents[1][:, :kept], latents[0])
        errors = [float((network.synthesis(latent, quality) - pixels).square().mean()) for network, latent in zip((model, larger), latents, strict=True)]
        assert errors[1] < 0.9 * errors[0]
        # What the added channels leave at zero changes nothing else.
        latents[1][:, kept:] = 0
        torch.testing.assert_close(larger.synthesis(latents[1], quality), model.synthesis(latents[0], quality), rtol=1e-4, atol=1e-2)
        torch.manual_seed(0)
        first = model.prior(latents[0], quality)
        torch.manual_seed(0)
        assert torch.equal(larger.prior(latents[1], quality)["latent_hat"][:, :kept], first["latent_hat"])


def test_added_channels_need_pictures():
    groups = (*tiny_config().groups, 12)
    with pytest.raises(ModelError, match="started on pictures"):
        grown(LoocModel(tiny_config()), tiny_config(channels=sum(groups), groups=groups))


@pytest.mark.parametrize("changes", [{"prior_width": 6}, {"channels": 32, "groups": (4, 8, 20)}, {"synthesis_widths": (24, 24, 4)}])
def test_a_model_grows_in_no_other_way(changes):
    with pytest.raises(ModelError, match="train it from the start"):
        grown(LoocModel(tiny_config()), tiny_config(**changes))


def test_groups_that_are_not_kept_take_the_mean_and_cost_nothing():
    model = LoocModel(tiny_config())
    latent, quality = torch.randn(2, 24, 6, 4) * 5, torch.tensor([50.0, 50.0])
    torch.manual_seed(0)
    whole = model.prior(latent, quality)
    torch.manual_seed(0)
    cut = model.prior(latent, quality, kept_groups=torch.tensor([1.0, 2.0]))
    first = tiny_config().groups[0]
    assert cut["bits"][0] < whole["bits"][0] and cut["bits"][1] == whole["bits"][1]
    assert torch.equal(cut["latent_hat"][:, :first], whole["latent_hat"][:, :first])
    assert torch.equal(cut["latent_hat"][1], whole["latent_hat"][1])
    assert not torch.equal(cut["latent_hat"][0, first:], whole["latent_hat"][0, first:])


def test_an_unknown_optimizer_is_refused(folder):
    with pytest.raises(ModelError, match="choose soap or adamw"):
        Trainer(LoocModel(tiny_config()), PictureStore(load_pictures(folder, min_side=32)), options(optimizer="sgd"))


def structured(count: int, side: int = 176) -> torch.Tensor:
    return torch.stack([torch.from_numpy(photo(side, side, seed=seed).copy()).permute(2, 0, 1).float() for seed in range(count)])


def test_ms_ssim_as_distortion_is_the_librarys_with_a_tenth_of_squared_error():
    pixels = structured(2)
    decoded = pixels + 5 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1))
    assert distortion("ms-ssim", pixels, pixels).abs().max() < 1e-3
    error = (decoded - pixels).square().mean((1, 2, 3))
    torch.testing.assert_close(distortion("mse", decoded, pixels), error)
    structure = torch.stack([pytorch_msssim.ms_ssim(a[None], b[None], data_range=255.0) for a, b in zip(decoded, pixels, strict=True)])
    expected = MSE_SHARE * error + (1 - MSE_SHARE) * MS_SSIM_IN_MSE * (1 - structure)
    torch.testing.assert_close(distortion("ms-ssim", decoded, pixels), expected, rtol=1e-3, atol=1e-2)


def test_opposed_structures_do_not_make_gradients_infinite():
    pixels = structured(2)
    decoded = torch.stack([255 - pixels[0], pixels[1] + 3]).requires_grad_()
    distortion("ms-ssim", decoded, pixels).sum().backward()
    assert decoded.grad.isfinite().all() and decoded.grad[1].abs().max() > 0


def test_a_step_weighs_the_chosen_distortion(tmp_path):
    for seed in range(2):
        Image.fromarray(photo(200, 190, seed=seed)).save(tmp_path / f"{seed}.png")
    store, losses = PictureStore(load_pictures(tmp_path, min_side=176)), {}
    model = LoocModel(tiny_config())
    for metric in ("mse", "ms-ssim"):
        trainer = Trainer(model, store, options(crop=176, metric=metric, cut_share=0.0))
        pixels, quality = structured(2), torch.tensor([30.0, 70.0])
        torch.manual_seed(3)
        figures = trainer.joint_step(pixels, quality, torch.full((2,), 2.0), False)
        losses[metric] = (figures["loss"] - figures["bpp"]) / distortion_weight(model.config, quality)
        torch.testing.assert_close(figures["mse"], losses["mse"], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(losses["mse"], losses["ms-ssim"], rtol=0.05)


@pytest.mark.parametrize("changes, word", [({"metric": "ms-ssim"}, "176"), ({"metric": "vmaf"}, "no metric")])
def test_a_metric_that_cannot_be_trained_for_is_one_sentence(folder, changes, word):
    with pytest.raises(ModelError, match=word):
        Trainer(LoocModel(tiny_config()), PictureStore(load_pictures(folder, min_side=32)), options(**changes))
