"""The trellis: the cheapest path is found, what is written is read, and it saves what it promises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from conftest import build_tiny_model, tiny_config

from looc_codec.codec.search import ENCODER_LAMBDA
from looc_codec.codec.viterbi import best_choices
from looc_codec.errors import ModelError
from looc_codec.format import codes
from looc_codec.format.constants import LATENT_ONE, PATH_UNITS, SETS, TRELLIS_STATES
from looc_codec.format.entropy import SegmentDecoder, SegmentEncoder
from looc_codec.format.trellis import NEXT_STATE, path_count, path_table
from looc_codec.networks.model import LoocModel
from looc_codec.quantizers.codebook import TRELLIS_SPACING, SharedCodebook, trellis_lattice
from looc_codec.training.codes import CodeFitter


def walk(entries) -> bool:
    """Whether a path may take these entries (2 * set + parity) from state 0 on."""
    state = 0
    for entry in entries:
        if state % SETS != entry // 2:
            return False
        state = NEXT_STATE[state, entry % 2]
    return True


def test_every_state_is_entered_twice():
    assert sorted(NEXT_STATE.flatten()) == sorted(list(range(TRELLIS_STATES)) * 2)


def test_the_machine_is_that_of_the_format():
    """docs/FORMAT.md: half the state, exclusive-or 116 where it is odd, exclusive-or 19 where the parity is 1; zeros stay in state 0."""
    for state, parity in itertools.product(range(TRELLIS_STATES), range(2)):
        assert NEXT_STATE[state, parity] == state // 2 ^ 116 * (state % 2) ^ 19 * parity
    assert NEXT_STATE[0, 0] == 0 and PATH_UNITS == 256


@pytest.mark.parametrize("seed", range(4))
def test_finds_the_cheapest_way(seed):
    costs = np.random.default_rng(seed).exponential(1, (9, 4)).astype(np.float32)
    ways = [way for way in itertools.product(range(4), repeat=9) if walk(way)]
    assert len(ways) == 2**9
    best = min(ways, key=lambda way: costs[range(9), way].sum())
    assert best_choices(costs, np.arange(9)[:, None]).tolist() == list(best)


@pytest.mark.parametrize("counts", [[0], [1], [PATH_UNITS], [PATH_UNITS + 1], [1000], [3, 0, 500, 64], [5, 5]])
def test_paths_hold_every_unit_once_and_stay_in_their_step(counts):
    paths = path_table(counts)
    assert sorted(paths[paths >= 0]) == list(range(sum(counts)))
    assert paths.shape[0] <= PATH_UNITS and paths.shape[1] == sum(map(path_count, counts))
    steps = np.repeat(np.arange(len(counts)), counts)
    for path in paths.T:
        units = path[path >= 0]
        assert len(set(steps[units])) == 1 and (np.diff(units) > 0).all() and (path[len(units) :] == -1).all()


def test_paths_of_several_steps_are_chosen_as_each_by_itself():
    costs = np.random.default_rng(1).exponential(1, (700, 4)).astype(np.float32)
    together = best_choices(costs, path_table([300, 400]))
    assert np.array_equal(together, np.concatenate([best_choices(part, path_table([len(part)])) for part in (costs[:300], costs[300:])]))


def test_even_codes_stand_at_even_points():
    points = trellis_lattice(2, 64) / TRELLIS_SPACING
    assert torch.equal(points[:64].sum(1).round() % 2, torch.arange(64) % 2.0)
    assert not points[[0, 64]].any() and torch.allclose(points[64:], points[:64] - 0.5 * points[:64].sign())
    assert len(torch.unique(points[:64], dim=0)) == 64


@pytest.fixture
def book() -> SharedCodebook:
    model = LoocModel(tiny_config())
    CodeFitter(model).start()
    return model.codebook


def units_and_rows(book: SharedCodebook, count: int, far: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (1/16 steps) of all classes, `far` of which need escapes."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(book.fine_rows, (count,), generator=generator)
    residual = torch.randn(count, 2, generator=generator) * book.digit_factor[rows, None] * 2
    residual[:far] *= 60
    return (residual * LATENT_ONE).numpy(), rows.numpy()


@pytest.mark.parametrize("count", [0, 1, 63, 3000])
def test_reads_what_it_writes(book, count):
    residual, rows = units_and_rows(book, count)
    tables = book.tables()
    digits = book.search().pick(residual, rows, ENCODER_LAMBDA)
    symbols, table_rows, counts = tables.symbols(digits, rows)
    ends = np.cumsum(counts)[:-1]
    written = list(zip(np.split(symbols, ends), np.split(table_rows, ends), strict=True))
    # The coder leaves out what is empty; the reader asks for it in whichever way.
    encoder = SegmentEncoder(tables.bank)
    encoder.append(symbols, table_rows, counts)
    decoder = SegmentDecoder(tables.bank, encoder.finish())
    again, read = tables.read(rows, decoder)
    decoder.finish()
    assert sum(len(part) for part, _ in written) == len(symbols) == len(table_rows) and np.array_equal(read, symbols)
    for name in ("first", "second", "coarse", "fine", "sets"):
        assert np.array_equal(getattr(again, name), getattr(digits, name)), name
    value = tables.value(again, rows)
    assert np.array_equal(value, tables.value(digits, rows)) and value.dtype == np.int32
    if count == 3000:
        assert (digits.second == tables.size).any() and len(digits.first) and digits.sets.any()
        assert not digits.sets[~tables.live[rows]].any() and not tables.live.all()
        # Within reach of a digit every unit is near what it stands for: its set has an even and an odd codevector around it.
        near = (tables.digit_factor[rows] == 1) & (np.linalg.norm(residual, axis=1) < (book.reach - 2) * LATENT_ONE)
        assert near.sum() > 500 and np.linalg.norm((value - residual)[near], axis=1).max() <= 1.6 * TRELLIS_SPACING * LATENT_ONE


@pytest.mark.parametrize("limit", [0, 10**9])
def test_few_and_many_paths_are_read_alike(book, monkeypatch, limit):
    """One by one or in arrays."""
    monkeypatch.setattr(codes, "_FEW_PATHS", limit)
    tables, (residual, rows) = book.tables(), units_and_rows(book, 3000)
    picked = book.search().pick(residual, rows, ENCODER_LAMBDA)
    encoder = SegmentEncoder(tables.bank)
    encoder.append(*tables.symbols(picked, rows))
    again, _ = tables.read(rows, SegmentDecoder(tables.bank, encoder.finish()))
    assert np.array_equal(again.second, picked.second) and np.array_equal(again.sets, picked.sets)


def test_saves_bits_and_error():
    """Against units by themselves, Gaussians of one step: at least three per cent of the cost, both with fitted tables."""
    generator = torch.Generator().manual_seed(3)
    costs = []
    for states in (1, TRELLIS_STATES):
        model = LoocModel(tiny_config(trellis_states=states, codebook_size=256, channels=16, groups=(16,)))
        fitter = CodeFitter(model, lagrangian=ENCODER_LAMBDA)
        fitter.positions = 64
        fitter.start()
        rows = torch.full((64 * 8 * 40,), int((fitter.deviation.log().mean(1).abs() + (fitter.deviation[:, 0] / fitter.deviation[:, 1]).log().abs()).argmin()))
        units = torch.randn(len(rows), 2, generator=generator.manual_seed(3)) * fitter.deviation[rows]
        fitter.fit(units, rows, rounds=6)
        book = fitter.book
        tables, own_rows = book.tables(), rows.numpy()
        digits = book.search().pick((units * LATENT_ONE).numpy(), own_rows, ENCODER_LAMBDA, fitter.steps_of(len(rows)))
        symbols, table_rows, _ = tables.symbols(digits, own_rows)
        bits = float(tables.bits[table_rows, symbols].sum(dtype=np.float64))
        error = float(np.square(tables.value(digits, own_rows) / LATENT_ONE - units.numpy()).sum())
        costs.append(error + ENCODER_LAMBDA * bits)
    assert costs[1] < 0.97 * costs[0]


def test_old_weights_have_no_trellis(tiny_model):
    from looc_codec.config import LoocConfig

    values = tiny_model.config.to_dict()
    assert values.pop("trellis_states") == TRELLIS_STATES
    assert LoocConfig.from_dict(values).trellis_states == 1
    assert build_tiny_model(trellis_states=1).fingerprint != tiny_model.fingerprint


@pytest.mark.parametrize("changes", [{"trellis_states": 8}, {"codevector_dim": 4, "ratio_classes": 1, "groups": (8, 16)}, {"codebook_size": 65}])
def test_refuses_trellises_there_are_not(changes):
    with pytest.raises(ModelError, match="trellis"):
        tiny_config(**changes)
