"""The Viterbi search (Viterbi 1967): the cheapest way of the trellis's state machine along paths of units. Encoder only."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from looc_codec.format.constants import SETS, TRELLIS_STATES
from looc_codec.format.trellis import NEXT_STATE

PATHS_AT_A_TIME = 256
"""Paths searched together: their costs stay in a core's caches, and their ways take 8 MiB."""

# By next state: its two predecessors, and the entry of their costs, 2 * set + parity.
_WAYS = NEXT_STATE.flatten().argsort(kind="stable").reshape(TRELLIS_STATES, 2)
_PREDECESSORS = _WAYS // 2
_ENTRIES = 2 * (_PREDECESSORS % SETS) + _WAYS % 2


def best_choices(costs: np.ndarray, paths: np.ndarray, threads: int = 1) -> np.ndarray:
    """The cheapest way along each path: `costs` `(n, 4)` float32 of the best code in set 0 with even and odd index, in set 1
    likewise; `paths` of `path_table` over them. Returns the entry 0..3 chosen for each unit `(n,)` int64."""
    # A step beyond the end of a path costs nothing whatever it does, so it changes nothing.
    padded = np.concatenate([costs, np.zeros((1, 4), np.float32)])
    chosen = np.zeros(len(padded), np.int64)

    def work(start: int) -> None:
        part = paths[:, start : start + PATHS_AT_A_TIME]
        chosen[part] = _cheapest(padded[part])

    starts = range(0, paths.shape[1], PATHS_AT_A_TIME)
    if threads == 1 or len(starts) < 2:
        for start in starts:
            work(start)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, starts))
    return chosen[:-1]


def _cheapest(costs: np.ndarray) -> np.ndarray:
    """Entries `(length, paths)` of the cheapest way along each path, by their costs `(length, paths, 4)`."""
    length, count, _ = costs.shape
    by_entry = np.ascontiguousarray(costs.transpose(0, 2, 1))
    total = np.full((TRELLIS_STATES, count), np.inf, np.float32)
    total[0] = 0
    second = np.empty((length, TRELLIS_STATES, count), bool)
    ways, added = np.empty((2, 2, TRELLIS_STATES, count), np.float32)
    states, entries = _PREDECESSORS.T.copy(), _ENTRIES.T.copy()
    for index in range(length):
        # With a mode numpy writes straight into `out`.
        total.take(states, 0, out=ways, mode="clip")
        by_entry[index].take(entries, 0, out=added, mode="clip")
        ways += added
        np.less(ways[1], ways[0], out=second[index])
        np.minimum(ways[0], ways[1], out=total)
    state, every = total.argmin(0), np.arange(count)
    chosen = np.empty((length, count), np.int64)
    for index in range(length - 1, -1, -1):
        which = second[index, state, every].astype(np.int64)
        chosen[index] = _ENTRIES[state, which]
        state = _PREDECESSORS[state, which]
    return chosen
