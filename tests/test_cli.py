"""The command as a person and a script use it: outputs, refusals, many files, streams, JSON, exit codes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import looc_codec
from looc_codec import registry
from looc_codec.cli import app
from looc_codec.format.container import Chunk, Container, pack


def run(*arguments: object, stdin: bytes | None = None):
    """The command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def run_process(*arguments: object, stdin: bytes | None = None, timeout: float = 120, **environment: str):
    """The command as a real process; stdout and stderr are bytes."""
    return subprocess.run(
        [sys.executable, "-m", "looc_codec", *map(str, arguments)],
        input=stdin, capture_output=True, timeout=timeout, env=os.environ | environment, check=False,
    )


def photo(width: int = 70, height: int = 50, seed: int = 1) -> Image.Image:
    """A smooth picture with some texture."""
    generator = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channels = [128 + 80 * np.sin(x / 17 + k) + 40 * np.cos(y / 11 - k) + generator.normal(0, 4, (height, width)) for k in range(3)]
    return Image.fromarray(np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8))


def assert_failed_in_one_line(result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    photo().save(path)
    return path


@pytest.fixture
def tiny_installed(tiny_model_file, monkeypatch) -> str:
    """Installs the tiny model of the tests; the value is its path, which serves as -m."""
    monkeypatch.setenv("LOOC_MODELS", str(Path(tiny_model_file).parent))
    return str(tiny_model_file)


@pytest.fixture
def looc_file(picture, tiny_installed) -> Path:
    path = picture.with_suffix(".looc")
    result = run("compress", picture, "-o", path, "-m", tiny_installed, "--quiet")
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture
def foreign_file(tmp_path) -> Path:
    """A whole file of a model that nobody has; needs no model to be made."""
    path = tmp_path / "foreign.looc"
    chunks = (Chunk("exif", b"12345"),)
    path.write_bytes(pack(Container(64, 48, 33, b"\x07" * 8, (b"abc", b"", b"defgh"), 5, chunks)))
    return path


# --- without a model ---------------------------------------------------------------------------------------------------


def test_version_and_help():
    assert run("--version").output == f"looc {looc_codec.__version__}\n"
    result = run("--help")
    assert result.exit_code == 0
    for name in ("compress", "decompress", "info", "verify", "models", "train"):
        assert name in result.output


@pytest.mark.parametrize("command", ["compress", "decompress", "info", "verify", "models"])
def test_every_command_has_help(command):
    result = run(command, "--help")
    assert result.exit_code == 0 and "Usage" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("compress",),
        ("compress", "x.png", "-q", "0"),
        ("compress", "x.png", "-q", "101"),
        ("compress", "x.png", "-q", "high"),
        ("compress", "x.png", "--device", "toaster"),
        ("compress", "x.png", "-o", "-", "--json"),
        ("compress", "x.png", "--max-pixels", "0"),
        ("info",),
    ],
)
def test_wrong_usage_exits_with_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_mistyped_command_gets_a_suggestion():
    assert "decompress" in run("decompres", "x").output


def test_info_shows_every_field(foreign_file):
    result = run("info", foreign_file)
    assert result.exit_code == 0
    for text in ("64 x 48", "level 33", "not installed", "07" * 8, "exif 5 B"):
        assert text in result.stdout


def test_info_as_json(foreign_file):
    record = json.loads(run("info", "--json", foreign_file).stdout)
    size = foreign_file.stat().st_size
    assert (record["width"], record["height"], record["quality"], record["level"], record["bytes"]) == (64, 48, None, 33, size)
    assert record["segment_bytes"] == [3, 0, 5]
    assert record["chunk_bytes"] == {"exif": 5}
    assert record["bpp"] == pytest.approx(8 * size / (64 * 48), abs=1e-5)
    assert record["error"] is None


def test_info_goes_on_after_a_bad_file(foreign_file, tmp_path):
    bad = tmp_path / "bad.looc"
    bad.write_bytes(b"\x89PNG....")
    result = run("info", bad, foreign_file)
    assert_failed_in_one_line(result, "bad.looc")
    assert "64 x 48" in result.stdout


def test_info_tells_of_a_truncated_file(foreign_file):
    foreign_file.write_bytes(foreign_file.read_bytes()[:-3])
    assert_failed_in_one_line(run("info", foreign_file), "foreign.looc", "bytes")


@pytest.mark.parametrize("command", ["decompress", "verify"])
def test_a_file_of_an_unknown_model_names_its_fingerprint(command, foreign_file):
    assert_failed_in_one_line(run(command, foreign_file), "07" * 8)
    assert sorted(path.name for path in foreign_file.parent.iterdir()) == ["foreign.looc"]


def test_models_lists_none(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "_PACKAGE", tmp_path / "looc_codec")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("LOOC_MODELS", raising=False)
    result = run("models")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no models are installed" in result.stderr


@pytest.mark.parametrize("command", ["compress", "decompress", "verify", "info"])
def test_missing_input_fails_in_one_line(command, tmp_path, monkeypatch):
    assert_failed_in_one_line(run(command, tmp_path / "none.looc"), "none.looc")


def test_unknown_model_fails_before_anything_is_written(picture):
    assert_failed_in_one_line(run("compress", picture, "-m", "nonsense"), "nonsense")
    assert sorted(path.name for path in picture.parent.iterdir()) == ["photo.png"]


def test_existing_output_is_refused_before_torch_is_loaded(picture):
    output = picture.with_name("out.looc")
    output.write_bytes(b"mine")
    code = (
        f"import sys; sys.argv = ['looc', 'compress', {str(picture)!r}, '-o', {str(output)!r}]\n"
        "from looc_codec.cli import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert "--force" in done.stderr and done.stderr.count("\n") == 1
    assert output.read_bytes() == b"mine"


def test_debug_shows_the_trace_wherever_it_stands(foreign_file):
    for arguments in (("--debug", "verify", foreign_file), ("verify", foreign_file, "--debug")):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "Traceback" in result.stderr and "07" * 8 in result.stderr


def test_real_process_fails_in_one_line(tmp_path):
    bad = tmp_path / "bad.looc"
    bad.write_bytes(b"nonsense")
    done = run_process("decompress", bad)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1 and b"bad.looc" in done.stderr


def test_closed_pipe_is_quiet(foreign_file):
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [sys.executable, "-m", "looc_codec", "info", *[str(foreign_file)] * 2000], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def waiting_bytes(pipe) -> int:
    """Bytes in a pipe that its reader has not taken yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_interrupt_exits_with_130():
    process = subprocess.Popen(
        [sys.executable, "-m", "looc_codec", "info", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell's background job ignores SIGINT and so would its children; a person's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    # However slowly it starts: once it has taken these bytes off the pipe it waits for more inside the command.
    process.stdin.write(b"LOOC")
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while waiting_bytes(process.stdin) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not waiting_bytes(process.stdin)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in errors


# --- with the tiny model -----------------------------------------------------------------------------------------------


def test_compress_then_decompress(picture, tiny_installed, tmp_path):
    packed, back = tmp_path / "a.looc", tmp_path / "b.png"
    result = run("compress", picture, "-o", packed, "-m", tiny_installed, "-q", 70)
    assert result.exit_code == 0, result.output
    assert "bpp" in result.stderr and result.stdout == ""
    result = run("decompress", packed, "-o", back)
    assert result.exit_code == 0, result.output
    with Image.open(back) as restored:
        assert restored.size == (70, 50) and restored.mode == "RGB"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.looc", "b.png", "photo.png"]


def test_default_outputs_lie_beside_the_input(picture, tiny_installed):
    assert run("compress", picture, "-m", tiny_installed).exit_code == 0
    packed = picture.with_suffix(".looc")
    assert packed.exists()
    picture.unlink()
    assert run("decompress", packed).exit_code == 0
    assert picture.exists()


def test_existing_outputs_need_force(looc_file, picture, tiny_installed):
    before = looc_file.read_bytes()
    result = run("compress", picture, "-o", looc_file, "-m", tiny_installed, "-q", 5)
    assert_failed_in_one_line(result, "--force")
    assert looc_file.read_bytes() == before
    assert run("compress", picture, "-o", looc_file, "-m", tiny_installed, "-q", 5, "--force").exit_code == 0
    assert looc_file.read_bytes() != before


def test_many_files_in_a_folder(tmp_path, tiny_installed):
    folder, packed, back = tmp_path / "in", tmp_path / "packed", tmp_path / "back"
    folder.mkdir()
    for index in range(3):
        photo(33 + index, 20, seed=index).save(folder / f"{index}.png")
    assert run("compress", folder, "-o", packed, "-m", tiny_installed).exit_code == 0
    assert sorted(path.name for path in packed.iterdir()) == ["0.looc", "1.looc", "2.looc"]
    assert run("decompress", packed, "-o", back, "--format", "png").exit_code == 0
    assert [Image.open(back / f"{index}.png").size for index in range(3)] == [(33, 20), (34, 20), (35, 20)]


def test_a_failed_file_does_not_stop_the_rest(tmp_path, tiny_installed):
    folder, packed = tmp_path / "in", tmp_path / "packed"
    folder.mkdir()
    photo(seed=1).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"not a picture")
    photo(seed=2).save(folder / "c.png")
    result = run("compress", folder, "-o", packed, "-m", tiny_installed, "--json")
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in packed.iterdir()) == ["a.looc", "c.looc"]
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["error"] is None for record in records] == [True, False, True]


def test_json_line_of_a_file(picture, tiny_installed, tmp_path):
    packed = tmp_path / "a.looc"
    result = run("compress", picture, "-o", packed, "-m", tiny_installed, "-q", 30, "--json")
    (line,) = result.stdout.splitlines()
    record = json.loads(line)
    assert record["input"] == str(picture) and record["output"] == str(packed)
    assert (record["width"], record["height"], record["quality"]) == (70, 50, 30)
    assert record["bytes"] == packed.stat().st_size
    assert record["bpp"] == pytest.approx(8 * record["bytes"] / 3500, abs=1e-5)
    assert record["model"] == registry.find_model(tiny_installed).name
    assert record["seconds"] > 0 and record["error"] is None


def test_quiet_prints_nothing(picture, tiny_installed, tmp_path):
    result = run("compress", picture, "-o", tmp_path / "a.looc", "-m", tiny_installed, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_streams_end_to_end_as_processes(picture, tiny_installed):
    packed = run_process("compress", "-", "-o", "-", "-m", tiny_installed, stdin=picture.read_bytes())
    assert packed.returncode == 0, packed.stderr
    restored = run_process("decompress", "-", "-o", "-", "-m", tiny_installed, stdin=packed.stdout)
    assert restored.returncode == 0, restored.stderr
    assert restored.stdout.startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize("damage", ["flip header", "flip payload", "cut", "append"])
@pytest.mark.parametrize("command", ["decompress", "verify"])
def test_damaged_files_fail_in_one_line(command, damage, looc_file, tmp_path):
    data = bytearray(looc_file.read_bytes())
    if damage == "flip header":
        data[5] ^= 0x10
    elif damage == "flip payload":
        data[-20] ^= 0x01
    elif damage == "cut":
        del data[len(data) // 2 :]
    else:
        data += b"more"
    bad = tmp_path / "bad.looc"
    bad.write_bytes(data)
    outputs = ("-o", tmp_path / "back.png") if command == "decompress" else ()
    assert_failed_in_one_line(run(command, bad, *outputs), "bad.looc")
    assert not (tmp_path / "back.png").exists()


def test_verify_accepts_a_whole_file(looc_file):
    before = sorted(looc_file.parent.iterdir())
    result = run("verify", looc_file)
    assert result.exit_code == 0, result.output
    assert "correct" in result.stderr
    assert sorted(looc_file.parent.iterdir()) == before


def test_max_pixels_bounds_both_ways(picture, looc_file, tiny_installed, tmp_path):
    result = run("compress", picture, "-o", tmp_path / "x.looc", "-m", tiny_installed, "--max-pixels", 3499)
    assert_failed_in_one_line(result, "max-pixels")
    assert_failed_in_one_line(run("decompress", looc_file, "-o", tmp_path / "x.png", "--max-pixels", 3499), "max-pixels")
    assert run("decompress", looc_file, "-o", tmp_path / "x.png", "--max-pixels", 3500).exit_code == 0


def test_strip_leaves_metadata_out(tmp_path, tiny_installed):
    source = tmp_path / "tagged.jpg"
    exif = Image.Exif()
    exif[0x010E] = "a description"
    photo().save(source, exif=exif)
    kept, stripped = tmp_path / "kept.looc", tmp_path / "stripped.looc"
    assert run("compress", source, "-o", kept, "-m", tiny_installed).exit_code == 0
    assert run("compress", source, "-o", stripped, "-m", tiny_installed, "--strip").exit_code == 0
    assert "exif" in json.loads(run("info", "--json", kept).stdout)["chunk_bytes"]
    assert json.loads(run("info", "--json", stripped).stdout)["chunk_bytes"] == {}


def test_models_lists_the_installed_one(tiny_installed):
    records = [json.loads(line) for line in run("models", "--json").stdout.splitlines()]
    assert registry.find_model(tiny_installed).fingerprint.hex() in {record["fingerprint"] for record in records}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("-o", "back.looc"), "cannot write pictures of format 'looc'"),
        (("-o", "back.jpg", "--format", "png"), "back.jpg is the name of another kind than --format png"),
        (("-o", "back.png", "--quality", 50), "lossless PNG, which has no quality"),
        (("--quality", 50), "lossless PNG, which has no quality"),
        (("-o", "-", "--quality", 50), "standard stream would be lossless PNG"),
        (("-o", "none/back.png"), "its folder does not exist"),
    ],
)
def test_outputs_that_cannot_be_as_asked_are_refused_before_decoding(foreign_file, options, sentence, monkeypatch):
    """The file's model is not installed, which would be said first if decoding came first."""
    monkeypatch.chdir(foreign_file.parent)
    assert_failed_in_one_line(run("decompress", foreign_file, *options), sentence)
    assert [path.name for path in foreign_file.parent.iterdir()] == ["foreign.looc"]


def test_restoring_to_jpeg_of_a_lower_quality_takes_fewer_bytes(looc_file, tmp_path):
    sizes = []
    for quality in (20, 90):
        output = tmp_path / f"{quality}.jpg"
        assert run("decompress", looc_file, "-o", output, "--quality", quality).exit_code == 0
        sizes.append(output.stat().st_size)
    assert sizes[0] < sizes[1]


def test_verify_takes_folders_and_counts_what_is_wrong_in_them(looc_file):
    (looc_file.parent / "bad.looc").write_bytes(looc_file.read_bytes()[:-4])
    result = run("verify", looc_file.parent)
    assert result.exit_code == 1 and "photo.looc:  correct" in result.stderr and "bad.looc" in result.stderr
    assert "passed over in folders: .png (1)" in result.stderr and "1 of 2 files done, 1 failed" in result.stderr


def test_a_looc_file_is_not_compressed_again(looc_file):
    assert_failed_in_one_line(run("compress", looc_file), "photo.looc is a .looc file already")


def test_python_knows_the_models_of_a_user_without_a_home():
    code = (
        "import os, pwd\n"
        "def none(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = none\n"
        "os.environ.pop('HOME', None); os.environ.pop('XDG_DATA_HOME', None)\n"
        "import looc_codec; print(looc_codec.load_model('photo').name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "photo\n", done.stderr
