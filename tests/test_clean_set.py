"""The clean training set: the committed list says what the rule says."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
SPEC = importlib.util.spec_from_file_location("clean_set", ROOT / "tools" / "clean_set.py")
clean_set = importlib.util.module_from_spec(SPEC)
sys.modules["clean_set"] = clean_set
SPEC.loader.exec_module(clean_set)


def sources_csv(folder: Path, *rows: tuple[str, str, str, str]) -> Path:
    with (folder / "SOURCES.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "source", "original path", "license"), *rows])
    return folder


def test_every_picture_of_the_list_has_terms_that_are_taken():
    rows = clean_set.read_list()
    assert len(rows) > 800 and len({row.picture for row in rows}) == len(rows)
    for row in rows:
        assert clean_set.class_of(row.terms) == row.kind and row.taken
        assert row.picture.split("/")[0] in clean_set.FOLDERS and row.source and row.original_path


def test_no_terms_that_are_taken_forbid_or_leave_open():
    for terms, kind in clean_set.TERMS.items():
        assert kind in clean_set.CLASSES
        doubtful = any(
            word in terms
            for word in (
                "non-commercial",
                "-NC",
                "research",
                "not stated",
                "no licence",
                "not found",
                "LICENSE",
            )
        )
        named = "ASSETS_LICENSE there" in terms or "LICENSE.md there" in terms
        assert not (kind in clean_set.TAKEN and doubtful and not named), terms
        gnu = any(word in terms for word in ("GPL", "GFDL"))
        assert (
            not (kind in clean_set.TAKEN and gnu) or "CC0" in terms or "public domain" in terms
        ), terms


def test_the_rule_takes_and_leaves(tmp_path):
    data = sources_csv(
        tmp_path,
        ("train/a.tar:1.avif", "one/free", "a.jpg", "CC0"),
        ("train/a.tar:2.avif", "two/research", "b.jpg", "research use"),
        ("train2/b.tar:3.avif", "three/free", "c.jpg", "CC BY-SA 4.0"),
        ("train2/b.tar:4.avif", "four/val", "d.jpg", "CC0"),
        ("val/x.png", "four/val", "d.jpg", "CC0"),
    )
    assert [row.picture for row in clean_set.clean_rows(data)] == [
        "train/a.tar:1.avif",
        "train2/b.tar:3.avif",
    ]


def test_unknown_terms_stop_the_program(tmp_path):
    data = sources_csv(tmp_path, ("train/a.tar:1.avif", "one/new", "a.jpg", "Some new licence"))
    with pytest.raises(ValueError, match="does not name"):
        clean_set.clean_rows(data)


@pytest.mark.skipif(not (DATA / "SOURCES.csv").exists(), reason="the data set is not here")
def test_the_list_is_what_the_rule_picks():
    assert clean_set.read_list() == clean_set.clean_rows(DATA)
