"""What codes cost: uniform bits, and real bytes of a range coder with static and with conditional tables.

The papers count log2 K bits a code. Here the codes `(n, p, h, w)` of all test pictures (p code planes on an h × w grid)
are also written, as one stream, with tables that were counted on codes of training pictures:

- static: one table for each plane;
- conditional: a table for each plane and each pair of context classes (format/index_grid.py, which a model of the paper's
  kind writes its files with). A plane's two sources of context are chosen among its left and upper neighbour and the
  earlier planes of the same position, by mutual information; a source's code enters as one of at most 16 classes of
  similar codevectors.

Tables are a part of the model, like the networks; their size is given beside the rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from looc_codec.codec.packing import shortened
from looc_codec.format.entropy import SegmentDecoder, SegmentEncoder, TableBank
from looc_codec.format.index_grid import LEFT, TABLE_BITS, UP, GridCoder, GridTables

CLASSES = 16
BACKOFF = 16.0
"""How many counts of the broader context a narrower one starts from."""
MOST_TABLE_ENTRIES = 1 << 24
CHOICE_SAMPLES = 60_000
"""Positions on which sources of context are compared; 16³ classes leave 15 samples a cell."""


@dataclass(frozen=True)
class Rate:
    """`stream_bytes` of all pictures together, `table_bytes` of the tables as 16-bit numbers."""

    stream_bytes: int
    table_bytes: int


def integer_tables(weights: np.ndarray) -> np.ndarray:
    """Frequencies `(rows, K)` int32 of non-negative weights: each >= 1, each row adding up to 2^24.

    All but the largest of a row have 11 leading bits, as weights files store them.
    """
    rows, size = weights.shape
    share = weights / np.maximum(weights.sum(1, keepdims=True), 1e-300)
    frequencies = shortened(1 + np.floor(share * (2**TABLE_BITS - size)).astype(np.int64))
    frequencies[np.arange(rows), frequencies.argmax(1)] += 2**TABLE_BITS - frequencies.sum(1)
    return frequencies.astype(np.int32)


def uniform_bits(codes_shape: tuple[int, ...], codebook_sizes: tuple[int, ...]) -> float:
    """log2 K for each of the codes `(n, p, h, w)`; one K for all planes or one for each."""
    pictures, planes, height, width = codes_shape
    bits = np.log2(codebook_sizes)
    return float(pictures * height * width * planes * bits.mean())


# --- static tables --------------------------------------------------------------------------------------------------


class StaticCoder:
    """One table for each plane, counted on training codes `(n, p, h, w)` with one more count for every codevector."""

    def __init__(self, codes: np.ndarray, size: int) -> None:
        self.size = size
        self.counts = plane_counts(codes, size)
        self.bank = TableBank(integer_tables(self.counts + 1.0))

    @property
    def table_bytes(self) -> int:
        return 2 * self.bank.frequencies.size

    def encode(self, codes: np.ndarray) -> bytes:
        encoder = SegmentEncoder(self.bank)
        encoder.append(codes.reshape(-1), self.rows(codes.shape))
        return encoder.finish()

    def decode(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return SegmentDecoder(self.bank, data).read(self.rows(shape)).reshape(shape).astype(np.int64)

    @staticmethod
    def rows(shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(np.arange(shape[1])[None, :, None, None], shape).reshape(-1)


def plane_counts(codes: np.ndarray, size: int) -> np.ndarray:
    """How often each plane `(n, p, h, w)` holds each code: `(p, K)` float64."""
    planes = codes.shape[1]
    joint = codes.astype(np.int64) + size * np.arange(planes)[None, :, None, None]
    return np.bincount(joint.reshape(-1), minlength=planes * size).reshape(planes, size).astype(np.float64)


# --- conditional tables ---------------------------------------------------------------------------------------------


def classes_of(codevectors: np.ndarray, counts: np.ndarray, limit: int = CLASSES) -> np.ndarray:
    """Class `(K,)` of each codevector `(K, d)`: at most `limit` groups of neighbours of about equal use.

    The group with the most use is cut at its median along its direction of largest spread, until there are enough:
    deterministic, and a codevector that was never seen still falls beside its neighbours.
    """
    classes = np.zeros(len(codevectors), np.int64)
    weights = counts + 1e-3 * counts.sum() / len(counts) + 1e-12
    use = {0: float(weights.sum())}
    while len(use) < min(limit, len(codevectors)):
        widest = max((group for group in use if (classes == group).sum() > 1), key=use.__getitem__)
        members = np.flatnonzero(classes == widest)
        points, weight = codevectors[members].astype(np.float64), weights[members]
        centred = points - np.average(points, axis=0, weights=weight)
        direction = np.linalg.eigh((centred * weight[:, None]).T @ centred)[1][:, -1]
        order = np.argsort(centred @ direction, kind="stable")
        half = int(np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)) + 1
        moved = members[order[min(half, len(order) - 1) :]]
        classes[moved] = len(use)
        use[len(use)] = float(weights[moved].sum())
        use[widest] = float(weights[classes == widest].sum())
    return classes


def information(first: np.ndarray, second: np.ndarray, size_first: int, size_second: int) -> float:
    """Mutual information in bits of two sequences of whole numbers."""
    joint = np.bincount(first * size_second + second, minlength=size_first * size_second).reshape(size_first, size_second) / len(first)
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log2(joint[seen] / product[seen])).sum())


def fitted_tables(codes: np.ndarray, codevectors: np.ndarray, most_entries: int = MOST_TABLE_ENTRIES) -> GridTables:
    """A table for each plane and pair of context classes, counted on training codes `(n, p, h, w)`.

    `codevectors` `(p, K, d)` say which codes of a plane are alike. A picture's rim has a class of its own. A table starts from
    BACKOFF counts of the table of its first class alone, and that one from the plane's. Fewer classes keep the entries of all
    tables below `most_entries`.
    """
    planes, size = codevectors.shape[:2]
    counts = plane_counts(codes, size)
    limit = int(np.clip(int((most_entries / (planes * size)) ** 0.5) - 1, 1, CLASSES))
    classes = np.stack([classes_of(vectors, count, limit) for vectors, count in zip(codevectors, counts, strict=True)])
    width = int(classes.max()) + 2
    sources = _chosen_sources(codes, classes, width)
    frequencies: list[np.ndarray] = []
    # Only pairs of classes that occurred have a table of their own; the others share that of their first class.
    row_of = np.empty((planes, width, width), np.int32)
    for plane in range(planes):
        first, second = (_source_classes(codes, classes, width, plane, int(source)) for source in sources[plane])
        joint = (first * width + second).reshape(-1) * size + codes[:, plane].reshape(-1)
        cells, occurrences = np.unique(joint, return_counts=True)
        dense = np.zeros((width**2, size), np.float32)
        dense.reshape(-1)[cells] = occurrences
        dense = dense.reshape(width, width, size)
        base = (counts[plane] + 1) / (counts[plane] + 1).sum()
        broad = dense.sum(1, dtype=np.float64) + BACKOFF * base
        rows = np.argwhere(dense.any(2))
        offset = sum(map(len, frequencies))
        own = dense[rows[:, 0], rows[:, 1]] + BACKOFF * (broad / broad.sum(1, keepdims=True))[rows[:, 0]]
        row_of[plane] = offset + np.arange(width)[:, None]
        row_of[plane][rows[:, 0], rows[:, 1]] = offset + width + np.arange(len(rows))
        frequencies.append(integer_tables(np.concatenate([broad, own])))
    return GridTables(classes.astype(np.uint8), sources.astype(np.int16), row_of, np.concatenate(frequencies))


def _chosen_sources(codes: np.ndarray, classes: np.ndarray, width: int) -> np.ndarray:
    """The two sources `(p, 2)` of each plane: the most informative one, then the one that adds most to it."""
    pictures, planes, grid_height, grid_width = codes.shape
    positions = pictures * grid_height * grid_width
    taken = np.random.default_rng(0).choice(positions, min(CHOICE_SAMPLES, positions), replace=False)
    own = np.stack([classes[plane][codes[:, plane]].reshape(-1)[taken] for plane in range(planes)])
    chosen = np.empty((planes, 2), np.int64)
    for plane in range(planes):
        candidates = [LEFT, UP, *range(plane)]
        values = {source: _source_classes(codes, classes, width, plane, source).reshape(-1)[taken] if source < 0 else own[source] for source in candidates}
        first = max(candidates, key=lambda source: information(own[plane], values[source], width, width))
        pair = {source: values[first] * width + values[source] for source in candidates if source != first}
        second = max(pair, key=lambda source: information(own[plane], pair[source], width, width**2))
        chosen[plane] = first, second
    return chosen


def _source_classes(codes: np.ndarray, classes: np.ndarray, width: int, plane: int, source: int) -> np.ndarray:
    """Class `(n, h, w)` of a plane's source at every position; the last class where there is no neighbour."""
    if source >= 0:
        return classes[source][codes[:, source]]
    found = np.full(codes[:, 0].shape, width - 1, np.int64)
    own = classes[plane][codes[:, plane]]
    if source == LEFT:
        found[:, :, 1:] = own[:, :, :-1]
    else:
        found[:, 1:] = own[:, :-1]
    return found


def measured(coder: StaticCoder | GridCoder, codes: np.ndarray) -> Rate:
    """Bytes of the codes `(n, p, h, w)` as one stream that was decoded again and found equal.

    Raises:
        AssertionError: the stream does not decode to the codes, which is a bug.
    """
    data = coder.encode(codes)
    if not np.array_equal(coder.decode(data, codes.shape), codes):
        raise AssertionError("a coded stream does not decode to its codes")
    return Rate(len(data), coder.table_bytes)
