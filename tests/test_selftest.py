"""`looc selftest`: passes on a sound installation, and tells what is wrong with any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import encoder_of
from PIL import Image
from typer.testing import CliRunner

from looc_codec import api, registry, selftest
from looc_codec.cli import app
from looc_codec.exactness import Setting, Variant, launch

REGENERATE = "the shipped weights changed: run `python tools/golden.py FILE` for them and commit the golden files beside them"


@pytest.mark.parametrize("name", ["photo", "photo-psnr"])
def test_golden_file_belongs_to_the_shipped_weights(name):
    entry = registry.find_model(name)
    stored = json.loads(selftest.golden_path(entry.path, "json").read_text())
    assert stored["fingerprint"] == entry.fingerprint.hex(), REGENERATE
    check = selftest.check_golden(entry)
    assert check.passed, f"{check.detail}; {REGENERATE} if only the synthesis changed, else decoding is broken"


@pytest.fixture
def one_variant(monkeypatch):
    """The matrix with two settings in one process; the whole one takes half a minute."""
    settings = (selftest.REFERENCE, Setting("2 threads, graphs as they are, small tiles", threads=2, optimise=False, side=2))
    monkeypatch.setattr(selftest, "variants", lambda: [Variant("as installed", settings)])


@pytest.fixture
def installed(tiny_model_file, tmp_path, monkeypatch) -> Path:
    """The folder of the only installed model, a tiny one with its golden file."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(tiny_model_file, folder)
    monkeypatch.setattr(registry, "model_folders", lambda: [folder])
    selftest.write_golden(folder / tiny_model_file.name)
    return folder


def run(*words: str) -> tuple[int, list[dict]]:
    result = CliRunner().invoke(app, ["selftest", "--json", "--model", "tiny", *words])
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]


def test_a_sound_installation_passes(installed, one_variant):
    code, checks = run()
    assert code == 0 and all(check["passed"] for check in checks)
    assert [check["kind"] for check in checks] == ["model", "golden", "exactness", "exactness", "exactness"]
    assert "6 of 6 files with equal codes" in checks[3]["detail"] and "6 of 6 decode here" in checks[4]["detail"]


def test_people_get_a_line_for_each_check(installed, monkeypatch):
    monkeypatch.setattr(selftest, "check_exactness", lambda model: iter([selftest.Check("exactness", "here", False, "it differs")]))
    result = CliRunner().invoke(app, ["selftest", "--model", "tiny"])
    assert result.exit_code == 1 and result.stdout.splitlines()[-1] == "2 checks passed, 1 failed"
    assert result.stdout.startswith("ok  model") and "looc: exactness here: it differs" in result.stderr


def test_a_damaged_model_fails(installed):
    path = next(installed.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    name = b'"core.codebook.frequencies":'
    header_bytes = int.from_bytes(data[:8], "little")
    start = json.loads(data[8 : 8 + header_bytes])["core.codebook.codevectors"]["data_offsets"][0]
    data[8 + header_bytes + start + 9] ^= 1
    assert name in data
    path.write_bytes(data)
    code, checks = run()
    assert code == 1 and not checks[0]["passed"] and "fingerprint" in checks[0]["detail"]


@pytest.mark.parametrize("damage", ["codes", "pixels", "model", "missing", "file"])
def test_a_wrong_golden_file_fails(installed, damage):
    entry = registry.find_model("tiny")
    stored = json.loads(selftest.golden_path(entry.path, "json").read_text())
    picture = selftest.golden_path(entry.path, "png")
    if damage == "codes":
        stored["codes_sha256"] = "0" * 64
    elif damage == "model":
        stored["fingerprint"] = "0" * 16
    elif damage == "pixels":
        rgb = np.array(Image.open(picture))
        rgb[5, 7] ^= 8
        Image.fromarray(rgb).save(picture)
    elif damage == "missing":
        picture.unlink()
    else:
        file = selftest.golden_path(entry.path, "looc")
        file.write_bytes(file.read_bytes()[:-1])
    selftest.golden_path(entry.path, "json").write_text(json.dumps(stored))
    check = selftest.check_golden(entry)
    assert not check.passed and check.detail


def test_a_process_that_fails_is_a_failed_check(installed, monkeypatch):
    monkeypatch.setattr(selftest, "variants", lambda: [Variant("elsewhere", (Setting("a device", device="cuda"),))])
    checks = list(selftest.check_exactness("tiny"))
    assert [check.passed for check in checks] == [False] and "cuda" in checks[0].detail


def test_other_codes_are_noticed(installed, one_variant, monkeypatch):
    """A variant that decodes other codes, as inexact arithmetic would."""

    def lying(*arguments, **options):
        result = launch(*arguments, **options)
        codes = result["settings"][1]["codes"]
        codes[next(iter(codes))] = "0" * 64
        return result

    monkeypatch.setattr(selftest, "launch", lying)
    checks = list(selftest.check_exactness("tiny"))
    assert [check.passed for check in checks] == [True, False, True] and "5 of 6" in checks[1].detail


def test_no_model_at_all_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "model_folders", lambda: [])
    code, checks = run()
    assert code == 1 and [check["kind"] for check in checks] == ["model", "exactness"]


def test_scenes_are_made_from_their_numbers_alone():
    assert np.array_equal(selftest.scene(40, 20, 3), selftest.scene(40, 20, 3))
    assert not np.array_equal(selftest.scene(40, 20, 3), selftest.scene(40, 20, 4))


def test_the_golden_picture_is_worth_decoding():
    """Its codes must not be all zero, or they would prove little."""
    entry = registry.find_model("photo")
    model = api.load_model(entry.path)
    latent = encoder_of(model).transforms.analyse(selftest.scene(*selftest.GOLDEN_SIZE, seed=1), selftest.GOLDEN_LEVEL)
    assert len(np.unique(encoder_of(model).encode_latent(latent, selftest.GOLDEN_LEVEL).latent)) > 200
