"""The user's scale: which level of a model makes pictures look as good as a quality promises.

A quality of 1 to 100 says how a picture looks, the same with every model and effort. Its middle part is a score of
SSIMULACRA 2: at quality 75 the mean over a set of photographs is 75 (docs/QUALITY.md). A level of 1 to 100 says how
coarsely one model quantises; it is what a file holds. A model's weights file ships the table from one to the other, as
`quality` of its metadata:

    {"levels": [[level of quality 1, ..., level of quality 100] of effort 0, the same of effort 1, ...]}

The table is no part of the fingerprint: it is for choosing a level, and no reader needs it. tools/quality_table.py
measures it.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from looc_codec.errors import ModelError

LEVEL_MIN, LEVEL_MAX = 1, 100
QUALITY_MIN, QUALITY_MAX = 1, 100
DEFAULT_QUALITY = 75
"""Near the look of JPEG at 75 and of avifenc at its default."""
EFFORT_MAX = 3


@dataclass(frozen=True)
class QualityScale:
    """Levels of the qualities 1 to 100, for each effort from 0 up; efforts beyond the last take its levels.

    Levels never fall as the quality rises; the first is 1, the last 100. Raises ModelError for anything else.
    """

    levels: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.levels) <= EFFORT_MAX + 1:
            raise ModelError(f"a quality table is for 1 to {EFFORT_MAX + 1} efforts, not {len(self.levels)}")
        for row in self.levels:
            if len(row) != QUALITY_MAX or any(type(level) is not int for level in row):
                raise ModelError(f"a quality table has {QUALITY_MAX} whole numbers for each effort")
            if (row[0], row[-1]) != (LEVEL_MIN, LEVEL_MAX) or list(row) != sorted(row):
                raise ModelError(f"the levels of a quality table rise from {LEVEL_MIN} to {LEVEL_MAX}")

    def level(self, quality: int, effort: int = 0) -> int:
        """The level of a quality of 1 to 100."""
        return self._row(effort)[quality - QUALITY_MIN]

    def quality(self, level: int, effort: int = 0) -> int:
        """About the quality of a level of 1 to 100: of qualities that share it the middle one, else the next above."""
        row = self._row(effort)
        first, end = bisect_left(row, level), bisect_left(row, level + 1)
        return QUALITY_MIN + (first if first == end else (first + end - 1) // 2)

    def _row(self, effort: int) -> tuple[int, ...]:
        return self.levels[min(effort, len(self.levels) - 1)]

    def to_json(self) -> dict[str, Any]:
        """The table as the weights file holds it."""
        return {"levels": [list(row) for row in self.levels]}

    @classmethod
    def from_json(cls, value: object) -> QualityScale:
        """The table of parsed JSON; None, which weights files without one hold, gives PLAIN. Raises ModelError."""
        if value is None:
            return PLAIN
        rows = value.get("levels") if isinstance(value, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            raise ModelError("the quality table of the weights file is malformed")
        return cls(tuple(tuple(row) for row in rows))


PLAIN = QualityScale((tuple(range(LEVEL_MIN, LEVEL_MAX + 1)),))
"""What a model without a table of its own has: a quality is a level."""
