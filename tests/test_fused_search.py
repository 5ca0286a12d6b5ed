"""The choice of codes for all units at once: in tensor operations, and as one kernel of a GPU (interpreted where there is none)."""

from __future__ import annotations


import pytest
import torch
from conftest import tiny_config

from looc_codec.networks.model import LoocModel
from looc_codec.format.constants import LATENT_ONE
from looc_codec.quantizers.codebook import SharedCodebook
from looc_codec.quantizers.units import latent_of, units_of
from looc_codec.training.codes import CodeFitter, occurrences

LAGRANGIAN = 0.1


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


def cost(book: SharedCodebook, units, digits, rows):
    """Distortion (steps²) plus LAGRANGIAN times bits of what was picked, `(n,)`."""
    distortion = (units / LATENT_ONE - book.value(digits, rows).float() / LATENT_ONE).square().sum(1)
    bits = book.bits_of(rows, digits.second) + torch.where(digits.first >= 0, book.bits_of(book.first_digit_row[rows].clamp_min(0), digits.first.clamp_min(0)), 0.0)
    escaped = digits.second == len(book.steps)
    last = torch.full_like(digits.coarse, len(book.bits) - 2)
    bits[escaped] += book.bits_of(last, digits.coarse) + book.bits_of(last + 1, digits.fine)
    return distortion + LAGRANGIAN * bits


def test_all_at_once_is_the_choice_unit_by_unit_without_its_short_cut(fitter):
    book, (residual, log_scale) = fitter.book, residuals(fitter)
    units, rows = units_of(residual, 2), fitter.rows_of(log_scale)
    one, every = book.pick(units, rows, LAGRANGIAN), book.pick_all(units, rows, LAGRANGIAN)
    escaped = every.second == len(book.steps)
    assert escaped.any() and (every.first >= 0).any() and (~escaped & (every.first < 0)).any()
    same = (book.value(one, rows) == book.value_all(every, rows)).all(1)
    # `pick` keeps a code that is nearest to its cell and its row's cheapest, which a neighbour in the cell may beat.
    assert same.float().mean() > 0.95
    kept = type(every)(every.first, every.second, every.coarse[escaped], every.fine[escaped], every.sets)
    assert torch.equal(book.value(kept, rows), book.value_all(every, rows))
    direct = (every.first < 0) & (one.first < 0)
    assert (cost(book, units, kept, rows)[direct] <= cost(book, units, one, rows)[direct] + 1e-4).all()


def test_counts_are_the_same_both_ways(fitter, monkeypatch):
    residual, log_scale = residuals(fitter)
    units, rows = units_of(residual, 2) / LATENT_ONE, fitter.rows_of(log_scale)
    # With codes that both ways pick alike only the counting differs.
    one, every = (pick(units * LATENT_ONE, rows, fitter.lagrangian) for pick in (fitter.book.pick, fitter.book.pick_all))
    alike = (one.first == every.first) & (one.second == every.second)
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
