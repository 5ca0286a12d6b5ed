"""The report as one HTML file that opens from disk without a network: plots, tables, pictures at equal bytes.

The page forbids itself every connection (Content-Security-Policy), so that nothing in it can depend on one. Pictures
are embedded as lossless WebP: what is seen is exactly what each codec decoded to.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from looc_codec.report import plots
from looc_codec.report.codecs import effort_of
from looc_codec.report.equal_bytes import CROP, Contest, window
from looc_codec.report.results import Results
from looc_codec.report.summary import Summary, bd_table, failure_sentence, picture_gains, tables

MAX_SHOWN = (1280, 960)
"""Width and height of what is embedded of a picture; of a larger one the window around its crops is shown."""


def render_page(summary: Summary, results: Results, contests: Sequence[Contest], title: str) -> str:
    """The whole HTML document as text."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(resources.files("looc_codec.report").joinpath("page.html.jinja").read_text(encoding="utf-8"))
    interactive = plots.interactive_plots(summary)
    pixels: dict[str, str] = {}
    return template.render(
        title=title,
        verdicts=verdicts(summary),
        summary=summary,
        results=results,
        plots=[
            {"name": metric.name, "label": metric.label, "figure": _script_safe(figure)} for metric, figure in interactive or []
        ],
        plotly=_plotly_script() if interactive else "",
        still_plots=[] if interactive else [
            (metric.label, "data:image/svg+xml;base64," + base64.b64encode(plots.render(summary, metric, title, "svg")).decode())
            for metric in plots.plotted_metrics(summary)
        ],
        tables=tables(summary),
        picture_table=_picture_table(summary),
        contests=[_contest_fields(number, contest, pixels) for number, contest in enumerate(contests)],
        pixels=_script_safe(json.dumps(pixels)),
        failures=[failure_sentence(failure) for failure in results.failures],
        missing=[f"{record['label']}: {record['missing']}" for record in results.codecs.values() if "missing" in record],
        published=sorted({(curve.label, curve.source) for curves in summary.published.values() for curve in curves}),
    )


def verdicts(summary: Summary) -> list[str]:
    """What the PSNR curves say of looc, one sentence for each other codec; its own efforts are left to the tables."""
    if "looc" not in summary.curves.get("psnr_db", {}):
        return []
    sentences = []
    for anchor, (rate, _) in bd_table(summary, "psnr_db")["looc"].items():
        if anchor not in summary.labels or effort_of(anchor) > 0:
            continue
        label = summary.labels[anchor]
        if rate.value is None:
            sentences.append(f"looc and {label}: {rate.reason}.")
        else:
            words = "fewer" if rate.value < 0 else "more"
            sentences.append(f"{abs(rate.value):.0f}% {words} bits than {label} at equal PSNR")
    return sentences


def _picture_table(summary: Summary) -> dict[str, Any] | None:
    """BD-rate of looc against every other codec, picture by picture; None without looc or without others."""
    others = [name for name in summary.names if name != "looc"]
    if "looc" not in summary.names or not others:
        return None
    gains = {other: picture_gains(summary, "looc", other) for other in others}
    rows = []
    for picture in summary.picture_names:
        cells = [gains[other][picture] for other in others]
        rows.append([picture, *(cell.word if cell.value is None else f"{cell.value:+.1f}%" for cell in cells)])
    return {"head": ["picture", *(f"against {summary.labels[other]}" for other in others)], "rows": rows}


def _contest_fields(number: int, contest: Contest, pixels: dict[str, str]) -> dict[str, Any]:
    """What the template shows of a contest; its pictures go into `pixels` by key, once each."""
    rows, columns = window(contest, *MAX_SHOWN)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    area = contest.original.shape[0] * contest.original.shape[1]
    key = f"p{number}-original"
    pixels[key] = data_address(contest.original[rows, columns])
    shown = [{"key": key, "label": "original", "words": "original", "bytes": "", "psnr": ""}]
    for version in contest.versions:
        key = f"p{number}-{version.codec}"
        pixels[key] = data_address(version.rgb[rows, columns])
        shown.append(
            {
                "key": key,
                "label": version.label,
                "bytes": f"{version.data_bytes:,} bytes",
                "psnr": f"{version.psnr_db:.2f} dB",
                "words": f"{version.label} q{version.quality} · {version.data_bytes:,} bytes · {8 * version.data_bytes / area:.3f} bpp · {version.psnr_db:.2f} dB",
            }
        )
    crops = [
        {
            "words": words,
            "width": f"{100 * width / CROP:.4f}%",
            "left": f"{-100 * (left - columns.start) / CROP:.4f}%",
            "top": f"{-100 * (top - rows.start) / CROP:.4f}%",
        }
        for words, left, top in contest.crops
        if columns.start <= left <= columns.stop - CROP and rows.start <= top <= rows.stop - CROP
    ]
    cut = (height, width) != contest.original.shape[:2]
    return {
        "number": number, "picture": contest.picture, "why": contest.why, "width": width, "height": height, "versions": shown, "crops": crops,
        "cut": f"shown: {width} x {height} pixels of {contest.original.shape[1]} x {contest.original.shape[0]}" if cut else "",
    }  # fmt: skip


def data_address(rgb: np.ndarray) -> str:
    """A `data:` address of a lossless WebP of `(H, W, 3)` uint8 pixels."""
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(encoded, "WEBP", lossless=True, quality=60, method=2)
    return "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()


def _plotly_script() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _script_safe(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return text.replace("<", "\\u003c")
