"""Coded crops for stage "synthesis", and a synthesis made slimmer on them."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from conftest import build_trainable_model, tiny_config
from PIL import Image
from test_codec import photo
from test_training import options, request, silent

from looc_codec import api
from looc_codec.codec.model import read_model
from looc_codec.codec.search import ENCODER_LAMBDA
from looc_codec.config import LoocConfig
from looc_codec.data import PictureStore
from looc_codec.errors import ModelError
from looc_codec.format.container import unpack
from looc_codec.networks.model import LoocModel
from looc_codec.training.coded import PIXEL_ONE, CodedCrops, code_crops
from looc_codec.training.codes import CodeFitter
from looc_codec.training.draws import Draws
from looc_codec.training.export import core_of, export
from looc_codec.training.run import WEIGHTS, train
from looc_codec.training.slim import is_slimmer, slimmed, without_least

HIDDEN = (12, 10, 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    for index in range(3):
        Image.fromarray(photo(96, 80, seed=index)).save(path / f"{index}.png")
    return path


def coded(model, folder, count=16):
    model.codebook.to_device("cpu")
    store = PictureStore([photo(96, 80, seed=index) for index in range(3)])
    draws = Draws(store, options(batch=4, crop=64, stage="synthesis"), "cpu", 0)
    return code_crops(model, CodeFitter(model, lagrangian=ENCODER_LAMBDA), draws, folder, count, lambda done: None)


def test_coded_crops_are_codes_and_pixels_of_the_model(tmp_path):
    model = build_trainable_model()
    crops = coded(model, tmp_path)
    batch = CodedCrops.of(tmp_path).batch(np.arange(crops.count))
    pixels = model.synthesis(batch.latent, batch.quality)
    assert (pixels - batch.teacher).abs().max() <= 0.5 / PIXEL_ONE + 1e-3
    torch.testing.assert_close(batch.error, (pixels - batch.original).square().mean((1, 2, 3)), rtol=1e-3, atol=1e-3)
    whole = model.analysis(batch.original, batch.quality)
    assert (batch.latent - whole).abs().mean() < 1 and (batch.bpp > 0).all() and len(batch.quality.unique()) > 8


def test_every_coded_crop_is_seen_before_any_is_again_and_qualities_are_spread(tmp_path):
    crops = coded(build_trainable_model(), tmp_path)
    seen = np.concatenate([crops.chosen(step, 4, seed=1) for step in range(8)])
    assert sorted(seen[:16]) == sorted(seen[16:]) == list(range(16)) and list(seen[:16]) != list(seen[16:])
    assert all((np.diff(crops.figures[crops.chosen(step, 4, 1), 0]) >= 0).all() for step in range(4))
    assert list(crops.chosen(3, 4, 1)) == list(CodedCrops.of(tmp_path).chosen(3, 4, 1))


def test_features_that_others_can_stand_for_go_first_and_leave_the_layer_as_it_was():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 9, generator=generator, dtype=torch.float64)
    features[:, 2] = features[:, 5] - 2 * features[:, 7] + 3
    features[:, 4] = features[:, 0] + features[:, 8]
    weight = torch.randn(5, 9, generator=generator)
    extended = torch.nn.functional.pad(features, (0, 1), value=1.0)
    gram, worth = extended.T @ extended / 400, torch.eye(5, dtype=torch.float64)
    left, new, bias = without_least(weight, gram, worth, 7)
    assert len(set(left) & {2, 5, 7}) == 2 and len(set(left) & {0, 4, 8}) == 2
    before, after = features @ weight.double().T, features[:, left] @ new.double().T + bias.double()
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)


def test_what_is_left_makes_up_for_a_feature_as_least_squares_do():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(300, 6, generator=generator, dtype=torch.float64) @ torch.randn(6, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 6, generator=generator)
    extended = torch.nn.functional.pad(features, (0, 1), value=1.0)
    left, new, bias = without_least(weight, extended.T @ extended / 300, torch.eye(3, dtype=torch.float64), 4)
    solved = torch.linalg.lstsq(extended[:, [*left, 6]], features @ weight.double().T).solution
    torch.testing.assert_close(torch.cat([new, bias[:, None]], 1).double(), solved.T, rtol=1e-3, atol=1e-3)


def with_spare_parts():
    """A model whose hidden features are there twice at 1/8 and whose last block at 1/16 does nothing."""
    model = build_trainable_model(synthesis_blocks=(2, 1, 1))
    with torch.no_grad():
        block = model.synthesis.blocks8[0]
        block.expand.weight[8:], block.expand.bias[8:] = block.expand.weight[:8], block.expand.bias[:8]
        last = model.synthesis.blocks16[1]
        last.project.weight.zero_()
        last.project.bias.zero_()
    return model


def test_what_is_spare_goes_without_a_change_of_pixels(tmp_path):
    model = with_spare_parts()
    crops, done = coded(model, tmp_path), []
    slim = slimmed(model, tiny_config(synthesis_hidden=(16, 8, 16)), crops, lambda count, of: done.append((count, of)))
    assert done[-1][0] == done[-1][1] > 1
    assert slim.synthesis.blocks8[0].expand.weight.shape == (8, 8, 1, 1) and len(slim.synthesis.blocks16) == 1
    batch = crops.batch(np.arange(8))
    with torch.no_grad():
        assert (slim.synthesis(batch.latent, batch.quality) - batch.teacher).abs().max() < 0.1


def test_a_slim_model_is_exported_and_decodes_the_same_codes(tmp_path):
    model = build_trainable_model()
    config = tiny_config(synthesis_hidden=HIDDEN)
    slim = slimmed(model, config, coded(model, tmp_path))
    slim.take(core_of(model))
    full, light = export(model), export(slim, keep=core_of(model))
    assert light.fingerprint == full.fingerprint and light.config.hidden_features == ((12,), (10,), (9,))
    rgb = photo(70, 50, seed=9)
    files = [api.compress(rgb, quality=60, model=each) for each in (full, light)]
    assert len({(unpack(data).segments, unpack(data).code_checksum) for data in files}) == 1
    decoded = [np.asarray(api.decompress(files[0], model=each)).astype(float) for each in (full, light)]
    assert 0 < np.abs(decoded[0] - decoded[1]).mean() < 2


def test_stage_synthesis_makes_it_slimmer_and_resumes(folder, tiny_model_file, tmp_path):
    old, calls = read_model(tiny_model_file), []
    stage = options(stage="synthesis", steps=40, batch=4, coded_crops=16, prior_only_share=0.0)
    asked = request(folder, tmp_path / "a", config={"synthesis_hidden": list(HIDDEN)}, init=tiny_model_file, options=stage)

    def interrupt(kind, row):
        calls.append(kind)
        if calls.count("training") == 10:
            raise KeyboardInterrupt

    assert train(asked, interrupt) is False
    assert {"coding", "slimming"} <= set(calls)
    assert train(dataclasses.replace(asked, config={}, resume=True), silent)
    new = read_model(tmp_path / "a" / WEIGHTS)
    assert new.fingerprint == old.fingerprint and new.config.synthesis_hidden == HIDDEN
    assert new.tensor("synthesis.blocks4.0.project.weight").shape == (8, 9, 1, 1)

    shutil.rmtree(tmp_path / "a" / "coded")
    with pytest.raises(ModelError, match="coded crops"):
        train(dataclasses.replace(asked, resume=True, options=dataclasses.replace(stage, steps=50)), silent)


def test_only_stage_synthesis_makes_a_synthesis_slimmer(folder, tiny_model_file, tmp_path):
    asked = request(folder, tmp_path, config={"synthesis_hidden": list(HIDDEN)}, init=tiny_model_file)
    with pytest.raises(ModelError, match="stage synthesis"):
        train(asked, silent)


@pytest.mark.parametrize(("changes", "words"), [
    ({"synthesis_blocks": (1, 1, 0)}, "1/4"),
    ({"synthesis_hidden": (12, 20, 9)}, "at once"),
    ({"synthesis_hidden": HIDDEN, "prior_width": 9}, "prior_width"),
])  # fmt: skip
def test_any_other_change_is_refused_in_a_sentence(changes, words, tmp_path):
    model = build_trainable_model()
    config = tiny_config(**changes)
    assert is_slimmer(config, model.config)
    with pytest.raises(ModelError, match=words):
        slimmed(model, config, coded(model, tmp_path))


def test_hidden_features_are_twice_the_width_where_a_configuration_does_not_say():
    old = {name: value for name, value in tiny_config(synthesis_blocks=(2, 1, 0)).to_dict().items() if name != "synthesis_hidden"}
    assert LoocConfig.from_dict(old).hidden_features == ((16, 16), (16,), ())
    assert LoocModel(LoocConfig.from_dict(old)).synthesis.blocks16[1].expand.weight.shape == (16, 8, 1, 1)
    with pytest.raises(ModelError, match="synthesis_hidden has 2 numbers for 3"):
        tiny_config(synthesis_hidden=(4, 4))
