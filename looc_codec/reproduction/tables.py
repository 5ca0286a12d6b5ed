"""The reproduced tables as Markdown, CSV and JSON: ours, the printed figure beside it, and the difference."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from looc_codec.files import write_atomically
from looc_codec.reproduction.rows import PAPER_NAMES, METRICS, paper_rows, parse_row, printed_row

DECIMALS = {"l1": 4, "LPIPS": 4, "rFID": 2, "SSIM": 4, "PSNR": 2, "PSNR_pooled": 2, "usage": 3}
MINUS = "\N{MINUS SIGN}"
FORMAT = "looc-reproduction-table 1"


def records(table: str, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record for each row, protocol and metric: ours, the paper's, the difference (ours - paper's), the reason of a gap.

    Rates come as the protocol "rate". The paper's figures stand beside the "paper" protocol only: that is how they were
    measured.
    """
    found = []
    for result in results:
        printed = printed_row(table, result["dataset"], parse_row(result["row"]))
        figures = {} if printed is None else printed.figures
        common = {"table": table, "dataset": result["dataset"], "row": result["row"]}
        for metric in METRICS:
            ours = result["usage"] if metric == "usage" else result["quality"]["paper"].get(metric)
            paper = figures.get(metric)
            difference = None if ours is None or paper is None else ours - paper
            found.append(common | {"protocol": "paper", "metric": metric, "ours": ours, "paper": paper, "difference": difference, "reason": result["missing"].get(metric, "")})
        for metric, value in result["quality"]["clean"].items():
            found.append(common | {"protocol": "clean", "metric": metric, "ours": value, "paper": None, "difference": None, "reason": ""})
        for kind, rate in result["rates"].items():
            for unit in ("bpp", "table_bytes"):
                if unit in rate:
                    found.append(common | {"protocol": "rate", "metric": f"{kind}_{unit}", "ours": rate[unit], "paper": None, "difference": None, "reason": ""})
    return found


def csv_text(found: Sequence[dict[str, Any]]) -> str:
    """The records as CSV, an empty cell for what is missing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["table", "dataset", "row", "protocol", "metric", "ours", "paper", "difference", "reason"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: (round(value, 6) if isinstance(value, float) else value) for key, value in record.items()} for record in found)
    return text.getvalue()


def number(value: float | None, metric: str) -> str:
    """A value with the metric's usual decimals; a dash where there is none.

    >>> number(37.578, "PSNR"), number(None, "LPIPS")
    ('37.58', '–')
    """
    return "–" if value is None else f"{value:.{DECIMALS[metric]}f}".replace("-", MINUS)


def beside(ours: float | None, paper: float | None, metric: str) -> str:
    """Ours, and in brackets the printed figure and the difference.

    >>> beside(22.5, 26.48, "PSNR")
    '22.50 (26.48, −3.98)'
    """
    if paper is None:
        return number(ours, metric)
    if ours is None:
        return f"– ({number(paper, metric)})"
    difference = ours - paper
    sign = "+" if difference >= 0 else ""
    return f"{number(ours, metric)} ({number(paper, metric)}, {sign}{number(difference, metric)})"


def markdown(table: str, results: Sequence[dict[str, Any]]) -> str:
    """The table for people: for each data set the rates, the paper's protocol beside the paper, and the clean one."""
    lines = [f"# Table {table}, reproduced", ""]
    for dataset in dict.fromkeys(result["dataset"] for result in results):
        own = [result for result in results if result["dataset"] == dataset]
        lines += [f"## {PAPER_NAMES.get(dataset, dataset)}", "", _how(own), ""]
        lines += _rate_table(own) + [""] + _paper_table(table, own) + [""] + _clean_table(own) + [""]
        lines += _notes(table, dataset, own)
    return "\n".join(lines).rstrip() + "\n"


def _how(own: Sequence[dict[str, Any]]) -> str:
    """One sentence on how the rows were trained, with what differs between them."""
    first = own[0]
    settings = first["settings"]
    budget = next(f"{settings[unit]:g} {unit}" for unit in ("epochs", "minutes", "steps") if settings.get(unit) is not None)
    steps = sorted({result["steps"] for result in own})
    counted = f"{steps[0]} steps" if len(steps) == 1 else f"{steps[0]} to {steps[-1]} steps"
    # Rows of before there was a choice have the papers' recipe.
    rate, decay, start = settings.get("rate"), settings.get("decay", 0.0), settings.get("start", "released")
    recipe = "the papers' rate and start" if rate is None else f"rate {rate:g}{f' falling over the last {decay:.0%}' if decay else ''}, {start} start"
    half = ", bfloat16 convolutions" if first["settings"]["bf16"] else ""
    return (
        f"Trained on {first['train']}; tested on {first['test']}. {budget} ({counted}) of batches of {first['settings']['batch']},"
        f" {recipe}, seed {first['settings']['seed']}{half}; last weights, none chosen on the test set."
    )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(cells: Sequence[str]) -> list[str]:
    return [_row(cells), _row(["---", *["---:"] * (len(cells) - 1)])]


def _rate_table(own: Sequence[dict[str, Any]]) -> list[str]:
    lines = _head(["row", "codes per picture", "bits each", "bpp uniform", "bpp static tables", "bpp conditional", "tables static / conditional, kB", "codebook values", "usage", "perplexity", "steps × batch", "seconds"])
    for result in own:
        pictures, planes, height, width = result["code_shape"]
        rates = result["rates"]
        bits = rates["uniform"]["bpp"] * result["pixels"] / (pictures * planes * height * width)
        lines.append(
            _row(
                [
                    result["label"], f"{planes * height * width}", f"{bits:.4g}", f"{rates['uniform']['bpp']:.3f}", f"{rates['static']['bpp']:.3f}",
                    f"{rates['conditional']['bpp']:.3f}", f"{rates['static']['table_bytes'] / 1000:.1f} / {rates['conditional']['table_bytes'] / 1000:.0f}",
                    f"{result['codebook_parameters']}", number(result["usage"], "usage"), f"{result['perplexity']:.1f}",
                    f"{result['steps']} × {result['settings']['batch']}", f"{result['train_seconds']:.0f}",
                ]
            )
        )  # fmt: skip
    return lines


def _paper_table(table: str, own: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["Protocol `paper` (JPEG 75 on both sides); in brackets the printed figure and the difference:", ""]
    lines += _head(["row", "l1", "LPIPS", "rFID", "SSIM", "PSNR"])
    for result in own:
        printed = printed_row(table, result["dataset"], parse_row(result["row"]))
        figures = {} if printed is None else printed.figures
        cells = [beside(result["quality"]["paper"].get(metric), figures.get(metric), metric) for metric in METRICS[:5]]
        lines.append(_row([result["label"], *cells]))
    return lines


def _clean_table(own: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["Protocol `clean` (rounded, against the true original):", ""]
    lines += _head(["row", "l1", "LPIPS", "rFID", "SSIM (Gauss 1.5)", "PSNR", "PSNR pooled"])
    for result in own:
        values = result["quality"]["clean"]
        lines.append(_row([result["label"], *(number(values.get(metric), metric) for metric in ("l1", "LPIPS", "rFID", "SSIM", "PSNR", "PSNR_pooled"))]))
    return lines


def _notes(table: str, dataset: str, own: Sequence[dict[str, Any]]) -> list[str]:
    notes = [f"{metric}: {reason}." for metric, reason in own[0]["missing"].items()]
    for result in own:
        printed = printed_row(table, dataset, parse_row(result["row"]))
        elsewhere = "" if printed is None or printed.table == table else f"its printed figures are those of table {printed.table}"
        notes += [f"{result['label']}: {words}." for words in (result["note"], "" if printed is None else printed.note, elsewhere) if words]
    trained = {(row.method, row.size, row.dim) for result in own for row in [printed_row(table, dataset, parse_row(result["row"]))] if row is not None}
    left_out = [row for row in paper_rows(table) if row.dataset == PAPER_NAMES.get(dataset) and (row.method, row.size, row.dim) not in trained]
    notes += [f"Printed, not trained here: {row.method} {row.size} × {row.dim} ({', '.join(f'{name} {value:g}' for name, value in row.figures.items() if value is not None)})." for row in left_out]
    return [f"- {note}" for note in dict.fromkeys(notes)] + [""] if notes else []


def write_table(table: str, results: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Writes table-N.json, .csv and .md into `folder`; returns their paths."""
    found = records(table, results)
    texts = {
        "json": json.dumps({"format": FORMAT, "table": table, "rows": list(results), "records": found}, indent=1) + "\n",
        "csv": csv_text(found),
        "md": markdown(table, results),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, text in texts.items():
        path = folder / f"table-{table}.{suffix}"
        with write_atomically(path, force=True) as file:
            file.write(text.encode())
        written.append(path)
    return written
