"""Standard streams in whatever state they are found: closed, full, a terminal; and signals that end the command."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import photo, run_process

from looc_codec.format.container import Container, pack

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
"""For commands in other folders."""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX streams")


def run_shell(command: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """A line of shell in which `looc` is the command."""
    script = f'looc() {{ "{sys.executable}" -m looc_codec "$@"; }}; {command}'
    return subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, timeout=120, check=False, env=ENVIRONMENT)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "a.looc").write_bytes(pack(Container(64, 48, 33, b"\x07" * 8, (b"abc", b"", b"defgh"), 5)))
    photo().save(tmp_path / "a.png")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("looc info a.looc >&-", "standard output is closed"),
        ("looc info --json a.looc >&-", "standard output is closed"),
        ("looc --help >&-", "standard output is closed"),
        ("looc --version >&-", "standard output is closed"),
        ("looc compress a.png -o - >&-", "standard output is closed"),
        ("looc info - <&-", "standard input is closed"),
        ("looc decompress - -o back.png <&-", "standard input is closed"),
        ("looc compress - -o back.looc <&-", "standard input is closed"),
        ("looc info a.looc >/dev/full", "cannot write to standard output: No space left on device"),
        ("looc info --json a.looc >/dev/full", "cannot write to standard output: No space left on device"),
        ("looc --help >/dev/full", "cannot write to standard output: No space left on device"),
        ("looc compress --help >/dev/full", "cannot write to standard output: No space left on device"),
    ],
)
def test_a_stream_that_cannot_be_used_is_one_sentence(folder, command, sentence):
    done = run_shell(command, folder)
    assert done.returncode == 1, done.stderr
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1 and sentence in lines[0]


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_without_stderr_the_exit_code_says_how_it_went_and_nothing_goes_elsewhere(folder, redirection):
    done = run_shell(f"looc info none.looc {redirection}", folder)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    done = run_shell(f"looc info a.looc {redirection}", folder)
    assert done.returncode == 0 and b"64 x 48" in done.stdout


def test_no_file_takes_the_number_of_a_closed_stream(folder):
    """Whatever a library writes to number 2 would go into it."""
    code = (
        "import os, sys; from looc_codec.cli.streams import open_closed_streams; open_closed_streams()\n"
        "print(open('a.png', 'rb').fileno(), os.get_inheritable(2))"
    )
    done = subprocess.run(["sh", "-c", f'"{sys.executable}" -c "{code}" <&- 2>&-'], cwd=folder, capture_output=True, timeout=60, check=False, env=ENVIRONMENT)
    number, inheritable = done.stdout.split()
    assert int(number) > 2 and inheritable == b"True"


def on_terminal(command: list[str], folder: Path, stream: str) -> subprocess.CompletedProcess[bytes]:
    """The command with one of its streams on a terminal."""
    ours, theirs = pty.openpty()
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: theirs}
    try:
        return subprocess.run([sys.executable, "-m", "looc_codec", *command], cwd=folder, timeout=120, check=False, env=ENVIRONMENT, **streams)
    finally:
        os.close(theirs)
        os.close(ours)


@pytest.mark.parametrize(
    "command",
    [
        ["compress", "a.png", "-o", "-"],
        ["decompress", "a.looc", "-o", "-"],
        ["truncate", "a.looc", "--groups", "1", "-o", "-"],
        ["thumbnail", "a.looc", "-"],
    ],
)
def test_bytes_are_not_written_to_a_terminal(folder, command):
    done = on_terminal(command, folder, "stdout")
    assert done.returncode == 1
    assert b"standard output is a terminal" in done.stderr and done.stderr.count(b"\n") == 1


def test_force_writes_to_a_terminal_as_with_gzip(folder):
    done = on_terminal(["truncate", "a.looc", "--groups", "1", "-o", "-", "--force"], folder, "stdout")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [["compress", "-", "-o", "b.looc"], ["decompress", "-", "-o", "b.png"], ["info", "-"], ["verify", "-"], ["thumbnail", "-", "b.png"]],
)
def test_no_command_waits_for_bytes_from_a_keyboard(folder, command):
    done = on_terminal(command, folder, "stdin")
    assert done.returncode == 1
    assert b"standard input is a terminal" in done.stderr and done.stderr.count(b"\n") == 1


_WRITING = """
import sys, time
from looc_codec import cli, files

def write():
    with files.write_atomically("out") as file:
        file.write(b"half")
        print("writing", flush=True)
        time.sleep(60)

cli.app = write
cli.main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGXCPU"])
def test_a_signal_that_ends_the_command_leaves_no_unfinished_file(tmp_path, name):
    number = getattr(signal, name)
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITING], cwd=tmp_path, stdout=subprocess.PIPE, env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_nohup_is_respected(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITING.replace("sleep(60)", "sleep(1)")], cwd=tmp_path, stdout=subprocess.PIPE, env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "out").read_bytes() == b"half"


def test_a_thumbnail_does_not_replace_its_own_file(folder):
    before = (folder / "a.looc").read_bytes()
    done = run_process("thumbnail", folder / "a.looc", f"{folder}/./a.looc")
    assert done.returncode == 1 and b"the .looc file itself" in done.stderr and done.stderr.count(b"\n") == 1
    assert (folder / "a.looc").read_bytes() == before
