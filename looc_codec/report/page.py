"""The report as an HTML page that opens from disk without a network: plots, tables, pictures at equal bytes.

The page forbids itself every connection (Content-Security-Policy), so that nothing in it can depend on one. Its viewer is
that of `looc view` (web/viewer.js), inline, since browsers load no modules from disk. Pictures are lossless WebP, so
what is seen is exactly what each codec decoded to. They lie beside the page in a folder, or inside it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from looc_codec import webpage
from looc_codec.report import plots
from looc_codec.report.equal_bytes import CROP, Contest, Round, window
from looc_codec.report.results import Results
from looc_codec.report.summary import (
    Summary,
    failure_sentence,
    lead,
    picture_gains,
    strongest_peer,
    tables,
    verdict_table,
    verdicts,
)

PICTURE_FOLDER = "report-files"
"""Where the page's pictures lie, beside it."""
MAX_SHOWN = (1280, 960)
"""Width and height of what is shown of a picture; of a larger one the window around its crops."""
_WIDE_INCHES, _NARROW_INCHES = (9.0, 4.8), (4.2, 4.4)
"""Sizes of the plots for screens and phones; letters have the same size in both."""


@dataclass(frozen=True)
class Page:
    """The HTML document, and the files of `PICTURE_FOLDER` by name; without any where the document holds them."""

    html: str
    pictures: dict[str, bytes]


def render_page(
    summary: Summary, results: Results, contests: Sequence[Contest], title: str, *, single_file: bool = False, jobs: int = 1
) -> Page:
    """The whole report for a browser; `jobs` threads compress its pictures."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    source = resources.files("looc_codec.report")
    template = environment.from_string(source.joinpath("page.html.jinja").read_text(encoding="utf-8"))
    pixels: dict[str, np.ndarray] = {}
    fields = [_contest_fields(number, contest, pixels) for number, contest in enumerate(contests, 1)]
    with ThreadPoolExecutor(jobs) as pool:
        pictures = dict(zip(pixels, pool.map(lossless_webp, pixels.values()), strict=True))
    if single_file:
        addresses = {name: "data:image/webp;base64," + base64.b64encode(data).decode() for name, data in pictures.items()}
    else:
        addresses = {name: f"{PICTURE_FOLDER}/{name}" for name in pictures}
    metrics = plots.plotted_metrics(summary)
    data = {
        "metrics": [
            {"key": metric.key, "label": metric.label, "unit": metric.unit, "decimals": metric.decimals} for metric in metrics
        ],
        "contests": fields, "pictures": addresses, "crop": CROP, "rival": strongest_peer(summary),
    }  # fmt: skip
    # `export` has no meaning in a script of the page itself, but is allowed there.
    script = webpage.page_files()["viewer.js"].read().decode() + "\n" + source.joinpath("page.js").read_text(encoding="utf-8")
    html = template.render(
        title=title,
        verdicts=verdicts(summary),
        overview=verdict_table(summary),
        summary=summary,
        results=results,
        plots=[
            {
                "label": metric.label,
                "wide": plots.page_plot(summary, metric, size_inches=_WIDE_INCHES),
                "narrow": plots.page_plot(summary, metric, size_inches=_NARROW_INCHES),
                "curves": list(zip(plots.curve_labels(summary, metric), plots.curve_colours(summary, metric), strict=True)),
            }
            for metric in metrics
        ],
        tables=tables(summary),
        picture_table=_picture_table(summary),
        contests=fields,
        rates=sorted({one.bpp for contest in contests for one in contest.rounds}),
        data=_script_safe(json.dumps(data)),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        failures=[failure_sentence(failure) for failure in results.failures],
        missing=[f"{record['label']}: {record['missing']}" for record in results.codecs.values() if "missing" in record],
        published=sorted({(curve.label, curve.source) for curves in summary.published.values() for curve in curves}),
    )
    return Page(html, {} if single_file else pictures)


def _picture_table(summary: Summary) -> dict[str, Any] | None:
    """BD-rate of the first looc against every other codec, picture by picture; None without looc or without others."""
    first = lead(summary)
    others = [name for name in summary.names if name != first]
    if first is None or not others:
        return None
    gains = {other: picture_gains(summary, first, other) for other in others}
    rows = []
    for picture in summary.picture_names:
        cells = [gains[other][picture] for other in others]
        rows.append([picture, *(cell.word if cell.value is None else f"{cell.value:+.1f}%" for cell in cells)])
    head = ["picture", *(f"against {summary.labels[other]}" for other in others)]
    return {"title": f"BD-rate of {summary.labels[first]} in PSNR, picture by picture", "head": head, "rows": rows}


def _contest_fields(number: int, contest: Contest, pixels: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the page shows of a contest; its pictures go into `pixels` by file name, once each."""
    rows, columns = window(contest, *MAX_SHOWN)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    original = f"{number}-original.webp"
    pixels[original] = contest.original[rows, columns]
    area = contest.original.shape[0] * contest.original.shape[1]

    def version_fields(one: Round) -> list[dict[str, Any]]:
        found = []
        for version in one.versions:
            name = f"{number}-{re.sub('[^a-z0-9.-]+', '-', version.codec.lower())}-q{version.quality}.webp"
            pixels[name] = version.rgb[rows, columns]
            found.append(
                {
                    "codec": version.codec, "label": version.label, "quality": version.quality, "picture": name,
                    "bytes": version.data_bytes, "bpp": round(8 * version.data_bytes / area, 4),
                    "values": {key: value and round(value, 4) for key, value in version.values.items()},
                }
            )  # fmt: skip
        return found

    def crop_fields(one: Round) -> list[dict[str, Any]]:
        return [
            {"words": words, "left": left - columns.start, "top": top - rows.start}
            for words, left, top in one.crops
            if columns.start <= left <= columns.stop - CROP and rows.start <= top <= rows.stop - CROP
        ]

    cut = (height, width) != contest.original.shape[:2]
    return {
        "picture": contest.picture, "why": contest.why, "width": width, "height": height, "original": original,
        "rounds": [
            {"bpp": one.bpp, "first": one is contest.first_round, "versions": version_fields(one), "crops": crop_fields(one)}
            for one in contest.rounds
        ],
        "cut": f"shown: {width} x {height} pixels of {contest.original.shape[1]} x {contest.original.shape[0]}" if cut else "",
    }  # fmt: skip


def lossless_webp(rgb: np.ndarray) -> bytes:
    """The file of `(H, W, 3)` uint8 pixels. Little effort takes a third of the time, for 3% more bytes."""
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(encoded, "WEBP", lossless=True, quality=20, method=1)
    return encoded.getvalue()


def _script_safe(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return text.replace("<", "\\u003c")
