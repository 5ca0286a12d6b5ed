"""The stored points of a report: one JSON file that a later run reads as its cache, and one CSV table for others."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from looc_codec.errors import LoocError
from looc_codec.files import write_atomically

FORMAT = "looc-report 1"
_RECORD_LISTS = ("pictures", "failures", "points")


class ResultsError(LoocError):
    """A results file that is damaged or of another kind."""


@dataclass
class Results:
    """All that was measured.

    `pictures`: name, width, height and sha256 of the pixels. `codecs`: by name, with label, settings, identity, or the
    reason why one is missing. `metrics`: by key, with label, unit, source, or the reason. `points`: codec, quality,
    picture, bytes, bpp, the metrics' values by key (null: none for this picture), encode_seconds, decode_seconds.
    `failures`: picture, codec and quality (null: the picture cannot be read), and one sentence. `about`: version,
    command, machine, jobs.
    """

    about: dict[str, Any] = field(default_factory=dict)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    codecs: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)


def read_results(path: Path) -> Results:
    """The results of a file; empty ones when there is no such file.

    Raises:
        ResultsError: the file is not one of these results.
    """
    if not path.exists():
        return Results()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(data["format"])
        results = Results(**{name: data[name] for name in ("about", "pictures", "codecs", "metrics", "failures", "points")})
        for point in results.points:
            point["codec"], point["quality"], point["picture"], point["bytes"], point["bpp"]
    except (ValueError, KeyError, TypeError):
        raise ResultsError(f"{path} holds no results of looc report; give another --out or delete it") from None
    return results


def write_json(results: Results, path: Path) -> None:
    """Writes the results whole or not at all, one point a line, so that a change of one point is a one-line difference."""
    parts = [f' "format": {json.dumps(FORMAT)}']
    for name in ("about", "codecs", "metrics"):
        parts.append(f' "{name}": {json.dumps(getattr(results, name), indent=2)}')
    for name in _RECORD_LISTS:
        lines = ",\n".join("  " + json.dumps(record) for record in getattr(results, name))
        parts.append(f' "{name}": [\n{lines}\n ]' if lines else f' "{name}": []')
    with write_atomically(path, force=True) as file:
        file.write(("{\n" + ",\n".join(parts) + "\n}\n").encode())


def write_csv(points: Iterable[dict[str, Any]], metric_keys: Iterable[str], path: Path) -> None:
    """Writes a table with one line a point; a value that is missing is an empty cell."""
    columns = ["codec", "quality", "picture", "bytes", "bpp", *metric_keys, "encode_seconds", "decode_seconds"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(points)
    with write_atomically(path, force=True) as file:
        file.write(text.getvalue().encode())
