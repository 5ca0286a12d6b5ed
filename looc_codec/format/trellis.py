"""The state machine of trellis-coded quantisation: which of two half-shifted codebooks a unit takes.

A unit's quantiser is set 0, the codebook itself, or set 1, its codevectors moved half a spacing towards zero. A state
machine decides: odd states take set 1, and the lowest bit of a code's index, its parity, leads to the next state. All that
a path of units can stand for is twice as dense as one codebook, while each code is one of K as before; the encoder finds
the best path by the Viterbi algorithm (codec/viterbi.py). Marcellin and Fischer (1990) found the gain, Fischer and Wang
(1992) with entropy coding; VVC has it as dependent quantisation (Schwarz et al. 2019). The machine is a systematic feedback
convolutional encoder, as of Ungerboeck (1982): its taps were looked for.
"""

from __future__ import annotations

import numpy as np

from looc_codec.format.constants import PARITY_TAPS, PATH_UNITS, SET_TAPS, SETS, TRELLIS_STATES

_STATE = np.arange(TRELLIS_STATES)
NEXT_STATE = np.stack([_STATE >> 1 ^ _STATE % SETS * SET_TAPS ^ parity * PARITY_TAPS for parity in range(2)], 1)
"""Next state by state and parity `(TRELLIS_STATES, 2)`. State 0 is the start of each path, and stays with codes of even
index, zero among them."""


def path_count(units: int) -> int:
    """How many paths a step of so many live units has. Live unit i belongs to path i mod that number."""
    return -(-units // PATH_UNITS)


def path_table(counts: list[int]) -> np.ndarray:
    """The paths of consecutive steps of so many live units, which know nothing of each other: `(PATH_UNITS or less, paths)`
    int64, the index of each path's units from first to last, -1 beyond its end."""
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
