"""All quantizers: what the shared interface promises, and the property that defines each one."""

from __future__ import annotations

import doctest
import itertools
import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import looc_codec.quantizers
from looc_codec.errors import ModelError
from looc_codec.quantizers import (
    QUANTIZERS,
    HVQQuantizer,
    LearnedCodebook,
    LooCQuantizer,
    PQQuantizer,
    Quantizer,
    RQQuantizer,
    SQQuantizer,
    VQEMAQuantizer,
    VQGANFCQuantizer,
    VQGANLCQuantizer,
    VQQuantizer,
    build,
    cluster_centres,
    sq_reconstruction_loss,
)
from looc_codec.quantizers.search import nearest
from looc_codec.quantizers.units import units_of

CHANNELS = 8


def latent(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small(name: str, **options) -> Quantizer:
    """The quantizer of that name for 8 channels with 16 codevectors, as long as the latents of these tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if name == "vqgan-lc":
            quantizer = build(name, CHANNELS, frozen=torch.randn(16, 12), **({"code_dim": 4} | options))
        else:
            quantizer = build(name, CHANNELS, **({"codebook_size": 16} | options))
        for module in quantizer.modules():
            if isinstance(module, LearnedCodebook):
                module.set_codevectors(torch.randn(module.size, module.dim))
    return quantizer.eval()


def two_levels() -> Quantizer:
    """HVQ with its second level in use; statistics and codevectors of that level are taken from one batch."""
    quantizer = small("hvq", hidden=32)
    quantizer.grow()
    z = latent(4, CHANNELS, 8, 8, seed=5)
    quantizer.train()(z)
    quantizer.eval().levels[1].codebook.set_codevectors(units_of(quantizer.ascend(z, 2), CHANNELS)[::4])
    return quantizer


CENTRES = 3 * latent(12, CHANNELS, seed=4)


def clustered(seed: int) -> Tensor:
    """A latent `(8, 8, 8, 8)` around 12 centres, in blocks of 2 × 2 that interpolation and half the side can follow."""
    generator = torch.Generator().manual_seed(seed)
    chosen = CENTRES[torch.randint(12, (8, 4, 4), generator=generator)]
    blocks = chosen.permute(0, 3, 1, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return blocks + 0.1 * torch.randn(blocks.shape, generator=generator)


CASES = {name: lambda name=name: small(name) for name in QUANTIZERS} | {
    # Without an encoder that adapts, a variance of 20 would drown the clusters of these tests.
    "sq": lambda: small("sq", initial_variance=1.0),
    "looc beta 2": lambda: small("looc", beta=2),
    "looc R0": lambda: small("looc", beta=2, index_grid="R0"),
    "pq all": lambda: small("pq", size_of="all"),
    "vq near": lambda: small("vq", near_restarts=True),
    "vqgan-fc flat": lambda: small("vqgan-fc", normalise=False),
    "hvq two levels": two_levels,
}
STRAIGHT = ("vq", "vq-ema", "cvq", "pq", "rq", "looc")
SMOOTH = ("sq", "hvq")
"""Quantizers whose training output is a mixture of codevectors, with gradients to all of them."""


# --- the interface --------------------------------------------------------------------------------------------------


@pytest.fixture(params=CASES)
def quantizer(request) -> Quantizer:
    return CASES[request.param]()


def test_codes_and_lookup_give_the_latent_of_forward(quantizer):
    z = latent(3, CHANNELS, 6, 4)
    output = quantizer(z)
    assert output.latent_hat.shape == z.shape and output.loss.ndim == 0
    assert output.codes.dtype == torch.int64 and output.codes.ndim == 4
    assert output.codes[0].numel() == quantizer.codes_per_position * 6 * 4
    assert torch.equal(quantizer.codes(z), output.codes)
    assert torch.equal(quantizer.lookup(output.codes), output.latent_hat)
    assert torch.equal(quantizer.lookup(output.codes.to(torch.int32), size=(6, 4)), output.latent_hat)
    assert 0 <= output.codes.min() and output.codes.max() < max(quantizer.codebook_sizes)
    assert len(output.codes.unique()) > 1, "a test in which every position has the same code shows nothing"


def test_memory_layout_makes_no_difference(quantizer):
    z = latent(2, CHANNELS, 4, 6)
    assert torch.equal(quantizer.codes(z), quantizer.codes(z.contiguous(memory_format=torch.channels_last)))


def test_uniform_bits_are_those_of_equally_likely_codes(quantizer):
    sizes = quantizer.codebook_sizes
    codes = quantizer.codes(latent(1, CHANNELS, 8, 8))
    planes = sizes if len(sizes) == codes.shape[1] else sizes * codes.shape[1]
    bits = sum(math.log2(size) * codes[0, 0].numel() for size in planes)
    assert quantizer.uniform_bits_per_position == pytest.approx(bits / 64)


def test_usage_counts_every_code_once(quantizer):
    codes = quantizer.codes(latent(2, CHANNELS, 6, 4))
    usage = quantizer.usage(codes)
    assert [len(part.counts) for part in usage] == list(quantizer.codebook_sizes)
    assert sum(int(part.counts.sum()) for part in usage) == codes.numel()
    assert all(0 < part.used_share <= 1 <= part.perplexity <= len(part.counts) + 1e-9 for part in usage)


def test_state_survives_saving(quantizer):
    torch.manual_seed(0)
    quantizer.train()(latent(4, CHANNELS, 6, 6, seed=3))
    state = {name: value.clone() for name, value in quantizer.state_dict().items()}
    other = type(quantizer)(**_constructor_options(quantizer))
    other.load_state_dict(state)
    z = latent(2, CHANNELS, 6, 4)
    expected, output = quantizer.eval()(z), other.eval()(z)
    assert torch.equal(output.codes, expected.codes) and torch.equal(output.latent_hat, expected.latent_hat)
    assert other.uniform_bits_per_position == quantizer.uniform_bits_per_position


def _constructor_options(quantizer: Quantizer) -> dict:
    if isinstance(quantizer, VQGANLCQuantizer):
        return {"channels": CHANNELS, "frozen": torch.zeros(16, 12), "code_dim": 4}
    options = {"channels": CHANNELS, "codebook_size": 16}
    if isinstance(quantizer, LooCQuantizer):
        options |= {"beta": quantizer.beta, "index_grid": quantizer.index_grid}
    if isinstance(quantizer, PQQuantizer):
        options |= {"codebook_size": quantizer.codebook_sizes[0]}
    if isinstance(quantizer, VQQuantizer):
        options |= {"near_restarts": quantizer.codebook.update == "near"}
    if isinstance(quantizer, VQGANFCQuantizer):
        options |= {"normalise": quantizer.normalise}
    if isinstance(quantizer, HVQQuantizer):
        options |= {"hidden": quantizer.levels[1].encoder[2].out_channels}
    return options


def test_evaluation_changes_nothing(quantizer):
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    first, second = (quantizer(latent(2, CHANNELS, 6, 4)) for _ in range(2))
    assert torch.equal(first.latent_hat, second.latent_hat)
    after = quantizer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_gradients_reach_what_learns(quantizer):
    """The loss moves latent and codevectors, except where averages move the latter or a level below is frozen."""
    z = latent(3, CHANNELS, 6, 6).requires_grad_()
    output = quantizer.train()(z)
    output.loss.backward()
    frozen_below = isinstance(quantizer, HVQQuantizer) and quantizer.level > 1
    assert (z.grad is None) == frozen_below and (frozen_below or z.grad.abs().sum() > 0)
    learning = [(name, value) for name, value in quantizer.named_parameters() if value.requires_grad]
    books = [(name, value) for name, value in learning if "codevectors" in name or "projector" in name]
    assert bool(books) == (not isinstance(quantizer, VQEMAQuantizer | RQQuantizer))
    if isinstance(quantizer, HVQQuantizer):
        # The level above the one in training waits for its turn.
        books = [(name, value) for name, value in books if name.startswith(f"levels.{quantizer.level - 1}.")]
    for name, value in books:
        assert value.grad is not None and value.grad.abs().sum() > 0, name
    assert all(torch.isfinite(value.grad).all() for _, value in learning if value.grad is not None)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_decoder_gradient_reaches_the_latent(name):
    quantizer = small(name).train()
    z, gradient = latent(2, CHANNELS, 4, 4).requires_grad_(), latent(2, CHANNELS, 4, 4, seed=9)
    quantizer(z).latent_hat.backward(gradient)
    assert z.grad.abs().sum() > 0
    if name in STRAIGHT:
        assert torch.equal(z.grad, gradient)
        assert all(value.grad is None for value in quantizer.parameters())
    elif name in SMOOTH:
        book = quantizer.codebook if name == "sq" else quantizer.levels[0].codebook
        assert (book.codevectors.grad.abs().sum(1) > 0).all(), "every codevector has its share"


@pytest.mark.parametrize("name", ["vq", "vq-ema", "cvq", "pq", "looc"])
def test_the_rotation_trick_carries_the_latent_onto_its_codevector(name):
    """The gradient of |latent_hat|² / 2 is latent_hat; turned back onto the unit it is the unit times |q|²/|u|²."""
    quantizer = small(name, gradient="rotation")
    z = latent(2, CHANNELS, 4, 4).requires_grad_()
    output = quantizer(z)
    output.latent_hat.backward(output.latent_hat.detach())
    dim = quantizer.codebook.dim if name != "pq" else quantizer.codevector_dim
    units, chosen, turned = (units_of(value.detach(), dim) for value in (z, output.latent_hat, z.grad))
    ratio = chosen.norm(dim=1, keepdim=True) / units.norm(dim=1, keepdim=True)
    assert torch.allclose(turned, ratio**2 * units, atol=1e-4)


def test_mixed_precision_is_finite_and_picks_codes_of_the_book(quantizer):
    z = latent(2, CHANNELS, 6, 4).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = quantizer.train()(functional.conv2d(z, torch.eye(CHANNELS)[:, :, None, None]))
        assert torch.isfinite(output.loss) and torch.isfinite(output.latent_hat).all()
        assert output.codes.shape == quantizer.codes(z).shape
    output.loss.backward()


def test_training_lowers_the_error_on_clustered_latents(quantizer):
    torch.manual_seed(0)
    two = isinstance(quantizer, HVQQuantizer) and quantizer.level == 2

    def error() -> float:
        with torch.no_grad():
            return (quantizer.eval()(clustered(99)).latent_hat - clustered(99)).square().mean().item()

    if two:
        # The level below holds the centres, as it would after its own training.
        quantizer.levels[0].codebook.codevectors.data[:12] = CENTRES
    before = error()
    learning = [value for value in quantizer.parameters() if value.requires_grad]
    if learning:
        optimiser = torch.optim.Adam(learning, lr=5e-3 if two else 2e-2)
    for step in range(600 if two else 400 if isinstance(quantizer, SQQuantizer | HVQQuantizer) else 150):
        z = clustered(step)
        output = quantizer.train()(z)
        if not learning:
            continue
        optimiser.zero_grad()
        loss = output.loss
        if isinstance(quantizer, SQQuantizer):
            loss = loss + sq_reconstruction_loss(z, output.latent_hat)
        elif output.latent_hat.requires_grad:
            loss = loss + (output.latent_hat - z).square().mean()
        loss.backward()
        optimiser.step()
    assert error() < 0.5 * before


def test_wrong_latents_and_codes_are_refused(quantizer):
    with pytest.raises(ValueError, match="latent"):
        quantizer(latent(1, CHANNELS + 1, 4, 4))
    with pytest.raises(ValueError, match="latent"):
        quantizer.codes(latent(CHANNELS, 4, 4))
    good = quantizer.codes(latent(1, CHANNELS, 4, 4))
    too_many = torch.cat([good] * (good.shape[1] + 4), 1)
    for bad in (good[0], too_many, good.float(), good - max(quantizer.codebook_sizes), good + max(quantizer.codebook_sizes)):
        with pytest.raises(ValueError, match="codes"):
            quantizer.lookup(bad)
    with pytest.raises(ValueError, match="codes"):
        quantizer.lookup(good, size=(5, 9))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_options_that_no_quantizer_can_have_are_refused(name):
    frozen = {"frozen": torch.zeros(4, 3)} if name == "vqgan-lc" else {}
    with pytest.raises(ModelError, match="channels"):
        build(name, 0, **frozen)
    with pytest.raises(ModelError, match="options"):
        build(name, 8, **frozen, no_such_option=1)
    with pytest.raises(ModelError):
        build(name, 8, **({"frozen": torch.zeros(0, 3)} if frozen else {"codebook_size": 0}))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pq", {"codevector_dim": 3}, "multiple"), ("pq", {"size_of": "half"}, "size_of"),
        ("pq", {"size_of": "all", "codebook_size": 15}, "multiple"), ("rq", {"depth": 0}, "depth"), ("hvq", {"levels": 0}, "levels"),
        ("sq", {"initial_variance": 0.0}, "variance"), ("vqgan-fc", {"code_dim": 0}, "code_dim"),
        ("vqgan-fc", {"commitment_weight": -1.0}, "loss weight"), ("cvq", {"anchor": "far"}, "anchor"), ("vq", {"match": "l1"}, "match"),
    ],
)  # fmt: skip
def test_other_impossible_options_are_refused(name, options, words):
    with pytest.raises(ModelError, match=words):
        build(name, 8, **options)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ModelError, match="vq-ema"):
        build("vqvae", 8)


# --- each one's own property ----------------------------------------------------------------------------------------


def test_vq_is_the_nearest_codevector_with_the_loss_of_the_paper():
    quantizer, z = small("vq"), latent(2, CHANNELS, 3, 4)
    vectors = z.permute(0, 2, 3, 1).reshape(-1, CHANNELS)
    codes = torch.cdist(vectors, quantizer.codebook.codevectors).argmin(1)
    expected = quantizer.codebook.codevectors[codes].view(2, 3, 4, CHANNELS).permute(0, 3, 1, 2)
    output = quantizer(z)
    assert torch.equal(output.codes.flatten(), codes) and torch.equal(output.latent_hat, expected)
    assert output.loss.item() == pytest.approx(1.25 * (z - expected).square().mean().item(), rel=1e-5)


def test_the_legacy_weights_move_the_quarter_to_the_codebook():
    z = latent(2, CHANNELS, 3, 4)
    gradients = []
    for weights in ({}, {"codebook_weight": 0.25, "commitment_weight": 1.0}):
        quantizer, leaf = small("vq", **weights), z.clone().requires_grad_()
        quantizer(leaf).loss.backward()
        gradients.append((quantizer.codebook.codevectors.grad, leaf.grad))
    (book, commitment), (legacy_book, legacy_commitment) = gradients
    assert torch.allclose(legacy_book, book / 4) and torch.allclose(legacy_commitment, 4 * commitment)


def test_looc_with_one_unit_equals_vq():
    vq, looc = small("vq"), small("looc", codevector_dim=CHANNELS, match="l2", update="gradient")
    looc.codebook.set_codevectors(vq.codebook.codevectors.detach())
    first, second = latent(2, CHANNELS, 3, 4).requires_grad_(), latent(2, CHANNELS, 3, 4).requires_grad_()
    a, b = vq(first), looc(second)
    assert torch.equal(a.codes, b.codes) and torch.equal(a.latent_hat, b.latent_hat) and torch.equal(a.loss, b.loss)
    a.loss.backward()
    b.loss.backward()
    assert torch.equal(first.grad, second.grad)
    assert torch.equal(vq.codebook.codevectors.grad, looc.codebook.codevectors.grad)
    assert vq.codes_per_position == looc.codes_per_position == 1


def test_looc_with_one_unit_and_cvqs_update_equals_cvq():
    cvq, looc = small("cvq"), small("looc", codevector_dim=CHANNELS)
    looc.load_state_dict(cvq.state_dict())
    for seed in range(3):
        z = latent(4, CHANNELS, 4, 4, seed=seed)
        assert torch.equal(cvq.train()(z).latent_hat, looc.train()(z).latent_hat)
    assert torch.equal(cvq.codebook.codevectors, looc.codebook.codevectors)


def test_looc_equals_pq_with_all_books_tied():
    looc, pq = small("looc", codevector_dim=2, match="l2"), small("pq", codevector_dim=2, match="l2")
    for book in pq.codebooks:
        book.set_codevectors(looc.codebook.codevectors.detach())
    z = latent(2, CHANNELS, 3, 4)
    a, b = looc(z), pq(z)
    assert torch.equal(a.codes, b.codes) and torch.equal(a.latent_hat, b.latent_hat)
    # PQ adds up the means of its four books.
    assert b.loss.item() == pytest.approx(4 * a.loss.item(), rel=1e-5)
    pq.codebooks[3].set_codevectors(pq.codebooks[3].codevectors.detach() + 0.5)
    assert not torch.equal(looc(z).latent_hat, pq(z).latent_hat), "untied, they differ"


def test_pq_with_one_book_equals_looc_with_one_unit():
    pq = small("pq", codevector_dim=CHANNELS, match="l2", update="gradient")
    looc = small("looc", codevector_dim=CHANNELS, match="l2", update="gradient")
    looc.codebook.set_codevectors(pq.codebooks[0].codevectors.detach())
    z = latent(2, CHANNELS, 3, 4)
    assert torch.equal(pq(z).codes, looc(z).codes) and torch.equal(pq(z).latent_hat, looc(z).latent_hat)


def test_pq_at_equal_rate_and_at_equal_codevectors():
    looc = small("looc", codevector_dim=2)
    rate, codevectors = small("pq", codevector_dim=2), small("pq", codevector_dim=2, size_of="all")
    assert rate.uniform_bits_per_position == looc.uniform_bits_per_position == 16
    assert rate.codebook_parameters == 4 * looc.codebook_parameters
    assert sum(codevectors.codebook_sizes) == looc.codebook_sizes[0] and codevectors.codebook_sizes == (4, 4, 4, 4)
    assert codevectors.codebook_parameters == looc.codebook_parameters and codevectors.uniform_bits_per_position == 8


def test_each_pq_book_sees_the_channels_of_its_own_unit():
    quantizer = small("pq", codevector_dim=2)
    z = latent(2, CHANNELS, 3, 5)
    codes = quantizer.codes(z)
    for b, m, y, x in itertools.product(range(2), range(4), range(3), range(5)):
        book = quantizer.codebooks[m]
        assert codes[b, m, y, x] == book.nearest(z[b, 2 * m : 2 * m + 2, y, x][None])[0]


def test_looc_with_beta_one_has_no_interpolation():
    z = latent(2, CHANNELS, 3, 5)
    plain = small("looc")(z)
    for interp, grid in itertools.product(("paper", "released"), ("R1", "R0")):
        output = small("looc", beta=1, interp=interp, index_grid=grid)(z)
        assert torch.equal(output.codes, plain.codes) and torch.equal(output.latent_hat, plain.latent_hat)
    # Every value of the latent is a value of a codevector: nothing was averaged.
    assert torch.isin(plain.latent_hat, small("looc").codebook.codevectors).all()
    assert not torch.isin(small("looc", beta=2)(z).latent_hat, small("looc").codebook.codevectors).all()


def test_vq_ema_equals_the_running_mean_in_closed_form():
    decay, steps = 0.9, 25
    quantizer = small("vq-ema", codebook_size=2, decay=decay).train()
    start = torch.zeros(2, CHANNELS)
    start[0], start[1] = -5, 5
    quantizer.codebook.set_codevectors(start)
    sums, counts = start.double(), torch.ones(2, dtype=torch.float64)
    history = []
    for step in range(steps):
        z = latent(3, CHANNELS, 2, 2, seed=step)
        z[:1] -= 5
        z[1:] += 5
        history.append((z[0].flatten(1).T.double(), z[1:].permute(0, 2, 3, 1).reshape(-1, CHANNELS).double()))
        quantizer(z)
    # s = g^T s_0 + (1 - g) sum_t g^(T - t) s_t, and likewise for the counts.
    for book in range(2):
        weights = [(1 - decay) * decay ** (steps - 1 - step) for step in range(steps)]
        sums[book] = decay**steps * start[book].double() + sum(w * part[book].sum(0) for w, part in zip(weights, history, strict=True))
        counts[book] = decay**steps + sum(w * len(part[book]) for w, part in zip(weights, history, strict=True))
    assert torch.allclose(quantizer.codebook.codevectors.double(), sums / counts[:, None], atol=1e-4)
    assert torch.allclose(quantizer.codebook.counts.double(), counts, rtol=1e-5)


def test_cvq_anchors_move_dead_codevectors_only():
    quantizer = small("cvq", codebook_size=3, match="l2").train()
    book = torch.zeros(3, CHANNELS)
    book[0], book[1], book[2] = -4, 4, 90
    quantizer.codebook.set_codevectors(book)
    z = 0.1 * latent(2, CHANNELS, 4, 4)
    z[0] -= 4
    z[1] += 4
    output = quantizer(z)
    assert quantizer.usage(output.codes)[0].counts.tolist() == [16, 16, 0]
    moved = (quantizer.codebook.codevectors - book).norm(dim=1)
    assert moved[:2].max() < 1e-3 and moved[2] > 100
    anchor = units_of(z, CHANNELS)[quantizer.codebook.similarity(units_of(z, CHANNELS), book[2:]).argmax()]
    assert torch.allclose(quantizer.codebook.codevectors[2], torch.lerp(book[2], anchor, math.exp(-0.001)), atol=1e-4)


def test_the_contrastive_loss_of_cvq_by_hand():
    quantizer, plain = small("cvq", contrastive_weight=1.0), small("cvq")
    z = latent(4, CHANNELS, 5, 5)
    units = functional.normalize(units_of(z, CHANNELS), dim=1)
    total = 0.0
    for codevector in quantizer.codebook.codevectors.detach():
        cosines = sorted((units @ functional.normalize(codevector, dim=0)).tolist())
        positive = sum(cosines[-6:]) / 6
        logits = torch.tensor([positive, *cosines[:50]]) / 0.07
        total += (logits.logsumexp(0) - logits[0]).item()
    assert quantizer.codebook.contrast(units_of(z, CHANNELS)).item() == pytest.approx(total / 16, abs=1e-6)
    assert (quantizer(z).loss - plain(z).loss).item() == pytest.approx(total / 16, abs=1e-6)
    # In training the same step also changes the codebook, which backward must survive.
    quantizer.train()(z).loss.backward()
    assert torch.isfinite(quantizer.codebook.codevectors.grad).all()


def test_near_restarts_move_the_least_used_codevector_beside_the_most_used_one():
    quantizer = small("vq", codebook_size=3, near_restarts=True).train()
    book = torch.zeros(3, CHANNELS)
    book[0], book[1], book[2] = -4, 4, 90
    quantizer.codebook.set_codevectors(book)
    z = torch.cat([torch.full((2, CHANNELS, 4, 4), 4.0), torch.full((1, CHANNELS, 4, 4), -4.0)])
    for step in range(20):
        assert torch.equal(quantizer.codebook.codevectors, book), step
        quantizer(z)
    assert torch.equal(quantizer.codebook.codevectors[:2], book[:2])
    assert 0 < (quantizer.codebook.codevectors[2] - book[1]).abs().max() < 0.1
    for _ in range(20):
        quantizer(z + 0.01 * latent(3, CHANNELS, 4, 4))
    assert (quantizer.codebook.codevectors[2] - book[1]).abs().max() < 0.1


def test_rq_error_falls_with_depth():
    torch.manual_seed(0)
    batches = [latent(8, CHANNELS, 6, 6, seed=seed) for seed in range(60)]
    errors = []
    for depth in (1, 2, 3, 4):
        quantizer = small("rq", codebook_size=64, depth=depth).train()
        for z in batches:
            quantizer(z)
        z = latent(8, CHANNELS, 6, 6, seed=99)
        errors.append((quantizer.eval()(z).latent_hat - z).square().mean().item())
        assert quantizer.uniform_bits_per_position == 6 * depth
    assert all(later < 0.9 * earlier for earlier, later in itertools.pairwise(errors))


def test_rq_codes_are_those_of_the_residuals_and_prefixes_can_be_read():
    quantizer, z = small("rq", depth=3), latent(2, CHANNELS, 3, 4)
    output = quantizer(z)
    residual, means = z.clone(), []
    for plane in range(3):
        vectors = units_of(residual, CHANNELS)
        assert torch.equal(output.codes[:, plane].flatten(), nearest(vectors, quantizer.codebook.codevectors))
        partial = quantizer.lookup(output.codes[:, : plane + 1])
        residual = z - partial
        means.append(residual.square().mean().item())
    assert torch.equal(partial, output.latent_hat)
    assert output.loss.item() == pytest.approx(0.25 * sum(means) / 3, rel=1e-4)


def test_rq_restarts_unused_codevectors_at_residuals_of_the_batch():
    torch.manual_seed(0)
    quantizer = small("rq", codebook_size=4, depth=1).train()
    book = torch.full((4, CHANNELS), 50.0)
    book[0] = 0
    quantizer.codebook.set_codevectors(book)
    z = latent(2, CHANNELS, 4, 4)
    quantizer(z)
    distance = torch.cdist(quantizer.codebook.codevectors, units_of(z, CHANNELS)).min(1).values
    assert (distance[1:] < 1e-3).all() and distance[0] > 0.1
    kept = small("rq", codebook_size=4, depth=1, restart_below=0.0).train()
    kept.codebook.set_codevectors(book)
    kept(z)
    assert torch.allclose(kept.codebook.codevectors[1:], book[1:], rtol=1e-3)


def test_sq_tends_to_the_nearest_codevector_as_variance_and_temperature_fall():
    quantizer, z = small("sq", variance_floor=0.0), latent(4, CHANNELS, 6, 6)
    hard = quantizer.eval()(z)
    assert torch.equal(hard.codes.flatten(), nearest(units_of(z, CHANNELS), quantizer.codebook.codevectors))
    errors = []
    for variance, steps in ((10.0, 0), (1.0, 100_000), (0.1, 300_000), (0.001, 900_000)):
        torch.manual_seed(0)
        quantizer.log_variance.data.fill_(math.log(variance))
        quantizer.steps.fill_(steps)
        assert quantizer.temperature == pytest.approx(math.exp(-1e-5 * steps))
        errors.append((quantizer.train()(z).latent_hat - hard.latent_hat).square().mean().item())
        assert int(quantizer.steps) == steps + 1
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 0.01 * errors[0]


def test_sq_at_temperature_zero_is_one_draw_from_the_posterior():
    torch.manual_seed(0)
    quantizer = small("sq", codebook_size=4)
    quantizer.log_variance.data.fill_(math.log(3.0))
    quantizer.steps.fill_(10_000_000)
    vector = latent(1, CHANNELS, 1, 1)
    posterior = quantizer.log_posterior(units_of(vector, CHANNELS)).exp()[0].detach()
    assert posterior.sum() == pytest.approx(1, abs=1e-5) and posterior.max() < 0.9
    distances = torch.cdist(units_of(vector, CHANNELS), quantizer.codebook.codevectors)[0] ** 2
    assert torch.allclose(posterior, functional.softmax(-distances / (2 * 4.0), 0), atol=1e-5), "variance 1 + 3"
    drawn = units_of(quantizer.train()(vector.expand(20_000, -1, 1, 1)).latent_hat, CHANNELS)
    distance, codes = torch.cdist(drawn, quantizer.codebook.codevectors).min(1)
    assert distance.median() < 1e-2
    share = torch.bincount(codes, minlength=4) / len(codes)
    assert torch.allclose(share, posterior, atol=0.02)


def test_the_loss_of_sq_by_hand_and_its_gradient_to_the_variance():
    quantizer, z = small("sq"), latent(2, CHANNELS, 3, 3)
    output = quantizer(z)
    variance = 1 + 20.0
    distances = torch.cdist(units_of(z, CHANNELS).double(), quantizer.codebook.codevectors.double()) ** 2
    posterior = functional.softmax(-distances / (2 * variance), 1)
    expected = ((posterior * posterior.log()).sum() + (z - output.latent_hat).square().sum() / (2 * variance)) / 2
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    output.loss.backward()
    assert quantizer.log_variance.grad.abs() > 0
    images, other = torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    by_hand = 8 * math.log((images - other).square().sum().item() / 3)
    assert sq_reconstruction_loss(images, other).item() == pytest.approx(by_hand, rel=1e-5)


def test_hvq_levels_halve_the_grid_and_freeze_what_is_below():
    torch.manual_seed(0)
    quantizer = small("hvq", levels=3, hidden=8)
    z = latent(2, CHANNELS, 8, 8)
    grids, bits = [], []
    for level in (1, 2, 3):
        assert quantizer.level == level
        quantizer.train()(z)
        grids.append(tuple(quantizer.eval().codes(z).shape[1:]))
        bits.append(quantizer.uniform_bits_per_position)
        if level < 3:
            quantizer.grow()
            assert not any(value.requires_grad for value in quantizer.levels[level - 1].parameters())
    assert grids == [(1, 8, 8), (1, 4, 4), (1, 2, 2)] and bits == [4, 1, 0.25]
    with pytest.raises(ModelError, match="level"):
        quantizer.grow()
    # Whatever the top says, the latent consists of codevectors of the bottom.
    latent_hat = quantizer(z).latent_hat
    assert torch.cdist(units_of(latent_hat, CHANNELS), quantizer.levels[0].codebook.codevectors).min(1).values.max() == 0


def test_training_an_upper_hvq_level_leaves_the_lower_one_alone():
    torch.manual_seed(0)
    quantizer = small("hvq", hidden=32)
    quantizer.grow()
    before = {name: value.clone() for name, value in quantizer.levels[0].state_dict().items()}
    optimiser = torch.optim.Adam([value for value in quantizer.parameters() if value.requires_grad], lr=5e-3)
    losses = []
    for step in range(100):
        quantizer.set_progress(step / 100)
        output = quantizer.train()(clustered(step))
        assert not output.latent_hat.requires_grad
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        losses.append(output.loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert all(torch.equal(quantizer.levels[0].state_dict()[name], value) for name, value in before.items())


def test_hvq_reads_odd_sizes_when_told_them():
    quantizer = two_levels()
    z = latent(2, CHANNELS, 7, 5)
    output = quantizer(z)
    assert output.codes.shape == (2, 1, 4, 3)
    assert torch.equal(quantizer.lookup(output.codes, size=(7, 5)), output.latent_hat)
    assert quantizer.lookup(output.codes).shape == (2, CHANNELS, 8, 6)


def test_the_loss_of_the_first_hvq_level_by_hand():
    quantizer, z = small("hvq", kl_weight=0.5, commitment_weight=0.25), latent(2, CHANNELS, 3, 3)
    distances = torch.cdist(units_of(z, CHANNELS).double(), quantizer.levels[0].codebook.codevectors.double()) ** 2
    posterior = functional.softmax(-distances, 1)
    divergence = (posterior * (posterior * 16).log()).sum()
    expected = (0.5 * divergence + 0.25 * (posterior * distances).sum()) / z.numel()
    assert quantizer(z).loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_vqgan_fc_compares_and_emits_unit_vectors():
    quantizer, z = small("vqgan-fc", code_dim=4), latent(2, CHANNELS, 3, 4)
    assert torch.allclose(quantizer.book().norm(dim=1), torch.ones(16))
    assert torch.allclose(quantizer.units(z).norm(dim=1), torch.ones(24))
    output = quantizer(z)
    cosines = functional.normalize(units_of(quantizer.project_in(z), 4), dim=1) @ functional.normalize(quantizer.codevectors, dim=1).T
    assert torch.equal(output.codes.flatten(), cosines.argmax(1))
    with torch.no_grad():
        quantizer.codevectors *= torch.linspace(0.1, 9, 16)[:, None]
        quantizer.project_in.weight *= 7
        quantizer.project_in.bias *= 7
    assert torch.equal(quantizer(z).codes, output.codes), "lengths play no part"
    assert torch.allclose(quantizer(z).latent_hat, output.latent_hat, atol=1e-5)
    flat = small("vqgan-fc", code_dim=4, normalise=False)
    assert torch.equal(flat.book(), flat.codevectors)


def test_vqgan_fc_is_straight_through_between_its_projections():
    quantizer, gradient = small("vqgan-fc", code_dim=4, normalise=False), latent(2, CHANNELS, 3, 4, seed=9)
    first, second = latent(2, CHANNELS, 3, 4).requires_grad_(), latent(2, CHANNELS, 3, 4).requires_grad_()
    quantizer(first).latent_hat.backward(gradient)
    quantizer.project_out(quantizer.project_in(second)).backward(gradient)
    assert torch.allclose(first.grad, second.grad, atol=1e-6)


def test_vqgan_lc_trains_the_projector_and_never_the_codebook():
    quantizer = small("vqgan-lc").train()
    frozen = quantizer.frozen.clone()
    assert "frozen" in quantizer.state_dict() and not any("frozen" in name for name, _ in quantizer.named_parameters())
    assert not quantizer.frozen.requires_grad
    optimiser = torch.optim.Adam(quantizer.parameters(), lr=1e-2)
    before = quantizer.book().detach().clone()
    output = quantizer(latent(2, CHANNELS, 4, 4))
    output.loss.backward()
    assert quantizer.projector.weight.grad.abs().sum() > 0
    optimiser.step()
    assert torch.equal(quantizer.frozen, frozen) and quantizer.frozen.grad is None
    assert ((quantizer.book() - before).norm(dim=1) > 0).all(), "all codevectors move, used or not"
    assert output.latent_hat.shape == (2, CHANNELS, 4, 4) and quantizer.codebook_parameters == 16 * 4


@pytest.mark.parametrize("match", ["cosine", "l2"])
@pytest.mark.parametrize("gradient", ["straight-through", "rotation"])
def test_books_of_pq_worked_on_at_once_give_what_each_gives(match, gradient):
    torch.manual_seed(0)
    quantizer = PQQuantizer(12, 3, 7, match=match, update="gradient", gradient=gradient)
    output = quantizer(latent := torch.randn(2, 12, 3, 4))
    parts = [book(units) for book, units in zip(quantizer.codebooks, quantizer.units(latent), strict=True)]
    for plane, (chosen, codes, _) in enumerate(parts):
        assert torch.equal(output.codes[:, plane].reshape(-1), codes)
        assert torch.allclose(units_of(output.latent_hat[:, 3 * plane : 3 * plane + 3], 3), chosen)
    assert torch.allclose(output.loss, sum(loss for _, _, loss in parts))
    assert torch.equal(quantizer.codes(latent), output.codes)


def test_cluster_centres_find_the_clusters():
    centres = 10 * latent(5, 3)
    features = centres.repeat(40, 1) + 0.1 * latent(200, 3, seed=2)
    errors = []
    for rounds in (0, 20):
        found = cluster_centres(features, 8, rounds=rounds, generator=torch.Generator().manual_seed(0))
        errors.append(torch.cdist(features, found).min(1).values.square().mean().item())
    assert errors[1] < errors[0] and errors[1] < 0.1
    with pytest.raises(ValueError, match="features"):
        cluster_centres(features[:3], 8)


# --- documentation --------------------------------------------------------------------------------------------------


def test_the_example_in_the_package_holds():
    results = doctest.testmod(looc_codec.quantizers)
    assert results.attempted > 5 and results.failed == 0


DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "QUANTIZERS.md"


def test_the_table_in_the_document_states_what_the_classes_say():
    """Each row's call is evaluated; parameters, codes and bits must be those printed."""
    rows = re.findall(r"^\| [^|]*\| `(build\(.*?\))` \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert {re.search(r'build\("([^"]+)"', call).group(1) for call, *_ in rows} == set(QUANTIZERS)
    names = {"build": build, "features": torch.zeros(1024, 48)}
    for call, parameters, codes, bits in rows:
        quantizer = eval(call, {"__builtins__": {}}, names)
        assert quantizer.codebook_parameters == int(parameters.replace(",", "")), call
        assert quantizer.codes_per_position == float(codes), call
        assert quantizer.uniform_bits_per_position == pytest.approx(float(bits)), call


def test_the_code_in_the_document_runs():
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(DOCUMENT), "exec"), {})
