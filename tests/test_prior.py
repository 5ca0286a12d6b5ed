"""The prior's promise: exact integers, whatever adds them up."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import build_trainable_model, decoder_of, encoder_of, tiny_config

from looc_codec.codec import prior, search
from looc_codec.codec.engine import Engine
from looc_codec.codec.prior import companded, traverse
from looc_codec.errors import ModelError
from looc_codec.format.constants import LATENT_ONE
from looc_codec.format.integers import EXACT_LIMIT
from looc_codec.format.order import levels_of_group, table_rows, units_of
from looc_codec.networks.prior import IntegerConv2d, JointIntegers, NeighbourMean, Prior, compand, companding_table, round_half_up, unit_classes
from looc_codec.training.export import export


def test_rounding_is_floor_of_x_plus_half_with_and_without_gradient():
    values = torch.cat([torch.arange(-40, 41) / 8.0, torch.tensor([8388607.5, -8388607.5])])
    expected = torch.floor(values.double() + 0.5).float()
    assert torch.equal(round_half_up(values), expected)
    assert torch.equal(round_half_up(values.clone().requires_grad_()).detach(), expected)


def test_companding_table_agrees_with_the_training_formula():
    integers = torch.arange(0, 32768)
    table = companding_table().long()
    formula = compand(integers.float()).long()
    assert (table - formula).abs().max() <= 1
    assert (table != formula).sum() < 10
    assert (compand(-integers.float()) + compand(integers.float())).abs().max() <= 1


def test_integer_convolution_equals_exact_arithmetic():
    torch.manual_seed(0)
    layer = IntegerConv2d(40, 12, 3)
    with torch.no_grad():
        layer.weight.mul_(torch.logspace(-3, 1, 12)[:, None, None, None])
        layer.bias.normal_()
    x = torch.randint(0, 256, (2, 40, 9, 7)).float()
    exported = layer.export("layer")
    weight, bias, exponent = (exported[f"layer.{name}"].double() for name in ("weight", "bias", "exponent"))
    total = torch.nn.functional.conv2d(x.double(), weight, bias, padding=1)
    expected = torch.floor(total * torch.exp2(-exponent)[:, None, None] + 0.5)
    fresh = IntegerConv2d(40, 12, 3)
    with torch.no_grad():
        fresh.take(exported, "layer")
    with torch.inference_mode():
        assert torch.equal(fresh(x).double(), expected)
        assert torch.equal(fresh(x.contiguous(memory_format=torch.channels_last)).double(), expected)
        assert torch.equal(layer(x).double(), expected)
    assert torch.equal(layer(x).detach().double(), expected), "training must compute what is shipped"


def test_export_refuses_a_layer_whose_sums_could_reach_the_limit(monkeypatch):
    layer = IntegerConv2d(200, 2, 3)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    monkeypatch.setattr(layer, "exponents", lambda: torch.full((2,), 6.0))
    with pytest.raises(ModelError, match="2\\^24"):
        layer.export("wide")


def test_exported_sums_stay_below_the_limit_for_random_layers():
    generator = torch.Generator().manual_seed(1)
    for channels in (1, 30, 400):
        layer = IntegerConv2d(channels, 8, 3)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 3)
            layer.bias.copy_(torch.randn(8, generator=generator) * 50)
        exported = layer.export("x")
        worst = exported["x.weight"].double().abs().sum((1, 2, 3)) * 255 + exported["x.bias"].double().abs()
        assert worst.max() < EXACT_LIMIT


def test_neighbour_mean_is_exact_at_the_extremes():
    layer = NeighbourMean(2, ((-1, 0), (1, 0), (0, -1), (0, 1)))
    with torch.no_grad():
        layer.weight.fill_(2.0)
    anchors = torch.full((1, 2, 4, 4), 32767.0)
    anchors[:, 1] = -32767
    expected = torch.floor(torch.full((2, 2), 4 * 127 * 32767.0, dtype=torch.float64) / 128 + 0.5)
    with torch.inference_mode():
        assert torch.equal(layer(anchors)[0, 0, 1:3, 1:3].double(), expected)
        assert torch.equal(layer(anchors)[0, 1, 1:3, 1:3].double(), torch.floor(torch.full((2, 2), -4 * 127 * 32767.0, dtype=torch.float64) / 128 + 0.5))


def test_unit_classes_cover_all_rows_and_depend_on_size_and_ratio():
    config = tiny_config()
    low = unit_classes(torch.tensor([[-500.0, -500.0]]), config)
    high = unit_classes(torch.tensor([[500.0, 500.0]]), config)
    assert low == config.ratio_classes // 2 and high == config.classes - 1 - config.ratio_classes // 2
    left, right = unit_classes(torch.tensor([[60.0, -60.0], [-60.0, 60.0]]), config)
    assert left - right == config.ratio_classes - 1


@pytest.mark.parametrize("changes", [{}, {"ratio_classes": 1}])
def test_training_and_codec_agree_on_table_rows(changes):
    config = tiny_config(**changes)
    scales = np.random.default_rng(3).integers(-300, 300, (8, 500))
    units = torch.from_numpy(units_of(scales, config.codevector_dim))
    assert np.array_equal(table_rows(scales, config), unit_classes(units, config).numpy())


def test_codec_and_training_compand_alike(tiny_model):
    values = np.arange(-32768, 32768).astype(np.int16)
    signed = companded(tiny_model, values).astype(int)
    expected = companding_table().numpy().astype(int)[np.minimum(np.abs(values.astype(int)), 32767)] * np.sign(values.astype(int))
    assert np.array_equal(signed, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 2), (7, 5)])
def test_traverse_visits_every_unit_once_and_repeats_itself(tiny_model, size):
    config, engine = tiny_model.config, encoder_of(tiny_model).engine

    def run():
        generator, seen = np.random.default_rng(9), np.zeros((config.channels, *size), int)

        def code(step, rows, mean):
            assert rows.min() >= 0 and rows.max() < config.classes
            for lattice in step.lattices:
                lattice.of(seen[step.first : step.last])[...] += 1
            assert len(mean) == len(rows) == (step.last - step.first) // config.codevector_dim * step.positions
            return mean + generator.integers(-60, 60, mean.shape, dtype=np.int32)

        latent = traverse(tiny_model, engine, *size, 30, code)
        assert seen.min() == seen.max() == 1
        return latent

    assert np.array_equal(run(), run())


@pytest.mark.parametrize("variation", ["threads", "plain graphs", "float64"])
def test_traverse_does_not_depend_on_how_sums_are_computed(variation):
    """Other numbers of threads, graphs that ONNX Runtime leaves as they are, or torch's layers in double precision."""
    trainable = build_trainable_model(prior_width=48)
    model = export(trainable)

    def run(engine):
        trace, generator = [], np.random.default_rng(2)

        def code(step, rows, mean):
            trace.append((rows.copy(), mean.copy()))
            return mean + generator.integers(-200, 200, mean.shape, dtype=np.int32)

        return traverse(model, engine, 11, 14, 70, code), trace

    convolution = torch.nn.functional.conv2d

    class Double:
        """Runs the trained layers themselves, with their sums in double precision."""

        def run(self, name, *shapes, quality_row, context=None, own=None):
            group, level = map(int, name.split(".")[1:])
            nothing = torch.zeros(1, 0, 1, 1)
            known, hat = (nothing if value is None else torch.from_numpy(np.ascontiguousarray(value)) for value in (context, own))
            torch.nn.functional.conv2d = lambda x, w, b, **k: convolution(x.double(), w.double(), b.double(), **k).float()
            try:
                with torch.no_grad():
                    step = trainable.prior.step(group, level, torch.from_numpy(quality_row), known, hat, levels_of_group(group)[level].stride)
            finally:
                torch.nn.functional.conv2d = convolution
            return [value.numpy() for value in step]

    expected, expected_trace = run(Engine(model.graphs, model.tensor, 1))
    other = {
        "threads": lambda: Engine(model.graphs, model.tensor, 2),
        "plain graphs": lambda: Engine(model.graphs, model.tensor, 1, optimise=False),
        "float64": Double,
    }[variation]()
    got, trace = run(other)
    assert np.array_equal(got, expected) and len(trace) == len(expected_trace)
    assert all(np.array_equal(a, c) and np.array_equal(b, d) for (a, b), (c, d) in zip(trace, expected_trace, strict=True))


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (9, 14), (2, 3)])
def test_levels_cover_the_grid_once_and_neighbours_are_known(group, size):
    levels = levels_of_group(group)
    masks = [level.mask(*size) for level in levels]
    assert np.array_equal(sum(mask.astype(int) for mask in masks), np.ones(size, int))
    known = np.zeros(size, bool)
    for level, mask in zip(levels, masks, strict=True):
        for row, column in np.argwhere(mask).tolist():
            for dy, dx in level.neighbours:
                if 0 <= row + dy < size[0] and 0 <= column + dx < size[1]:
                    assert known[row + dy, column + dx], "a neighbour must be decoded before it predicts"
        known |= mask


def test_training_forward_reaches_every_parameter():
    torch.manual_seed(0)
    prior = Prior(tiny_config())
    result = prior(torch.randn(2, 24, 6, 6) * 4, torch.tensor([20.0, 80.0]))
    (result["bits"].sum() + result["latent_hat"].square().sum()).backward()
    without = [name for name, parameter in prior.named_parameters() if parameter.grad is None]
    assert not without


@pytest.mark.parametrize("positions", [1, 10, 33])
def test_strips_make_no_difference(tiny_model, monkeypatch, positions):
    """Strips of one row, of a few rows and of odd numbers of them give the codes and the latent of a single strip."""
    latent = (np.random.default_rng(3).normal(size=(tiny_model.config.channels, 13, 9)) * 6).astype(np.float32)
    whole = encoder_of(tiny_model).encode_latent(latent, 60)
    monkeypatch.setattr(prior, "STRIP_POSITIONS", positions)
    coding = encoder_of(tiny_model).encode_latent(latent, 60)
    assert np.array_equal(coding.latent, whole.latent) and (coding.segments, coding.checksum) == (whole.segments, whole.checksum)
    assert np.array_equal(decoder_of(tiny_model).decode_latent(coding.segments, coding.checksum, (13, 9), 60), whole.latent)


@pytest.mark.parametrize("threads", [1, 2])
def test_picking_in_parts_makes_no_difference(tiny_model, monkeypatch, threads):
    """Also where parts hold no unit with a first digit, or no escaped one, and in threads."""
    generator, picker = np.random.default_rng(4), tiny_model.search
    rows = generator.integers(0, tiny_model.tables.classes, 500)
    residual = generator.normal(size=(500, 2)) * np.logspace(0, 4, 500)[:, None]
    whole = picker.pick(residual, rows)
    monkeypatch.setattr(search, "UNITS_AT_A_TIME", 7)
    parts = picker.pick(residual, rows, threads=threads)
    assert len(whole.coarse) > 10
    for field in dataclasses.fields(whole):
        assert np.array_equal(getattr(whole, field.name), getattr(parts, field.name))


@pytest.mark.parametrize("quality", [1, 100])
def test_training_computes_what_the_codec_does(quality):
    """The codec visits only the positions of each level, training all of them; both find the same means."""
    trainable = build_trainable_model()
    model = export(trainable)
    config = model.config
    latent = (np.random.default_rng(6).normal(size=(config.channels, 11, 7)) * 8).astype(np.float32)

    def code(step, rows, mean):
        target = units_of(step.take(latent), config.codevector_dim) * np.float32(LATENT_ONE)
        return (mean + np.floor((target - mean) / np.float32(LATENT_ONE) + np.float32(0.5)) * LATENT_ONE).astype(np.int32)

    with torch.no_grad():
        trained = trainable.prior(torch.from_numpy(latent)[None], torch.tensor([float(quality)]))["latent_hat"][0] * LATENT_ONE
    # `latent_hat` is the latent plus a difference, which float32 does not add up to the last bit.
    assert np.array_equal(traverse(model, encoder_of(model).engine, 11, 7, quality, code), trained.round().numpy())


def test_integer_weights_of_all_layers_at_once_are_those_of_each():
    torch.manual_seed(2)
    model = Prior(tiny_config(prior_depth=2))
    layers = list(model.integer_layers().values())
    with torch.no_grad():
        for index, layer in enumerate(layers):
            # From layers limited by their largest weight to layers limited by their sums.
            layer.weight.mul_(10.0 ** (index % 5 - 2))
            layer.bias.add_(torch.randn_like(layer.bias))
    signs = [(torch.randn_like(layer.weight), torch.randn_like(layer.bias)) for layer in layers]

    def gradients(pairs):
        for layer in layers:
            layer.weight.grad = layer.bias.grad = None
        sum((weight * a).sum() + (bias * b).sum() for (weight, bias), (a, b) in zip(pairs, signs, strict=True)).backward()
        return [(layer.weight.grad.clone(), layer.bias.grad.clone()) for layer in layers]

    single = [layer.scaled() for layer in layers]
    expected = gradients(single)
    with JointIntegers(layers):
        joint = [layer.derived for layer in layers]
    assert all(layer.derived is None for layer in layers)
    for one, other in zip([*single, *expected], [*joint, *gradients(joint)], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
