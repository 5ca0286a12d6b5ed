"""Many files at once: worker processes, --update, folder trees, collisions, and what an interruption leaves."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import assert_failed_in_one_line, photo, run, run_process, tiny_installed  # noqa: F401


@pytest.fixture
def tree(tmp_path) -> Path:
    """Five pictures in a folder with subfolders; one of them is none."""
    folder = tmp_path / "in"
    for index, name in enumerate(("a.png", "b.png", "deep/a.png", "deep/er/c.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(40 + index, 30, seed=index).save(path)
    (folder / "deep" / "broken.png").write_bytes(b"no picture")
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_workers_write_the_same_bytes_lines_and_summary(tree, tmp_path, tiny_installed):  # noqa: F811
    results = {}
    for jobs in (1, 2):
        packed, back = tmp_path / f"packed{jobs}", tmp_path / f"back{jobs}"
        done = run_process("compress", tree, "-o", packed, "-m", tiny_installed, "--jobs", jobs, "--json")
        restored = run_process("decompress", packed, "-o", back, "--jobs", jobs)
        assert (done.returncode, restored.returncode) == (1, 0), done.stderr + restored.stderr
        assert restored.stderr.splitlines()[-1].startswith(b"4 of 4 files done in")
        lines = done.stderr.splitlines()
        assert len(lines) == 2 and b"broken.png" in lines[0] and lines[1].startswith(b"4 of 5 files done in")
        records = [json.loads(line) for line in done.stdout.splitlines()]
        for record in records:
            del record["seconds"], record["output"]
        results[jobs] = (digests(packed), digests(back), records)
    assert results[1] == results[2]
    assert list(results[1][0]) == ["a.looc", "b.looc", "deep/a.looc", "deep/er/c.looc"]


def test_update_skips_what_is_newer_and_redoes_what_is_older(tree, tmp_path, tiny_installed):  # noqa: F811
    (tree / "deep" / "broken.png").unlink()
    packed = tmp_path / "packed"
    command = ("compress", tree, "-o", packed, "-m", tiny_installed, "--update")
    assert run(*command).exit_code == 0
    before = digests(packed)
    result = run(*command, "-q", 5)
    assert result.exit_code == 0
    assert result.stderr.strip().startswith("0 of 4 files done, 4 skipped as up to date in")
    assert digests(packed) == before
    later = time.time() + 100
    os.utime(tree / "b.png", (later, later))
    result = run(*command, "-q", 5, "--json")
    assert "1 of 4 files done, 3 skipped as up to date" in result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(Path(record["input"]).name, record["skipped"]) for record in records] == [("a.png", True), ("b.png", False), ("a.png", True), ("c.png", True)]
    changed = {name for name, digest in digests(packed).items() if digest != before[name]}
    assert changed == {"b.looc"}


def test_update_needs_no_torch_when_there_is_nothing_to_do(tmp_path):
    photo().save(tmp_path / "a.png")
    (tmp_path / "a.looc").write_bytes(b"newer")
    later = time.time() + 100
    os.utime(tmp_path / "a.looc", (later, later))
    code = (
        f"import sys; sys.argv = ['looc', 'compress', {str(tmp_path / 'a.png')!r}, '--update']\n"
        "from looc_codec.cli import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    assert "newer" in done.stderr and (tmp_path / "a.looc").read_bytes() == b"newer"


def test_update_and_force_exclude_each_other(tmp_path):
    photo().save(tmp_path / "a.png")
    assert run("compress", tmp_path / "a.png", "--update", "--force").exit_code == 2


def test_colliding_names_are_refused_before_any_work(tree, tmp_path, tiny_installed):  # noqa: F811
    packed = tmp_path / "packed"
    result = run("compress", tree / "a.png", tree / "deep" / "a.png", "-o", packed, "-m", tiny_installed, "--jobs", 2)
    assert_failed_in_one_line(result, "a.looc", "both")
    assert not packed.exists()


def test_existing_outputs_are_refused_by_workers_too(tree, tmp_path, tiny_installed):  # noqa: F811
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "a.looc").write_bytes(b"mine")
    done = run_process("compress", tree / "a.png", tree / "b.png", tree / "deep" / "er" / "c.png", "-o", packed, "-m", tiny_installed, "--jobs", 2)
    assert done.returncode == 1
    assert (packed / "a.looc").read_bytes() == b"mine" and (packed / "b.looc").exists() and (packed / "c.looc").exists()
    assert done.stderr.count(b"--force") == 1 and b"Traceback" not in done.stderr


def test_debug_shows_the_trace_of_a_worker(tree, tmp_path, tiny_installed):  # noqa: F811
    done = run_process("--debug", "compress", tree, "-o", tmp_path / "packed", "-m", tiny_installed, "--jobs", 2)
    assert done.returncode == 1 and b"Traceback" in done.stderr and b"read_picture" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "whole_group"), [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)])
def test_an_interruption_leaves_nothing_half_written_and_no_process(tmp_path, tiny_installed, number, whole_group):  # noqa: F811
    folder, packed = tmp_path / "in", tmp_path / "packed"
    folder.mkdir()
    for index in range(12):
        photo(900, 700, seed=index).save(folder / f"{index:02d}.png")
    process = subprocess.Popen(
        [sys.executable, "-m", "looc_codec", "compress", str(folder), "-o", str(packed), "-m", tiny_installed, "--jobs", "2"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(packed.glob("*.looc")) and time.monotonic() < deadline:
        time.sleep(0.02)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 128 + number), errors
    assert b"Traceback" not in errors
    finished = list(packed.iterdir())
    assert 1 <= len(finished) < 12 and all(path.suffix == ".looc" for path in finished)
    for path in finished:
        assert run("verify", path, "-m", tiny_installed).exit_code == 0
    # The session of the command is empty: no worker goes on.
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_a_worker_that_dies_is_reported_and_ends_nothing_else(tmp_path, tiny_installed):  # noqa: F811
    folder, packed = tmp_path / "in", tmp_path / "packed"
    folder.mkdir()
    for index in range(12):
        photo(900, 700, seed=index).save(folder / f"{index:02d}.png")
    process = subprocess.Popen(
        [sys.executable, "-m", "looc_codec", "compress", str(folder), "-o", str(packed), "-m", tiny_installed, "--jobs", "2", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not list(packed.glob("*.looc")) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = [int(pid) for task in Path(f"/proc/{process.pid}/task").iterdir() for pid in (task / "children").read_text().split()]
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and b"Traceback" not in errors
    records = [json.loads(line) for line in output.splitlines()]
    assert len(records) == 12
    assert any("worker process died" in (record["error"] or "") for record in records)
    assert all(record["error"] or (packed / Path(record["output"]).name).exists() for record in records)


def test_a_worker_told_to_end_ends_even_where_the_exception_is_lost():
    """As in a finaliser, whose exceptions Python ignores, or while it waits for a lock that nobody will release."""
    script = (
        "import os, signal, time\n"
        "from looc_codec.cli import batch\n"
        "batch.LEAVE_SECONDS = 0.5\n"
        "signal.signal(signal.SIGTERM, batch._leave)\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
        "except SystemExit:\n"
        "    pass\n"
        "time.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=30).returncode == 1
