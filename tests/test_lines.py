"""What people see while a command runs: lines that fit the terminal, and a bar with the time left."""

from __future__ import annotations

import doctest
import io

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress

from looc_codec.cli import bar, naming, options, printing, records
from looc_codec.cli.planning import Job
from looc_codec.cli.records import Line, shortened

FIGURES = "1200 x 900  1.89 MB -> 10.2 kB  0.076 bpp  q 30  12.59 s"
LONG = "Beach at sunset, the third evening of our holiday 2024-05-12.png"


@pytest.mark.parametrize("columns", [80, 100, 120, 200])
@pytest.mark.parametrize("target", [None, "a.looc", "packed/deep/er/" + LONG])
@pytest.mark.parametrize("source", ["a.png", LONG, "夏の海の写真とても長い名前のファイル.png", "a\nb\x1b[31m" * 9])
def test_a_line_fits_the_terminal(source, target, columns):
    text = Line(source, target, FIGURES).text(columns)
    assert cell_len(text) <= columns and text.endswith("  " + FIGURES) and text.isprintable()


def test_names_are_shortened_only_where_they_have_to_be():
    assert Line("a.png", "a.looc", FIGURES).text(80) == f"a.png -> a.looc  {FIGURES}"
    assert Line(LONG, LONG, FIGURES).text() == f"{LONG} -> {LONG}  {FIGURES}"
    assert Line(LONG, "a.looc", FIGURES).text(100) == f"Beach at sunset…y 2024-05-12.png -> a.looc  {FIGURES}"
    # Two stumps would say less than one name does.
    assert Line(LONG, "packed/" + LONG, FIGURES).text(80) == f"Beach at s…4-05-12.png  {FIGURES}"


@pytest.mark.parametrize("name", [LONG, "夏の海の写真とても長い名前のファイル.png", "é" * 50])
@pytest.mark.parametrize("columns", [3, 10, 11, 30])
def test_a_shortened_name_keeps_both_its_ends(name, columns):
    text = shortened(name, columns)
    assert cell_len(text) <= columns and "…" in text
    head, _, tail = text.partition("…")
    assert name.startswith(head) and name.endswith(tail) and cell_len(head) + cell_len(tail) >= columns - 3


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    jobs = []
    for number, size in enumerate((1000, 3000, 0)):
        (tmp_path / str(number)).write_bytes(bytes(size))
        jobs.append(Job(str(tmp_path / str(number)), "out", up_to_date=size == 0))
    return jobs


def test_the_bar_weighs_files_and_follows_all_that_are_in_work(jobs):
    with Progress(console=Console(file=io.StringIO())) as progress:
        shown = bar.Bar(progress, jobs, "compressing")
        task = progress.tasks[0]
        shown.finish(jobs[2])
        assert (task.completed, task.total, task.fields["first_report"]) == (0, 4000, None)
        shown.follow(jobs[0], 0.5)
        shown.follow(jobs[1], 0.25)
        assert task.completed == 1250 and task.fields["done"] == 1
        # Counted from the first report on, when the model is loaded and 500 of 4000 are done.
        assert task.fields["first_report"][1] == 500
        shown.finish(jobs[1])
        shown.finish(jobs[0])
        assert task.completed == task.total and task.fields["done"] == 3


@pytest.mark.parametrize("module", [naming, options, printing, records], ids=lambda module: module.__name__)
def test_the_examples_in_the_source_are_true(module):
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


def test_time_left_in_words():
    assert bar.time_left(25, 100, 20) == "1:00 left"
    assert bar.time_left(25, 100, 40) == "2:00 left"
    assert bar.time_left(1, 1000, 60) == "16:39:00 left"
    assert bar.time_left(0, 100, 20) == ""
