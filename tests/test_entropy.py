"""Index grid ↔ bytes."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looc_codec.errors import FormatError
from looc_codec.format.entropy import SHORT_RUN, CodeChecksum, SegmentDecoder, SegmentEncoder, TableBank, long_runs, sorted_by


def bank_of(rows: int, size: int, seed: int = 0) -> tuple[TableBank, np.ndarray]:
    weights = np.random.default_rng(seed).random((rows, size)) ** 12 + 1e-9
    frequencies = 1 + np.floor(weights / weights.sum(1, keepdims=True) * (2**24 - size)).astype(np.int64)
    frequencies[:, 0] += 2**24 - frequencies.sum(1)
    return TableBank(frequencies.astype(np.int32)), frequencies / 2**24


@given(st.lists(st.integers(0, 3000), max_size=5), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_segments_return_what_was_appended(counts, seed):
    generator = np.random.default_rng(seed)
    bank, _ = bank_of(6, 40)
    steps = [(generator.integers(0, 40, count), generator.integers(0, 6, count)) for count in counts]
    encoder = SegmentEncoder(bank)
    for symbols, rows in steps:
        encoder.append(symbols, rows)
    decoder = SegmentDecoder(bank, encoder.finish())
    for symbols, rows in steps:
        assert np.array_equal(decoder.read(rows), symbols)


def test_rate_is_the_entropy():
    bank, probabilities = bank_of(5, 300)
    generator = np.random.default_rng(1)
    rows = generator.integers(0, 5, 60000)
    symbols = np.array([generator.choice(300, p=probabilities[row]) for row in rows[:20000]])
    rows = rows[:20000]
    encoder = SegmentEncoder(bank)
    encoder.append(symbols, rows)
    ideal_bits = -np.log2(probabilities[rows, symbols]).sum()
    assert len(encoder.finish()) * 8 == pytest.approx(ideal_bits, rel=0.002)


def test_a_rare_symbol_costs_a_peaked_row_nothing():
    frequencies = np.ones((1, 1024), np.int32)
    frequencies[0, 0] = 2**24 - 1023
    encoder = SegmentEncoder(TableBank(frequencies))
    encoder.append(np.zeros(100_000, np.int64), np.zeros(100_000, np.int64))
    assert len(encoder.finish()) <= 8


def test_nothing_codes_to_nothing():
    bank, _ = bank_of(2, 10)
    assert SegmentEncoder(bank).finish() == b""
    assert len(SegmentDecoder(bank, b"").read(np.zeros(0, np.int64))) == 0


def test_runs_are_in_ascending_row_order_and_stable():
    rows = np.array([3, 1, 3, 1, 0])
    order = sorted_by(rows)
    assert order.tolist() == [4, 1, 3, 0, 2]
    assert rows[order].tolist() == [0, 1, 1, 3, 3]


def test_only_long_runs_are_coded_at_once():
    ordered = np.repeat([0, 1, 2, 65536, 70000], [SHORT_RUN, SHORT_RUN + 1, 1, 40, 2])
    assert long_runs(ordered) == [(SHORT_RUN, 2 * SHORT_RUN + 1), (2 * SHORT_RUN + 2, 2 * SHORT_RUN + 42)]
    assert long_runs(ordered[:0]) == [] and long_runs(np.zeros(1, np.int64)) == []
    assert long_runs(np.zeros(SHORT_RUN + 1, np.int64)) == [(0, SHORT_RUN + 1)]


def test_rows_beyond_16_bits_are_sorted_as_they_are():
    rows = np.array([65536, 3, 70000, 65535, 3, 65536])
    order = sorted_by(rows)
    assert order.tolist() == [1, 4, 3, 0, 5, 2]
    assert rows[order].tolist() == [3, 3, 65535, 65536, 65536, 70000]


@given(st.lists(st.integers(0, 700), max_size=8), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_kinds_are_coded_one_after_the_other(counts, seed):
    """At once or each by itself; read in any order of rows or in ascending one."""
    generator = np.random.default_rng(seed)
    bank, _ = bank_of(6, 40)
    symbols, rows = generator.integers(0, 40, sum(counts)), generator.integers(0, 6, sum(counts))
    parts = list(zip(np.split(symbols, np.cumsum(counts)), np.split(rows, np.cumsum(counts)), strict=True))
    together, apart = SegmentEncoder(bank), SegmentEncoder(bank)
    together.append(symbols, rows, counts)
    for part, part_rows in parts:
        apart.append(part, part_rows)
    data = together.finish()
    assert data == apart.finish()
    decoder, ascending = SegmentDecoder(bank, data), SegmentDecoder(bank, data)
    for part, part_rows in parts:
        assert np.array_equal(decoder.read(part_rows), part)
        order = part_rows.argsort(kind="stable")
        assert np.array_equal(ascending.read_ascending(part_rows[order]), part[order])


def test_bits_of_the_coder_have_not_changed():
    """A fixed segment; if it ever differs, the constriction release in use breaks every file ever written."""
    bank, _ = bank_of(3, 20, seed=4)
    generator = np.random.default_rng(7)
    encoder = SegmentEncoder(bank)
    encoder.append(generator.integers(0, 20, 12), generator.integers(0, 3, 12))
    assert encoder.finish().hex() == STORED_SEGMENT


STORED_SEGMENT = "79d32821a94d69c515ad35652f654f1aa9fde670"


def checksum_of(*parts: tuple[int, np.ndarray], segments: int = 1) -> CodeChecksum:
    checksum = CodeChecksum(segments)
    for segment, symbols in parts:
        checksum.update(segment, symbols)
    return checksum


def test_checksum_sees_order_and_split_does_not_matter():
    whole = checksum_of((0, np.arange(10)))
    assert whole.value == checksum_of((0, np.arange(4)), (0, np.arange(4, 10))).value == zlib.crc32(np.arange(10).astype("<i2").tobytes())
    assert whole.value != checksum_of((0, np.arange(10)[::-1])).value


@pytest.mark.parametrize("segments", range(1, 16))
def test_checksum_gives_every_segment_its_own_bits(segments):
    fields = CodeChecksum(segments).fields()
    taken = [bit for low, bits in fields for bit in range(low + bits - 1, low - 1, -1)]
    assert taken == list(range(31, -1, -1)), "all 32 bits, the first segment the highest"
    assert [bits for _, bits in fields[:-1]] == [32 // segments] * (segments - 1)


def test_checksum_of_a_beginning_agrees_as_far_as_it_goes():
    parts = [(segment, np.arange(100 * segment, 100 * segment + 50)) for segment in range(5)]
    expected = checksum_of(*parts, segments=5).value
    assert checksum_of(*parts, segments=5).agrees(expected, 5)
    for count in range(1, 5):
        beginning = checksum_of(*parts[:count], segments=5)
        assert beginning.agrees(expected, count) and not beginning.agrees(expected, 5)
    for wrong in range(5):
        changed = [(segment, symbols + 3 * (segment == wrong)) for segment, symbols in parts]
        checksum = checksum_of(*changed, segments=5)
        assert [checksum.agrees(expected, count) for count in range(1, 6)] == [count <= wrong for count in range(1, 6)]


def test_data_left_over_is_refused():
    bank, _ = bank_of(3, 20, seed=4)
    encoder = SegmentEncoder(bank)
    symbols, rows = np.arange(20), np.arange(20) % 3
    encoder.append(symbols[:5], rows[:5])
    encoder.append(symbols[5:], rows[5:])
    decoder = SegmentDecoder(bank, encoder.finish())
    decoder.read(rows[:5])
    with pytest.raises(FormatError, match="damaged"):
        decoder.finish()
    decoder.read(rows[5:])
    decoder.finish()
