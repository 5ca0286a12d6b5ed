"""Finding model files: headers are read within limits, places are searched in order, errors are one sentence."""

from __future__ import annotations

import errno
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from looc_codec import registry
from looc_codec.errors import ModelError

DESCRIPTION = {"name": "toy", "version": 1, "fingerprint": "00112233445566ff", "config": {}, "description": "for tests"}


def write_model(path: Path, **changes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": np.arange(5, dtype=np.int32)}, path, metadata={"looc": json.dumps(DESCRIPTION | changes)})
    return path


def write_header(path: Path, header: object) -> Path:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data)
    return path


@pytest.fixture(autouse=True)
def no_other_models(monkeypatch, tmp_path):
    """Only the folders of a test are searched."""
    monkeypatch.setattr(registry, "_PACKAGE", tmp_path / "package" / "looc_codec")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LOOC_MODELS", raising=False)


def test_reads_the_header_that_safetensors_writes(tmp_path):
    path = write_model(tmp_path / "toy.safetensors")
    entry = registry.read_entry(path)
    assert entry == registry.ModelEntry(
        name="toy", version=1, fingerprint=bytes.fromhex("00112233445566ff"), path=path,
        size_bytes=path.stat().st_size, description="for tests",
    )


def test_searches_the_package_the_environment_and_the_user_folder(tmp_path, monkeypatch):
    write_model(tmp_path / "package" / "weights" / "a.safetensors", name="a")
    write_model(tmp_path / "first" / "b.safetensors", name="b")
    write_model(tmp_path / "second" / "c.safetensors", name="c")
    write_model(tmp_path / "home" / "looc" / "models" / "d.safetensors", name="d")
    monkeypatch.setenv("LOOC_MODELS", f"{tmp_path / 'first'}:{tmp_path / 'missing'}:{tmp_path / 'second'}")
    assert [entry.name for entry in registry.installed_models()] == ["a", "b", "c", "d"]


def test_weights_inside_an_installed_package_are_preferred(tmp_path):
    write_model(tmp_path / "package" / "weights" / "checkout.safetensors", name="checkout")
    write_model(tmp_path / "package" / "looc_codec" / "weights" / "wheel.safetensors", name="wheel")
    assert [entry.name for entry in registry.installed_models()] == ["wheel"]


def test_other_files_in_a_folder_are_passed_over(tmp_path):
    folder = registry.user_model_folder()
    write_model(folder / "good.safetensors")
    (folder / "card.md").write_text("a card")
    (folder / "broken.safetensors").write_bytes(b"\xff" * 100)
    assert [entry.path.name for entry in registry.installed_models()] == ["good.safetensors"]


def test_a_user_without_a_home_has_the_other_models(tmp_path, monkeypatch):
    """As in a container started with a number for a user: no HOME, and no entry in passwd."""

    def no_entry(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    write_model(tmp_path / "package" / "weights" / "a.safetensors", name="a")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    assert registry.user_model_folder() is None
    assert [entry.name for entry in registry.installed_models()] == ["a"]
    with pytest.raises(ModelError, match="LOOC_MODELS"):
        registry.find_by_fingerprint(b"\x01" * 8)


@pytest.mark.parametrize("refused", ["stat", "listdir"])
def test_a_folder_that_cannot_be_entered_or_listed_hides_no_other(tmp_path, monkeypatch, refused):
    """Simulated, since the permissions of a folder do not bind root."""
    write_model(tmp_path / "package" / "weights" / "a.safetensors", name="a")
    write_model(tmp_path / "closed" / "b.safetensors", name="b")
    monkeypatch.setenv("LOOC_MODELS", str(tmp_path / "closed"))
    usual = getattr(os, refused)

    def refuse(path, *arguments, **options):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(str(tmp_path / "closed")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return usual(path, *arguments, **options)

    assert [entry.name for entry in registry.installed_models()] == ["a", "b"]
    monkeypatch.setattr(os, refused, refuse)
    assert [entry.name for entry in registry.installed_models()] == ["a"]


def test_a_link_to_itself_hides_no_other(tmp_path):
    folder = registry.user_model_folder()
    write_model(folder / "toy.safetensors")
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    assert [entry.name for entry in registry.installed_models()] == ["toy"]


def test_finds_by_name_the_highest_version(tmp_path):
    folder = registry.user_model_folder()
    write_model(folder / "1.safetensors", version=2)
    write_model(folder / "2.safetensors", version=10, fingerprint="ff" * 8)
    write_model(folder / "3.safetensors", version=3)
    assert registry.find_model("toy").version == 10


def test_finds_by_path(tmp_path):
    path = write_model(tmp_path / "elsewhere.safetensors")
    assert registry.find_model(path).path == path
    assert registry.find_model(str(path)).path == path


def test_finds_by_fingerprint(tmp_path):
    folder = registry.user_model_folder()
    write_model(folder / "1.safetensors")
    write_model(folder / "2.safetensors", name="other", fingerprint="ab" * 8)
    assert registry.find_by_fingerprint(bytes.fromhex("ab" * 8)).name == "other"
    with pytest.raises(ModelError, match="0101010101010101.*not installed"):
        registry.find_by_fingerprint(b"\x01" * 8)


def test_unknown_name_says_what_is_installed(tmp_path):
    with pytest.raises(ModelError, match="installed: none"):
        registry.find_model("photo")
    write_model(registry.user_model_folder() / "toy.safetensors")
    with pytest.raises(ModelError, match="installed: toy"):
        registry.find_model("photo")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"not json",
        b"[" * 100_000,
        b"\xff\xfe",
        {},
        [],
        {"__metadata__": {}},
        {"__metadata__": {"looc": "not json"}},
        {"__metadata__": {"looc": 3}},
        {"__metadata__": {"looc": "[]"}},
        {"__metadata__": {"looc": "{}"}},
        *(
            {"__metadata__": {"looc": json.dumps(DESCRIPTION | change)}}
            for change in (
                {"name": ""},
                {"name": "../x"},
                {"name": None},
                {"version": "1"},
                {"version": -1},
                {"version": True},
                {"fingerprint": "00"},
                {"fingerprint": "XX112233445566ff"},
                {"fingerprint": 7},
                {"description": None},
            )
        ),
    ],
)
def test_malformed_headers_are_one_sentence(tmp_path, header):
    path = write_header(tmp_path / "x.safetensors", header)
    with pytest.raises(ModelError) as caught:
        registry.find_model(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\x01", struct.pack("<Q", 2**63), struct.pack("<Q", 50) + b"{}"])
def test_claimed_lengths_are_checked_before_reading(tmp_path, data):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError):
        registry.find_model(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(ModelError, match="cannot read"):
        registry.find_model(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="not a file"):
        registry.find_model(tmp_path)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes_raise_only_model_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError):
        registry.read_entry(path)
