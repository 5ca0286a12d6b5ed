"""The paper's quantizer: shapes, matches, interpolation, gradients, codebook updates, agreement with codec mode."""

from __future__ import annotations

import doctest
import itertools
import math

import numpy as np
import pytest
import torch
from conftest import tiny_config
from torch.nn import functional

from looc_codec.errors import ModelError
from looc_codec.format.constants import LATENT_ONE
from looc_codec.quantizers import looc, search
from looc_codec.quantizers.codebook import SharedCodebook
from looc_codec.quantizers.gradients import QuantisedStraightThrough, rotated, straight_through
from looc_codec.quantizers.learned_codebook import vq_loss
from looc_codec.quantizers.looc import LooCQuantizer, blur, pool, upsample
from looc_codec.quantizers.units import latent_of, units_of

EVERY_GRID = [
    (beta, interp, grid) for beta, interp, grid in itertools.product((1, 2, 3, 4), ("paper", "released"), ("R1", "R0"))
]


def quantizer_of(*arguments, seed: int = 3, **options) -> LooCQuantizer:
    """A quantizer in evaluation mode whose codevectors are as long as the latents of these tests."""
    quantizer = LooCQuantizer(*arguments, **options).eval()
    generator = torch.Generator().manual_seed(seed)
    quantizer.codebook.set_codevectors(torch.randn(quantizer.codebook.codevectors.shape, generator=generator))
    return quantizer


def latent(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- units ----------------------------------------------------------------------------------------------------------


def test_a_unit_is_consecutive_channels_of_one_position():
    z = latent(2, 6, 3, 5)
    units = units_of(z, 2).view(2, 3, 3, 5, 2)
    assert torch.equal(units[1, 2, 0, 4], z[1, 4:6, 0, 4])
    assert torch.equal(latent_of(units_of(z, 2), z.shape), z)


# --- match ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("match", ["cosine", "l2"])
@pytest.mark.parametrize("dim", [1, 2, 4])
def test_codes_equal_a_search_by_hand(match, dim):
    quantizer = quantizer_of(8, dim, 16, match=match)
    z = latent(2, 8, 3, 4)
    codes = quantizer.codes(z)
    assert codes.shape == (2, 8 // dim, 3, 4) and codes.dtype == torch.int64
    book = quantizer.codebook.codevectors.detach().double()
    for b, m, y, x in itertools.product(range(2), range(8 // dim), range(3), range(4)):
        unit = z[b, m * dim : (m + 1) * dim, y, x].double()
        scores = [
            float(unit @ c / (unit.norm() * c.norm())) if match == "cosine" else -float(((unit - c) ** 2).sum()) for c in book
        ]
        # Cosines of one-dimensional vectors tie by the dozen, so the score is compared and not the code.
        assert scores[codes[b, m, y, x]] == pytest.approx(max(scores), abs=1e-6)


def test_one_unit_per_position_is_plain_vector_quantisation():
    quantizer = quantizer_of(6, 6, 32, match="l2")
    z = latent(2, 6, 4, 3)
    vectors = z.permute(0, 2, 3, 1).reshape(-1, 6)
    codes = torch.cdist(vectors, quantizer.codebook.codevectors).argmin(1)
    expected = quantizer.codebook.codevectors[codes].view(2, 4, 3, 6).permute(0, 3, 1, 2)
    output = quantizer(z)
    assert torch.equal(output.codes, codes.view(2, 1, 4, 3))
    assert torch.equal(output.latent_hat, expected)
    assert output.loss.item() == pytest.approx(1.25 * (z - expected).square().mean().item(), rel=1e-5)


def test_the_search_is_the_same_in_small_pieces(monkeypatch):
    z = latent(1, 8, 5, 7)
    for match in ("cosine", "l2"):
        quantizer = quantizer_of(8, 4, 16, match=match)
        units = units_of(z, 4)
        codes, anchors = quantizer.codes(z), quantizer.codebook.anchor_of(units, quantizer.codebook.codevectors)
        assert torch.equal(anchors, quantizer.codebook.similarity(units, quantizer.codebook.codevectors).argmax(0))
        with monkeypatch.context() as patch:
            patch.setattr(search, "SEARCH_ENTRIES", 50)
            assert torch.equal(quantizer.codes(z), codes)
            assert torch.equal(quantizer.codebook.anchor_of(units, quantizer.codebook.codevectors), anchors)


def test_mixed_precision_picks_the_same_codes():
    z = latent(1, 8, 16, 16)
    for match in ("cosine", "l2"):
        quantizer = quantizer_of(8, 4, 64, match=match, beta=2)
        expected = quantizer(z)
        with torch.autocast("cpu", torch.bfloat16):
            output = quantizer(z)
            assert torch.equal(quantizer.codes(z), expected.codes)
        assert output.latent_hat.dtype == torch.float32
        assert torch.equal(output.codes, expected.codes) and torch.equal(output.latent_hat, expected.latent_hat)


# --- interpolation and index grids ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("beta", "interp", "grid"), EVERY_GRID)
def test_lookup_gives_the_quantised_latent_of_forward(beta, interp, grid):
    for gradient in ("straight-through", "rotation"):
        quantizer = quantizer_of(8, 4, 16, beta=beta, interp=interp, index_grid=grid, gradient=gradient)
        z = latent(2, 8, 3, 5).contiguous(memory_format=torch.channels_last)
        output = quantizer(z)
        assert output.latent_hat.shape == z.shape
        assert torch.equal(quantizer.codes(z), output.codes)
        assert torch.equal(quantizer.lookup(output.codes), output.latent_hat)
        assert output.codes[0].numel() == quantizer.codes_per_position * 3 * 5
        assert quantizer.codes_per_position == 2 * (1 if grid == "R0" else beta**2)
        assert quantizer.uniform_bits_per_position == quantizer.codes_per_position * 4


@pytest.mark.parametrize("grid", ["R1", "R0"])
def test_both_readings_agree_without_interpolation(grid):
    z = latent(2, 8, 3, 5)
    first = quantizer_of(8, 4, 16, beta=1, interp="paper", index_grid=grid)(z)
    second = quantizer_of(8, 4, 16, beta=1, interp="released")(z)
    assert torch.equal(first.codes, second.codes) and torch.equal(first.latent_hat, second.latent_hat)
    assert first.loss == second.loss


def test_a_released_unit_is_the_neighbourhood_of_one_channel():
    quantizer = quantizer_of(4, 4, 16, beta=2, interp="released")
    z = latent(1, 4, 3, 5)
    up = upsample(z, 2)
    units = units_of(quantizer.spread(z), 4).view(1, 4, 3, 5, 4)
    for channel, y, x in itertools.product(range(4), range(3), range(5)):
        assert torch.equal(units[0, channel, y, x], up[0, channel, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(4))
    # A scalar quantiser in disguise: each latent value is the mean of one codevector.
    codes = quantizer.codes(z)
    assert torch.allclose(quantizer.lookup(codes), quantizer.codebook.codevectors.mean(1)[codes], atol=1e-6)


def test_a_paper_unit_is_consecutive_channels_of_one_upsampled_position():
    quantizer = quantizer_of(8, 4, 16, beta=2)
    z = latent(1, 8, 3, 5)
    codes = quantizer.codes(z)
    assert codes.shape == (1, 2, 6, 10)
    up = upsample(z, 2)
    assert torch.equal(codes[0, 1, 3, 7], quantizer.codebook.nearest(up[0, 4:, 3, 7][None])[0])


@pytest.mark.parametrize(("beta", "taps"), [(2, (1 / 8, 3 / 4, 1 / 8)), (3, (1 / 9, 7 / 9, 1 / 9)), (4, (1 / 8, 3 / 4, 1 / 8))])
def test_interpolation_and_pooling_alone_are_a_small_blur(beta, taps):
    impulse = torch.zeros(1, 1, 7, 7)
    impulse[0, 0, 3, 3] = 1
    result = pool(upsample(impulse, beta), beta)[0, 0]
    expected = torch.zeros(7, 7)
    expected[2:5, 2:5] = torch.tensor(taps)[:, None] * torch.tensor(taps)
    assert torch.allclose(result, expected, atol=1e-6)
    z = latent(2, 3, 4, 5)
    assert torch.allclose(blur(z, beta), pool(upsample(z, beta), beta), atol=1e-6), "edges included"
    assert torch.allclose(blur(z[..., :1, :1], beta), z[..., :1, :1], atol=1e-6), "one position is its own neighbourhood"
    assert torch.allclose(pool(z.repeat(1, 1, beta, beta), beta), functional.avg_pool2d(z.repeat(1, 1, beta, beta), beta), atol=1e-6)


def test_grid_r0_picks_codes_before_the_blur():
    plain, quantizer = quantizer_of(8, 4, 16), quantizer_of(8, 4, 16, beta=2, index_grid="R0")
    z = latent(1, 8, 3, 5)
    assert torch.equal(quantizer.codes(z), plain.codes(z))
    assert torch.allclose(quantizer(z).latent_hat, pool(upsample(plain(z).latent_hat, 2), 2), atol=1e-6)


# --- loss and gradients ---------------------------------------------------------------------------------------------


def test_each_part_of_the_loss_moves_its_own_side():
    z = latent(1, 8, 3, 5)
    parts = {}
    for name, weights in {"codebook": (1.0, 0.0), "commitment": (0.0, 0.25)}.items():
        quantizer = quantizer_of(8, 4, 16, beta=2, codebook_weight=weights[0], commitment_weight=weights[1])
        leaf = z.clone().requires_grad_()
        loss = quantizer(leaf).loss
        loss.backward()
        parts[name] = loss.item()
        book_moves, latent_moves = quantizer.codebook.codevectors.grad.abs().sum() > 0, leaf.grad.abs().sum() > 0
        assert (book_moves, latent_moves) == ((True, False) if name == "codebook" else (False, True))
    assert parts["commitment"] == pytest.approx(0.25 * parts["codebook"])
    both = quantizer_of(8, 4, 16, beta=2)(z).loss.item()
    assert both == pytest.approx(sum(parts.values()))


def test_straight_through_gradient_is_the_identity():
    quantizer = quantizer_of(8, 4, 16)
    z = latent(2, 8, 3, 5).requires_grad_()
    gradient = latent(2, 8, 3, 5, seed=9)
    quantizer(z).latent_hat.backward(gradient)
    assert torch.equal(z.grad, gradient)
    assert quantizer.codebook.codevectors.grad is None, "the codebook learns from its loss, not from the decoder"


@pytest.mark.parametrize("interp", ["paper", "released"])
def test_straight_through_gradient_with_interpolation_is_that_of_the_blur(interp):
    quantizer = quantizer_of(8, 4, 16, beta=2, interp=interp)
    z, plain = latent(1, 8, 3, 5).requires_grad_(), latent(1, 8, 3, 5).requires_grad_()
    gradient = latent(1, 8, 3, 5, seed=9)
    quantizer(z).latent_hat.backward(gradient)
    pool(upsample(plain, 2), 2).backward(gradient)
    assert torch.allclose(z.grad, plain.grad, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 4, 7])
def test_the_rotation_keeps_angles_and_scales_by_the_ratio_of_lengths(dim):
    units, chosen, gradient = (latent(200, dim, seed=seed).double() for seed in (1, 2, 3))
    units[0] = -2 * chosen[0]
    units.requires_grad_()
    value = rotated(units, chosen)
    assert torch.equal(value, chosen)
    value.backward(gradient)
    ratio = chosen.norm(dim=1) / units.norm(dim=1)
    assert torch.allclose(units.grad.norm(dim=1), ratio * gradient.norm(dim=1))
    angle = functional.cosine_similarity(gradient, chosen)
    assert torch.allclose(functional.cosine_similarity(units.grad, units.detach()), angle)


def test_the_rotation_of_a_zero_unit_has_a_finite_gradient():
    units = torch.zeros(2, 4, requires_grad=True)
    rotated(units, torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 0]])).sum().backward()
    assert torch.equal(units.grad, torch.ones(2, 4))


@pytest.mark.parametrize(("codebook_weight", "commitment_weight"), [(1.0, 0.25), (0.0, 1.0), (0.3, 0.0)])
def test_closed_form_gradients_are_those_of_autograd(codebook_weight, commitment_weight):
    """Units, codevectors and value against the same step written with torch's own operations, codevectors chosen never and often."""
    units, book = latent(40, 3).double().requires_grad_(), latent(6, 3, seed=2).double().requires_grad_()
    codes = torch.tensor([0, 1, 1, 4] * 10)
    weights = latent(40, 3, seed=3).double()
    chosen, loss = QuantisedStraightThrough.apply(units, book, codes, codebook_weight, commitment_weight)
    (3 * loss + (chosen * weights).sum()).backward()
    found = units.grad.clone(), book.grad.clone()
    units.grad = book.grad = None
    expected = vq_loss(units, book[codes], codebook_weight, commitment_weight)
    (3 * expected + (straight_through(units, book[codes]) * weights).sum()).backward()
    assert torch.allclose(loss, expected) and torch.equal(chosen, book[codes])
    assert torch.allclose(found[0], units.grad) and torch.allclose(found[1], book.grad, atol=1e-12)


def test_the_codebook_starts_at_clusters():
    torch.manual_seed(0)
    quantizer = LooCQuantizer(4, 4, 4)
    quantizer.start_at(batch_of_three_clusters(quantizer))
    found = quantizer.codebook.codevectors.detach()
    for centre in (torch.tensor([3.0, 0, 0, 0]), torch.tensor([0, 3.0, 0, 0]), torch.tensor([0, 0, 3.0, 0])):
        assert (found - centre).norm(dim=1).min() < 0.5
    before = found.clone()
    quantizer.start_at(torch.zeros(1, 4, 1, 3))
    assert torch.equal(quantizer.codebook.codevectors, before), "three units are too few for four codevectors"


# --- codebook updates -----------------------------------------------------------------------------------------------


def batch_of_three_clusters(quantizer: LooCQuantizer) -> torch.Tensor:
    """A latent `(1, 4, 10, 6)` near the first three codevectors of a book of four, equally often; the fourth is far off."""
    centres = torch.tensor([[3.0, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0], [-9, -9, -9, 9]])
    quantizer.codebook.set_codevectors(centres)
    vectors = centres[:3].repeat(20, 1) + 0.1 * latent(60, 4)
    return vectors.T.reshape(1, 4, 10, 6)


@pytest.mark.parametrize("anchor", ["closest", "random", "unique", "probability"])
@pytest.mark.parametrize("match", ["cosine", "l2"])
def test_anchors_move_dead_codevectors_only(anchor, match):
    torch.manual_seed(0)
    quantizer = LooCQuantizer(4, 4, 4, anchor=anchor, match=match)
    z = batch_of_three_clusters(quantizer)
    before = quantizer.codebook.codevectors.detach().clone()
    output = quantizer.train()(z)
    assert quantizer.usage(output.codes)[0].counts.tolist() == [20, 20, 20, 0]
    moved = (quantizer.codebook.codevectors - before).norm(dim=1)
    assert moved[:3].max() < 1e-3
    # The fourth goes exp(-0.001) of the way to its anchor, which is one of the batch's units.
    share = math.exp(-0.001)
    target = (quantizer.codebook.codevectors[3] - (1 - share) * before[3]) / share
    distance = (units_of(z, 4) - target).norm(dim=1)
    assert distance.min() < 1e-5
    if anchor == "closest":
        assert distance.argmin() == quantizer.codebook.similarity(units_of(z, 4), before[3:]).argmax()
    settled = quantizer.codebook.codevectors.detach().clone()
    quantizer.eval()(z)
    assert torch.equal(quantizer.codebook.codevectors, settled), "evaluation changes nothing"
    output.loss.backward()
    assert torch.isfinite(quantizer.codebook.codevectors.grad).all()


def test_use_is_a_running_share_and_weights_follow_the_formula():
    quantizer = LooCQuantizer(4, 4, 4, match="l2").train()
    z = batch_of_three_clusters(quantizer)
    quantizer(z)
    assert torch.allclose(quantizer.codebook.use, 0.01 * torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]))
    quantizer.codebook.set_codevectors(quantizer.codebook.codevectors.detach())
    # A thousandth of an average codevector's use leaves an anchor's weight of exp(-0.011).
    quantizer.codebook.use.fill_(1e-3 * 0.01 / 4 / 0.99)
    before = quantizer.codebook.codevectors.detach().clone()
    units = 5 + torch.zeros(40, 4)
    quantizer.codebook.learn(units, torch.zeros(40, dtype=torch.int64))
    weight = (quantizer.codebook.codevectors[1:] - before[1:]) / (5 - before[1:])
    assert torch.allclose(weight, torch.full((3, 4), math.exp(-0.011)), atol=1e-4)


def test_offline_updates_happen_in_the_first_batch_only():
    quantizer = LooCQuantizer(4, 4, 4, online=False).train()
    z = batch_of_three_clusters(quantizer)
    quantizer(z)
    start = torch.tensor([-9.0, -9, -9, 9])
    assert (quantizer.codebook.codevectors[3] - start).norm() > 1
    with torch.no_grad():
        quantizer.codebook.codevectors[3] = start
    quantizer(z)
    assert torch.equal(quantizer.codebook.codevectors[3], start)
    restored = LooCQuantizer(4, 4, 4, online=False).train()
    restored.load_state_dict(quantizer.state_dict())
    restored(z)
    assert torch.equal(restored.codebook.codevectors[3], start), "a resumed training run is not a first batch"


def test_the_pool_fills_up_before_features_are_replaced():
    torch.manual_seed(0)
    quantizer = LooCQuantizer(2, 2, 8, anchor="unique")
    for number in (1, 2, 3, 4):
        drawn = quantizer.codebook.draw_from_pool(torch.full((3, 2), float(number)))
        assert drawn.shape == (8, 2) and drawn.min() >= 1, "no anchor comes from an empty place"
    assert (quantizer.codebook.pool[:, 0] == 4).sum() == 3 and int(quantizer.codebook.pooled) == 8
    large = latent(50, 2)
    assert all((large == feature).all(1).any() for feature in quantizer.codebook.draw_from_pool(large))


def test_gradient_update_leaves_the_codebook_to_the_optimiser():
    quantizer = LooCQuantizer(4, 4, 4, update="gradient").train()
    z = batch_of_three_clusters(quantizer)
    before = quantizer.codebook.codevectors.detach().clone()
    output = quantizer(z)
    assert torch.equal(quantizer.codebook.codevectors, before)
    assert torch.equal(quantizer.lookup(output.codes), output.latent_hat)
    assert set(quantizer.state_dict()) == {"codebook.codevectors"}


def test_moving_averages_lead_to_the_centroids():
    quantizer = LooCQuantizer(4, 4, 4, match="l2", update="ema", decay=0.9).train()
    z = batch_of_three_clusters(quantizer) + 0.5
    units = units_of(z, 4)
    centroids = torch.stack([units[k::3].mean(0) for k in range(3)])
    far = quantizer.codebook.codevectors[3].clone()
    distances = [(quantizer.codebook.codevectors[:3] - centroids).norm(dim=1)]
    for _ in range(3):
        output = quantizer(z)
        distances.append((quantizer.codebook.codevectors[:3] - centroids).norm(dim=1))
        assert (distances[-1] < distances[-2]).all()
    assert torch.allclose(quantizer.codebook.codevectors[3], far, rtol=1e-3), "an unused codevector stays where it is"
    for _ in range(60):
        quantizer(z)
    assert torch.allclose(quantizer.codebook.codevectors[:3], centroids, atol=1e-2)
    assert not quantizer.codebook.codevectors.requires_grad and not output.loss.requires_grad
    assert output.loss.item() == pytest.approx(0.25 * (output.latent_hat - z).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("gradient", ["straight-through", "rotation"])
def test_training_lowers_the_loss_and_uses_the_whole_codebook(gradient):
    torch.manual_seed(0)
    quantizer = LooCQuantizer(8, 4, 16, beta=2, gradient=gradient).train()
    optimiser = torch.optim.Adam(quantizer.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        output = quantizer(latent(4, 8, 6, 6, seed=step))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        losses.append(output.loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert quantizer.usage(output.codes)[0].used_share == 1


# --- codec mode -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 4])
def test_codec_mode_with_a_uniform_prior_is_this_quantizer(dim):
    """With mean 0, equal tables and one digit, `SharedCodebook` picks the codes of LooC with match l2 and beta 1."""
    book = SharedCodebook(tiny_config(codevector_dim=dim, ratio_classes=5 if dim == 2 else 1, trellis_states=1))
    quantizer = LooCQuantizer(24, dim, len(book.codevectors), match="l2").eval()
    quantizer.codebook.set_codevectors(book.codevectors / LATENT_ONE)
    residual = latent(2, 24, 9, 11)
    units = units_of(residual, dim)
    units = units * (0.6 * book.reach / units.norm(dim=1, keepdim=True).clamp_min(0.6 * book.reach))
    residual = latent_of(units, residual.shape)
    picked = book.search().pick((units * LATENT_ONE).numpy(), np.arange(len(units)) % book.fine_rows)
    second = torch.from_numpy(picked.second).long()
    codes = quantizer.codes(residual).flatten()
    assert len(picked.first) == 0
    # Codec mode looks up units around zero in cells of a quarter step (d* <= 2) instead of searching; there the
    # choice between codevector 0 and its neighbours may differ.
    searched = units.norm(dim=1) > (0.85 if dim == 2 else 0)
    assert searched.sum() > 1000 and (codes[searched] != 0).any()
    assert torch.equal(second[searched], codes[searched])
    # There is no other disagreement than codevector 0 for a unit around zero.
    assert (second[second != codes] == 0).all()
    assert (second != codes).float().mean() < 0.05
    assert torch.equal(units_of(quantizer(residual).latent_hat, dim)[searched], book.steps[second[searched]])


# --- what callers may get wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 6}, {"codevector_dim": 0}, {"codebook_size": 0}, {"beta": 5}, {"interp": "bicubic"}, {"match": "l1"},
        {"index_grid": "R2"}, {"update": "none"}, {"anchor": "nearest"}, {"gradient": "gumbel"}, {"decay": 1.0},
    ],
)  # fmt: skip
def test_impossible_options_are_refused(options):
    with pytest.raises(ModelError, match=next(iter(options))):
        LooCQuantizer(**({"channels": 8, "codevector_dim": 4, "codebook_size": 16} | options))


def test_a_negative_loss_weight_is_refused():
    with pytest.raises(ModelError, match="loss weight"):
        LooCQuantizer(8, 4, 16, commitment_weight=-1.0)


def test_wrong_latents_and_codes_are_refused():
    quantizer = quantizer_of(8, 4, 16, beta=2)
    with pytest.raises(ValueError, match="latent"):
        quantizer(latent(1, 6, 3, 5))
    good = torch.zeros(1, 2, 4, 6, dtype=torch.int64)
    assert quantizer.lookup(good.to(torch.uint8)).shape == (1, 8, 2, 3)
    for bad in (good[0], good[:, :1], good.float(), good[..., :5], good - 1, good + 16):
        with pytest.raises(ValueError, match="codes"):
            quantizer.lookup(bad)
    with pytest.raises(ValueError, match="codevectors"):
        quantizer.codebook.set_codevectors(torch.zeros(3, 4))


def test_usage_counts_codes_and_gives_the_perplexity():
    quantizer = quantizer_of(8, 4, 4)
    (usage,) = quantizer.usage(torch.tensor([[[[0, 1]], [[1, 0]]]]))
    assert usage.counts.tolist() == [2, 2, 0, 0]
    assert usage.used_share == 0.5 and usage.perplexity == pytest.approx(2)
    assert quantizer.usage(torch.arange(4).view(1, 2, 2, 1))[0].perplexity == pytest.approx(4)


def test_the_example_in_the_docstring_holds():
    results = doctest.testmod(looc)
    assert results.attempted > 0 and results.failed == 0
