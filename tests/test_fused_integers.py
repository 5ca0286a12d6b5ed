"""The prior's integer weights as one kernel of a GPU (interpreted where there is none) are those of the tensor operations."""

from __future__ import annotations


import pytest
import torch

from looc_codec.networks.prior import ACTIVATION_LIMIT, ACTIVATION_ONE, EXPONENT_MIN, WEIGHT_LIMIT, IntegerConv2d, JointIntegers, fitting_exponents


@pytest.fixture(scope="module")
def derive():
    pytest.importorskip("triton")
    from looc_codec.training import fused_integers

    return fused_integers.derive


@pytest.fixture(scope="module")
def layers():
    """Layers of both kernels and gains, shorter and longer than a block, with the channels that are special."""
    torch.manual_seed(3)
    sizes = ((16, 20, 1, 0), (160, 12, 1, 1), (57, 12, 3, 0), (200, 8, 3, 1), (24, 40, 1, 0))
    layers = [IntegerConv2d(channels_in, channels_out, kernel, gain_bits=gain) for channels_in, channels_out, kernel, gain in sizes]
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(torch.logspace(-3, 1, len(layer.bias))[torch.randperm(len(layer.bias))][:, None, None, None])
            layer.bias.normal_()
            # Nothing but a bias, nothing at all, all weights alike, too large for any exponent, a bias beyond all weights.
            layer.weight[:2] = 0
            layer.bias[1] = 0
            layer.weight[2] = layer.weight[2].sign() * 0.3
            layer.weight[3] = (torch.rand(layer.weight[3].shape) * 2 - 1) * 1e5
            layer.bias[4] = 3e4
            # Stored integers read back: the largest weight is 127 to the very bit, and halves have to be rounded.
            layer.weight[5] = torch.randint(-253, 254, layer.weight[5].shape) / 2**9
            layer.weight[5].view(-1)[:3] = torch.tensor([127.0, -127.0, -0.5]) / 2**8
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [layer.to(device) for layer in layers]


def derived_and_gradients(layers, pairs):
    """Weights, biases and their gradients of layers' `(weight, bias)` pairs, for a seeded gradient of the results."""
    generator = torch.Generator().manual_seed(4)
    for layer in layers:
        layer.weight.grad = layer.bias.grad = None
    results = [result for pair in pairs for result in pair]
    torch.autograd.backward(results, [torch.randn(result.shape, generator=generator).to(result.device) for result in results])
    return [result.detach() for result in results], [value.grad.clone() for layer in layers for value in (layer.weight, layer.bias)]


def joint(layers, derive=None):
    with JointIntegers(layers, derive):
        pairs = [layer.derived for layer in layers]
    assert all(layer.derived is None for layer in layers)
    return derived_and_gradients(layers, pairs)


def test_the_layers_meet_every_limit(layers):
    by_sum = by_peak = 0
    for layer in layers:
        peak = layer.weight.detach().abs().amax((1, 2, 3)).clamp_min(1e-6)
        total = layer.weight.detach().abs().sum((1, 2, 3)) * ACTIVATION_LIMIT + layer.bias.detach().abs() * ACTIVATION_ONE
        lone = fitting_exponents(peak, torch.zeros_like(total), layer.room)
        by_sum += int((layer.exponents() < lone).sum())
        by_peak += int((layer.exponents() == lone).sum())
        assert lone[5] == 8
        assert lone[3] == EXPONENT_MIN and (layer.weight[3].abs() * 2.0**EXPONENT_MIN > WEIGHT_LIMIT + 1).any()
    assert by_sum > 8 and by_peak > 8


def test_the_kernel_gives_the_values_and_gradients_of_the_tensor_operations(layers, derive):
    for expected, got in zip(joint(layers), joint(layers, derive), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(expected, got, strict=True))
    # Weights that were clamped have no gradient, all others have one.
    assert (layers[0].weight.grad[3] == 0).any() and (layers[0].weight.grad[4:] != 0).all()


def test_the_kernel_gives_the_values_and_gradients_of_each_layer(layers, derive):
    for expected, got in zip(derived_and_gradients(layers, [layer.scaled() for layer in layers]), joint(layers, derive), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(expected, got, strict=True))


def test_the_kernel_takes_missing_and_expanded_gradients(layers, derive):
    layer = layers[0]
    for place in (0, 1):
        gradients = []
        for function in (None, derive):
            layer.weight.grad = layer.bias.grad = None
            with JointIntegers([layer], function):
                layer.derived[place].sum().backward()
            gradients.append((layer.weight, layer.bias)[place].grad)
            unused = (layer.bias, layer.weight)[place].grad
            assert unused is None or not unused.any()
        assert torch.equal(*gradients)


def test_the_kernel_shows_a_weight_that_is_not_a_number(derive):
    layer = IntegerConv2d(16, 16, 1).to("cuda" if torch.cuda.is_available() else "cpu")
    with torch.no_grad():
        layer.weight[2, 3] = layer.bias[5] = float("nan")
        with JointIntegers([layer], derive):
            weight, bias = layer.derived
    assert weight[2, 3].isnan() and bias[5].isnan() and not weight[6:].isnan().any()
