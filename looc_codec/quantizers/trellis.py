"""Trellis-coded quantisation: which of two half-shifted codebooks a unit takes follows from the codes before it.

A unit's quantiser is set 0, the codebook itself, or set 1, its codevectors moved half a spacing towards zero. A state machine decides: odd states take set 1, and the
lowest bit of a code's index, its parity, leads to the next state. All that a path of units can stand for is twice as dense as one codebook, while each code is one of K
as before; the encoder finds the best path by the Viterbi algorithm (Viterbi 1967). Marcellin and Fischer (1990) found the gain, Fischer and Wang (1992) with entropy
coding; VVC has it as dependent quantisation (Schwarz et al. 2019). The machine is a systematic feedback convolutional encoder, as of Ungerboeck (1982): its taps were looked for.
"""

from __future__ import annotations

import numpy as np

from looc_codec.format.constants import TRELLIS_STATES

SET_TAPS, PARITY_TAPS = 0b1110100, 0b0010011
"""What an odd state and an odd parity turn over in the next state. Of all 4,032 machines of so many states the one that saves the most of the cost of codes of
48 training crops; decoders take no longer for more states (docs/EXPERIMENTS.md, section 20)."""
SETS = 2
_STATE = np.arange(TRELLIS_STATES)
NEXT_STATE = np.stack([_STATE >> 1 ^ _STATE % SETS * SET_TAPS ^ parity * PARITY_TAPS for parity in range(2)], 1)
"""Next state by state and parity `(TRELLIS_STATES, 2)`. State 0 is the start of each path, and stays with codes of even index, zero among them."""
PATH_UNITS = 256
"""Longest path. Paths of a step begin at state 0 and do not know of each other, so that a step has only so many codes one after the other. Each loses some bits at
its beginning, where few states can be reached: paths of 64, 128 and 512 units take 1.3, 0.5 and -0.2% more bits than 256."""
PATHS_AT_A_TIME = 256
"""Paths searched together: their costs stay in a core's caches, and their ways take 8 MiB."""

# By next state: its two predecessors, and the entry of their costs, 2 * set + parity.
_WAYS = NEXT_STATE.flatten().argsort(kind="stable").reshape(TRELLIS_STATES, 2)
_PREDECESSORS = _WAYS // 2
_ENTRIES = 2 * (_PREDECESSORS % SETS) + _WAYS % 2


def path_count(units: int) -> int:
    """How many paths a step of so many live units has."""
    return -(-units // PATH_UNITS)


def path_units(counts: list[int]) -> np.ndarray:
    """The paths of consecutive runs of so many units, steps that know nothing of each other: `(PATH_UNITS or less, paths)` int64, the index of
    each path's units from first to last, -1 beyond its end.

    A step's units are cut into as many equal runs as a path is long; units at the same place of all runs make a path.
    """
    columns, start = [], 0
    for count in counts:
        if count:
            paths = path_count(count)
            indices = np.full(PATH_UNITS * paths, -1)
            indices[:count] = np.arange(start, start + count)
            columns.append(indices.reshape(PATH_UNITS, paths))
        start += count
    if not columns:
        return np.zeros((0, 0), np.int64)
    table = np.concatenate(columns, 1)
    return table[: int((table >= 0).any(1).sum())]


def best_choices(costs: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """The cheapest way along each path (Viterbi): `costs` `(n, 4)` float32 of the best code in set 0 with even and odd index, in set 1 likewise;
    `paths` of `path_units` over them. Returns the entry 0..3 chosen for each unit `(n,)` int64."""
    # A step beyond the end of a path costs nothing whatever it does, so it changes nothing.
    padded = np.concatenate([costs, np.zeros((1, 4), np.float32)])
    chosen = np.zeros(len(padded), np.int64)
    for start in range(0, paths.shape[1], PATHS_AT_A_TIME):
        part = paths[:, start : start + PATHS_AT_A_TIME]
        chosen[part] = _cheapest(padded[part])
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
