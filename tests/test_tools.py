"""A small slice of every command in tools/, so that none of them can rot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from test_codec import photo

TOOLS = Path(__file__).parent.parent / "tools"


def run(*words: object) -> str:
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(photo(120, 80)).save(folder / "a.png")
    return folder


def test_exactness_finds_no_mismatch(pictures, tmp_path):
    output = run(TOOLS / "exactness.py", "--images", pictures, "--levels", "20,60,90", "--quick", "--out", tmp_path / "rows.json")
    assert output.splitlines()[-1] == "4 pairs, 12 decodes, 0 mismatches"
    assert all(row["largest_pixel_difference"] <= 1 for row in json.loads((tmp_path / "rows.json").read_text()))


def test_bench_reports_speed_and_memory(pictures, tmp_path):
    run(TOOLS / "bench.py", "--image", pictures / "a.png", "--megapixels", "0.02", "--runs", "1", "--json", tmp_path / "bench.json")
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["sizes"]["0.02"]["decode"]["peak_mib"] > 50 and report["startup_seconds"]["looc --help"] > 0


def test_fuzz_finds_no_defect(tmp_path):
    output = run(TOOLS / "fuzz.py", "--scale", "0.005", "--out", tmp_path / "fuzz.json")
    report = json.loads((tmp_path / "fuzz.json").read_text())
    assert output.splitlines()[-1] == f"{report['cases']} mutated files, 0 defects" and report["cases"] > 800
    # Mutations must get behind the checksums: some files are decoded and accepted, and some refused by their codes.
    outcomes = report["targets"]["decompress"]["outcomes"]
    assert outcomes["accepted"] > 0 and outcomes["FormatError"] > 0


def test_fuzz_cases_are_the_same_every_time(tmp_path):
    first, second = (run(TOOLS / "fuzz.py", "--replay", "unpack:7") for _ in range(2))
    assert first == second


def test_progressive_measures_every_cut(pictures, tmp_path):
    pytest.importorskip("matplotlib")
    run(TOOLS / "progressive.py", "--images", pictures, "--levels", "30,60", "--out", tmp_path / "curves")
    report = json.loads((tmp_path / "curves" / "progressive.json").read_text())
    for rows in report["levels"].values():
        assert [row["groups"] for row in rows] == list(range(1, 1 + len(rows)))
        assert [row["bpp"] for row in rows] == sorted(row["bpp"] for row in rows) and rows[-1]["share_of_bytes"] == 1
    with Image.open(tmp_path / "curves" / "progressive.png") as plot:
        assert plot.width > 400


def test_effort_measures_every_effort(pictures, tmp_path):
    run(TOOLS / "effort.py", "--images", pictures, "--levels", "30,60", "--crop", "48", "--out", tmp_path / "effort.json")
    summary = json.loads((tmp_path / "effort.json").read_text())["summary"]
    costs = [row["cost_percent"] for row in summary]
    assert costs[0] == 0 and costs == sorted(costs, reverse=True)
    assert summary[0]["bd_rate_percent"] == {"psnr": 0}


def test_odd_files_makes_its_table(pictures, tmp_path):
    Image.new("RGBA", (9, 5), (200, 10, 10, 128)).save(pictures / "b.png")
    (pictures / "c.png").write_bytes(b"no picture")
    output = run(TOOLS / "odd_files.py", "--folder", pictures, "--out", tmp_path / "odd.md")
    assert output.strip() == "3 files: 2 kept, 0 converted, 1 refused"
    page = (tmp_path / "odd.md").read_text()
    assert "| b.png | kept | 9x5 alpha |" in page and "| c.png | refused | | c.png is not a picture" in page


def test_memory_measures_processes(pictures, tmp_path):
    run(TOOLS / "memory.py", "--photographs", pictures, "--megapixels", "0.02", "--strip", "900x20", "--out", tmp_path / "memory.json")
    rows = json.loads((tmp_path / "memory.json").read_text())["pictures"]
    assert [row["width"] for row in rows] == [173, 900] and all(50 < row[way]["peak_mib"] < 4096 for row in rows for way in ("encode", "decode"))


def test_readme_holds_the_figures_of_the_committed_report():
    assert run(TOOLS / "readme.py", "--check") == ""


def test_codebook_search_codes_with_other_books(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(photo(120, 80)).save(pictures / "a.png")
    run(TOOLS / "codebook_search.py", "--train", pictures, "--images", pictures, "--books", "1x256,2x1024", "--levels", "20,60", "--batches", "1", "--out", tmp_path / "books.json")
    books = json.loads((tmp_path / "books.json").read_text())["books"]
    assert [book["dim"] for book in books] == [1, 2] and all(len(book["points"]) == 2 for book in books)


def test_curve_check_counts_codes_and_compares_rates(tmp_path):
    Image.fromarray(photo(120, 80)).save(tmp_path / "a.png")
    run(TOOLS / "curve_check.py", "--images", tmp_path, "--step", "33", "--out", tmp_path / "check.json")
    check = json.loads((tmp_path / "check.json").read_text())
    assert check["levels"] == 4 and 10 < check["codevectors_used"] <= check["codevectors"]
    assert check["dominated_mean"] == 0 and abs(check["real_against_promised_percent"]) < 5


def test_training_speed_gives_a_line_for_each_variant(tmp_path, tiny_model_file):
    Image.fromarray(photo(120, 80)).save(tmp_path / "a.png")
    output = run(TOOLS / "training_speed.py", "--data", tmp_path, "--init", tiny_model_file, "--batch", "2", "--crop", "32", "--steps", "1", "--variants", "launched")
    row = json.loads(output)
    assert row["variant"] == "launched" and row["images_per_second"] > 0 and row["operations_a_picture"] > 1e6


def test_structure_is_the_packages(tmp_path):
    Image.fromarray(photo(256, 260)).save(tmp_path / "a.png")
    run(TOOLS / "structure_check.py", "--data", tmp_path, "--pictures", "1", "--out", tmp_path / "structure.json")
    report = json.loads((tmp_path / "structure.json").read_text())
    assert len(report["rows"]) == report["summary"]["pairs"] == 20
    assert report["summary"]["rank_correlation"] > 0.97
