"""The traversal of a latent in coding order, which encoder and decoder share.

For each level of each channel group the model's network says what to expect of every unit: a mean and a table row. All of it
is exact, so the decoder arrives at the same rows and means as the encoder, on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from looc_codec import progress
from looc_codec.codec.engine import Engine
from looc_codec.codec.model import CodecModel
from looc_codec.format.constants import LATENT_LIMIT
from looc_codec.format.order import Lattice, channels_of, level_positions, levels_of_group, row_strips, table_rows, units_of

STRIP_POSITIONS = 2**14
"""The networks run over strips of about so many positions, which bounds their memory: 100 megapixels would take 6 GiB at
once. Integer sums are exact, so strips change nothing."""
FRAME = 2
"""Rows and columns of zeros around the grid, as far as windows and neighbours reach."""


@dataclass(frozen=True)
class Step:
    """One step of the coding order: channels `first` to `last` less one, of payload segment `segment`, at the positions of some
    lattices. `places` are where each lattice's positions stand in the step."""

    segment: int
    first: int
    last: int
    lattices: tuple[Lattice, ...]
    places: tuple[np.ndarray, ...]

    @property
    def positions(self) -> int:
        return sum(map(len, self.places))

    def take(self, grid: np.ndarray) -> np.ndarray:
        """The step's values of `(d, h, w)`: `(C, positions)`."""
        taken = np.empty((self.last - self.first, self.positions), grid.dtype)
        for lattice, places in zip(self.lattices, self.places, strict=True):
            taken[:, places] = lattice.of(grid[self.first : self.last]).reshape(len(taken), -1)
        return taken

    def put(self, values: np.ndarray, grid: np.ndarray) -> None:
        """Writes `(C, positions)` to a grid `(C, h, w)` of the step's channels."""
        for lattice, places in zip(self.lattices, self.places, strict=True):
            target = lattice.of(grid)
            target[...] = values[:, places].reshape(target.shape)


Coder = Callable[[Step, np.ndarray, np.ndarray], np.ndarray]
"""Gets a step, the table rows `(n,)` uint16 and the means `(n, d*)` int32 of its units, and returns their values `(n, d*)` int32,
picked (encoder) or read (decoder)."""


def traverse(model: CodecModel, engine: Engine, height: int, width: int, picture_level: int, code: Coder, *, groups: int | None = None) -> np.ndarray:
    """Visits every unit of the first `groups` channel groups, by default all, and hands it to `code`.

    Returns the quantised latent `(d, h, w)` int16 in 1/16 steps, zero in groups that were not visited.
    """
    config, dim = model.config, model.config.codevector_dim
    base = model.core["prior.quality_log_scale"][picture_level - 1].astype(np.float32)[:, None]
    latent = np.zeros((config.channels, height, width), np.int16)
    # What networks see. Zero where not known yet, like the latent (0 compands to 0), and beyond the grid.
    known = np.zeros((config.channels, height + 2 * FRAME, width + 2 * FRAME), np.int8)
    inner = (slice(None), slice(FRAME, FRAME + height), slice(FRAME, FRAME + width))
    before = 0
    for index, group in enumerate(config.groups[:groups]):
        end = before + group
        own = np.zeros((group, height + 2 * FRAME, width + 2 * FRAME), np.int16)
        levels = levels_of_group(index)
        for number, level in enumerate(levels):
            step = Step(index, before, end, level.lattices, level_positions(level, height, width))
            if not step.positions:
                continue
            name = f"prior.{index}.{number}"
            quality_row = model.quality_row(f"prior.nets.{index}.{number}.quality", picture_level)
            rows = np.empty((group // dim, step.positions), np.uint16)
            mean = np.empty((group, step.positions), np.int32)
            reach = level.dilation
            for lattice, places in zip(step.lattices, step.places, strict=True):
                count = lattice.count(height, width)
                for top, bottom in row_strips(*count, max(1, STRIP_POSITIONS // level.stride**2)) if 0 not in count else ():
                    y0, x0 = FRAME + lattice.row + top * level.stride - reach, FRAME + lattice.column - reach
                    window = (slice(y0, y0 + (bottom - top - 1) * level.stride + 2 * reach + 1), slice(x0, x0 + (count[1] - 1) * level.stride + 2 * reach + 1))
                    inputs = {"quality_row": quality_row}
                    if before or number:
                        inputs["context"] = known[(slice(end if number else before), *window)].astype(np.float32)[None]
                    if number:
                        inputs["own"] = own[(slice(None), *window)].astype(np.float32)[None]
                    # The very first level knows nothing but the level of the picture, and says one thing of all positions.
                    shape = (1, group, bottom - top, count[1]) if before or number else (1, group, 1, 1)
                    predicted, log_scale = (value[0].reshape(group, -1) for value in engine.run(name, shape, shape, **inputs))
                    part = places[top * count[1] : bottom * count[1]]
                    mean[:, part] = predicted
                    rows[:, part] = table_rows(log_scale + base[before:end], config).reshape(group // dim, -1)
            values = code(step, rows.ravel(), units_of(mean, dim))
            decoded = np.clip(channels_of(values, step.positions), -LATENT_LIMIT, LATENT_LIMIT).astype(np.int16)
            step.put(decoded, own[inner])
            step.put(companded(model, decoded), known[before:end][inner])
            progress.report((before + group * (number + 1) / len(levels)) / config.channels)
        latent[before:end] = own[inner]
        before = end
    return latent


def companded(model: CodecModel, latent: np.ndarray) -> np.ndarray:
    """Signed logarithms of integer latents, as the networks see them: int8, from the stored table."""
    return model.signed_companding[latent.view(np.uint16)]
