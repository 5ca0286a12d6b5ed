"""The choice of codes for all units at once: in tensor operations, and as one kernel of a GPU (interpreted where there is none)."""

from __future__ import annotations


import numpy as np
import pytest
import torch
from conftest import tiny_config

from looc_codec.networks.model import LoocModel
from looc_codec.format.constants import LATENT_ONE
from looc_codec.format.codes import Codes, CodeTables
from looc_codec.quantizers.codebook import Digits, SharedCodebook
from looc_codec.quantizers.units import latent_of, units_of
from looc_codec.training.codes import CodeFitter, occurrences

LAGRANGIAN = 0.1


SIZE = tiny_config().codebook_size


@pytest.fixture(scope="module")
def fitter():
    """A book with several digit factors and uneven tables."""
    torch.manual_seed(0)
    fitter = CodeFitter(LoocModel(tiny_config(ratio_classes=5, trellis_states=1)))
    fitter.start()
    book: SharedCodebook = fitter.book
    book.set_tables(fitter.gaussian * torch.rand(fitter.gaussian.shape).clamp_min(0.05))
    return fitter


def residuals(fitter: CodeFitter) -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals and log scales `(B, C, h, w)`: most as their rows expect, some far beyond."""
    generator = torch.Generator().manual_seed(1)
    log_scale = torch.randint(-150, 140, (3, 24, 5, 7), generator=generator).float()
    residual = torch.randn(log_scale.shape, generator=generator) * torch.exp(log_scale / 32) * 1.5 * LATENT_ONE
    residual[0, :6] *= 20
    return residual, log_scale


def codes_of(every: Digits) -> Codes:
    """What `pick_all` gives, as the codec has it."""
    first, second, coarse, fine = (value.numpy().astype(np.int32) for value in (every.first, every.second, every.coarse, every.fine))
    escaped = second == SIZE
    return Codes(first[first >= 0], second, coarse[escaped], fine[escaped], np.zeros(len(second), np.uint8))


def cost(tables: CodeTables, units: np.ndarray, codes: Codes, rows: np.ndarray) -> np.ndarray:
    """Distortion (steps²) plus LAGRANGIAN times bits of what was picked, `(n,)`."""
    distortion = np.square(units / LATENT_ONE - tables.value(codes, rows) / LATENT_ONE).sum(1)
    bits, wide, escaped = tables.bits[rows, codes.second].copy(), tables.digit_factor[rows] > 1, codes.second == tables.size
    bits[wide] += tables.bits[tables.first_digit_row[rows[wide]], codes.first]
    bits[escaped] += tables.bits[tables.escape_row, codes.coarse] + tables.bits[tables.escape_row + 1, codes.fine]
    return distortion + LAGRANGIAN * bits


def test_all_at_once_is_the_choice_unit_by_unit_without_its_short_cut(fitter):
    book, (residual, log_scale) = fitter.book, residuals(fitter)
    units, rows = units_of(residual, 2), fitter.rows_of(log_scale)
    every, tables = book.pick_all(units, rows, LAGRANGIAN), book.tables()
    one, kept, own_rows = book.search().pick(units.numpy(), rows.numpy(), LAGRANGIAN), codes_of(every), rows.numpy()
    escaped = every.second == SIZE
    assert escaped.any() and (every.first >= 0).any() and (~escaped & (every.first < 0)).any()
    same = (tables.value(one, own_rows) == book.value_all(every, rows).numpy()).all(1)
    # `pick` keeps a code that is nearest to its cell and its row's cheapest, which a neighbour in the cell may beat.
    assert same.mean() > 0.95
    assert np.array_equal(tables.value(kept, own_rows), book.value_all(every, rows).numpy())
    assert torch.equal(book.quantise(units, rows, LAGRANGIAN), torch.from_numpy(tables.value(one, own_rows)))
    direct = tables.digit_factor[own_rows] == 1
    assert (cost(tables, units.numpy(), kept, own_rows)[direct] <= cost(tables, units.numpy(), one, own_rows)[direct] + 1e-4).all()


def test_counts_are_the_same_both_ways(fitter, monkeypatch):
    residual, log_scale = residuals(fitter)
    units, rows = units_of(residual, 2) / LATENT_ONE, fitter.rows_of(log_scale)
    # With codes that both ways pick alike only the counting differs.
    every = fitter.book.pick_all(units * LATENT_ONE, rows, fitter.lagrangian)
    one = fitter.book.search().pick((units * LATENT_ONE).numpy(), rows.numpy(), fitter.lagrangian)
    first = np.full(len(rows), -1)
    first[fitter.book.tables().digit_factor[rows.numpy()] > 1] = one.first
    alike = torch.from_numpy(first == every.first.numpy()) & torch.from_numpy(one.second == every.second.numpy())
    assert alike.float().mean() > 0.9
    counted = []
    for dense in (False, True):
        monkeypatch.setattr(CodeFitter, "dense", property(lambda self, dense=dense: dense))
        fitter.forget()
        bits = fitter.count(units[alike], rows[alike])
        counted.append((fitter.counts, fitter.sums, fitter.totals, bits.float()))
    for one, every in zip(*counted, strict=True):
        torch.testing.assert_close(one.float(), every.float(), rtol=1e-5, atol=1e-4)


def test_occurrences_of_counted_entries():
    index = torch.tensor([2, 0, 2, 1, 2])
    assert occurrences(index, 4).tolist() == [1, 1, 3, 0]
    assert occurrences(index, 4, torch.tensor([True, False, True, True, False])).tolist() == [0, 1, 2, 0]


def test_a_new_fit_keeps_its_tensors_where_a_recorded_step_reads_them(fitter):
    book = fitter.book
    names = ("codevectors", "frequencies", "bits", "steps", "padded", "cheapest", "shortlists")
    places = {name: getattr(book, name).data_ptr() for name in names}
    moved = book.steps + 0.3
    moved[0] = 0
    book.set_codevectors(moved)
    book.set_tables(torch.ones(book.frequencies.shape))
    assert {name: getattr(book, name).data_ptr() for name in names} == places
    torch.testing.assert_close(book.steps, moved, atol=0.5 / LATENT_ONE, rtol=0)


def test_the_kernel_gives_the_same_values(fitter):
    pytest.importorskip("triton")
    from looc_codec.training import fused_search

    device = "cuda" if torch.cuda.is_available() else "cpu"
    book = fitter.book.to_device(device)
    residual, log_scale = (value.to(device) for value in residuals(fitter))
    expected = latent_of(book.quantise_all(units_of(residual, 2), fitter.rows_of(log_scale), LAGRANGIAN).float(), residual.shape)
    got = fused_search.quantise(book, residual, log_scale, LAGRANGIAN)
    book.to_device("cpu")
    assert torch.equal(got, expected)
