"""The prior's promise: exact integers, whatever adds them up."""

from __future__ import annotations

import pytest
import torch
from conftest import build_tiny_model, encoder_of, tiny_config

from looc_codec import api, prior
from looc_codec.errors import ModelError
from looc_codec.prior import (
    EXACT_LIMIT,
    LATENT_ONE,
    IntegerConv2d,
    JointIntegers,
    NeighbourMean,
    Prior,
    axial,
    compand,
    companding_table,
    level_masks,
    levels_of_group,
    round_half_up,
    unit_classes,
)
from looc_codec.quantizers import codebook


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
    fresh.restore(exported, "layer")
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
    layer = NeighbourMean(2, axial(1))
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


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 2), (7, 5)])
def test_traverse_visits_every_unit_once_and_repeats_itself(tiny_model, size):
    height, width = size
    config = tiny_model.config
    seen = torch.zeros(config.channels, height * width, dtype=torch.int64)
    generator = torch.Generator().manual_seed(9)

    def code(step, rows, mean):
        units = torch.randint(-60, 60, mean.shape, generator=generator, dtype=torch.int32)
        assert rows.min() >= 0 and rows.max() < config.classes
        seen[step.channels] = seen[step.channels].index_add(1, step.positions, torch.ones(seen[step.channels].shape[0], len(step.positions), dtype=torch.int64))
        return mean + units

    first = tiny_model.prior.traverse(height, width, 30, code)
    assert seen.min() == seen.max() == 1
    generator.manual_seed(9)
    assert torch.equal(first, tiny_model.prior.traverse(height, width, 30, code))


@pytest.mark.parametrize("variation", ["threads", "mkldnn", "float64"])
def test_traverse_does_not_depend_on_how_sums_are_computed(variation):
    model = build_tiny_model(prior_width=48)

    def run():
        trace = []
        generator = torch.Generator().manual_seed(2)

        def code(step, rows, mean):
            trace.append((rows.clone(), mean.clone()))
            return mean + torch.randint(-200, 200, mean.shape, generator=generator, dtype=torch.int32)

        return model.prior.traverse(11, 14, 70, code), trace

    expected, expected_trace = run()
    threads = torch.get_num_threads()
    try:
        if variation == "threads":
            torch.set_num_threads(1 if threads > 1 else 2)
            got, trace = run()
        elif variation == "mkldnn":
            with torch.backends.mkldnn.flags(enabled=False):
                got, trace = run()
        else:
            convolution = torch.nn.functional.conv2d
            torch.nn.functional.conv2d = lambda x, w, b, **k: convolution(x.double(), w.double(), b.double(), **k).float()
            try:
                got, trace = run()
            finally:
                torch.nn.functional.conv2d = convolution
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(got, expected)
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(trace, expected_trace, strict=True))


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (9, 14), (2, 3)])
def test_levels_cover_the_grid_once_and_neighbours_are_known(group, size):
    levels = levels_of_group(group)
    masks = level_masks(levels, *size)
    assert torch.equal(sum(mask.long() for mask in masks), torch.ones(size, dtype=torch.int64))
    known = torch.zeros(size, dtype=torch.bool)
    for level, mask in zip(levels, masks, strict=True):
        for row, column in mask.nonzero().tolist():
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
    generator = torch.Generator().manual_seed(3)
    latent = torch.randn(tiny_model.config.channels, 13, 9, generator=generator) * 6
    whole = encoder_of(tiny_model).encode_latent(latent, 60)
    monkeypatch.setattr(prior, "STRIP_POSITIONS", positions)
    segments, checksum, latent_hat = encoder_of(tiny_model).encode_latent(latent, 60)
    assert torch.equal(latent_hat, whole[2]) and (segments, checksum) == whole[:2]
    assert torch.equal(codec.decode_latent(segments, checksum, 13, 9, 60, tiny_model), whole[2])


def test_picking_in_parts_makes_no_difference(tiny_model, monkeypatch):
    """Also where parts hold no unit with a first digit, or no escaped one."""
    generator = torch.Generator().manual_seed(4)
    book = tiny_model.codebook
    rows = torch.randint(0, book.fine_rows, (500,), generator=generator)
    residual = torch.randn(500, 2, generator=generator) * torch.logspace(0, 4, 500)[:, None]
    whole = book.pick(residual, rows)
    monkeypatch.setattr(codebook, "PICK_UNITS", 7)
    parts = book.pick(residual, rows)
    assert len(whole.coarse) > 10
    for name in ("first", "second", "coarse", "fine"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))


@pytest.mark.parametrize("quality", [1, 100])
def test_training_computes_what_the_codec_does(tiny_model, quality):
    """The codec visits only the positions of each level, training all of them; both find the same means."""
    generator = torch.Generator().manual_seed(6)
    config = tiny_model.config
    latent = torch.randn(config.channels, 11, 7, generator=generator) * 8

    def code(step, rows, mean):
        target = step.units(latent.flatten(1), config.codevector_dim) * LATENT_ONE
        return (mean + torch.floor((target - mean) / LATENT_ONE + 0.5) * LATENT_ONE).to(torch.int32)

    with torch.no_grad():
        trained = tiny_model.prior(latent[None], torch.tensor([float(quality)]))["latent_hat"][0] * LATENT_ONE
    # `latent_hat` is the latent plus a difference, which float32 does not add up to the last bit.
    assert torch.equal(tiny_model.prior.traverse(11, 7, quality, code).float(), trained.round())


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
