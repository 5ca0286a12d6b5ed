"""Many files at once: worker processes, --update, folder trees, collisions, and what an interruption leaves."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from looc_codec import progress
from looc_codec.cli import workers
from looc_codec.cli.planning import Job
from looc_codec.cli.printing import size_text
from looc_codec.cli.records import Record
from looc_codec.files import write_atomically
from looc_codec.format.container import Chunk, Container, pack
from looc_codec.quality import DEFAULT_QUALITY
from looc_codec.registry import DEFAULT_MODEL, find_model, installed_models
from test_cli import assert_failed_in_one_line, photo, run, run_process, tiny_installed  # noqa: F401

OTHER_MODEL = next(entry.name for entry in installed_models() if entry.name != DEFAULT_MODEL)


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
        assert restored.stderr.splitlines()[-1].startswith(b"4 of 4 files done, ")
        lines = done.stderr.splitlines()
        assert len(lines) == 2 and b"broken.png" in lines[0] and lines[1].startswith(b"4 of 5 files done, 1 failed, ")
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
    result = run(*command)
    assert result.exit_code == 0
    assert result.stderr.strip().startswith("0 of 4 files done, 4 skipped as up to date in")
    assert digests(packed) == before
    later = time.time() + 100
    os.utime(tree / "b.png", (later, later))
    result = run(*command, "--strip", "--json")
    assert "1 of 4 files done, 3 skipped as up to date" in result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(Path(record["input"]).name, record["skipped"]) for record in records] == [("a.png", True), ("b.png", False), ("a.png", True), ("c.png", True)]
    assert (packed / "b.looc").stat().st_mtime < later and (packed / "a.looc").stat().st_mtime < (packed / "b.looc").stat().st_mtime


def looc_of(tmp_path: Path, quality: int | None = None, fingerprint: bytes | None = None, payload: int = 100, **parts) -> bytes:
    """A file as `looc compress a.png` would write it, as far as its header tells."""
    default = find_model(DEFAULT_MODEL)
    fingerprint = default.fingerprint if fingerprint is None else fingerprint
    quality = default.quality_scale.level(DEFAULT_QUALITY) if quality is None else quality
    return pack(Container(70, 50, quality, fingerprint, (b"x" * payload,), 5, **parts))


@pytest.mark.parametrize(
    ("existing", "options", "is_kept"),
    [
        ({}, (), True),
        ({}, ("-q", DEFAULT_QUALITY), True),
        ({}, ("-q", 50), False),
        ({"quality": 40}, (), False),
        ({"quality": 40}, ("--level", 40), True),
        ({"quality": 40}, ("--level", 41), False),
        ({"fingerprint": b"another!"}, (), False),
        ({}, ("-m", OTHER_MODEL), False),
        ({}, ("--effort", 3), False),
        ({}, ("--strip",), True),
        ({"chunks": (Chunk("exif", b"II*\0"),)}, (), True),
        ({"chunks": (Chunk("exif", b"II*\0"),)}, ("--strip",), False),
        ({"payload": 970}, ("--target-size", 1030), True),
        ({"payload": 970}, ("--target-size", 900), False),
        ({"payload": 970}, ("--target-size", 5000), False),
        ({"payload": 970, "quality": 100}, ("--target-size", 5000), True),
        ({"payload": 400}, ("--target-bpp", 1.0), True),
        ({"payload": 400}, ("--target-bpp", 0.9), False),
        ({"quality": 40}, ("--target-psnr", 34), True),
        ({"quality": 40}, ("--target-ssimulacra2", 34), True),
        ({"fingerprint": b"another!"}, ("--target-psnr", 34), False),
    ],
)
def test_update_compares_what_was_asked_for_with_what_the_file_says(tmp_path, existing, options, is_kept):
    photo().save(tmp_path / "a.png")
    (tmp_path / "a.looc").write_bytes(looc_of(tmp_path, **existing))
    result = run("compress", tmp_path / "a.png", "--update", "--dry-run", "--json", *options)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["skipped"] == is_kept


def test_update_redoes_a_file_that_is_cut_short_and_leaves_one_that_is_no_looc_file(tmp_path):
    photo().save(tmp_path / "a.png")
    (tmp_path / "a.looc").write_bytes(looc_of(tmp_path)[:-50])
    result = run("compress", tmp_path / "a.png", "--update", "--dry-run", "--json")
    assert not json.loads(result.stdout)["skipped"]
    (tmp_path / "a.looc").write_bytes(b"somebody's own notes")
    assert_failed_in_one_line(run("compress", tmp_path / "a.png", "--update"), "a.looc", "--force")
    assert (tmp_path / "a.looc").read_bytes() == b"somebody's own notes"


def test_update_needs_no_torch_when_there_is_nothing_to_do(tmp_path):
    photo().save(tmp_path / "a.png")
    (tmp_path / "a.looc").write_bytes(looc_of(tmp_path))
    later = time.time() + 100
    os.utime(tmp_path / "a.looc", (later, later))
    code = (
        f"import sys; sys.argv = ['looc', 'compress', {str(tmp_path / 'a.png')!r}, '--update']\n"
        "from looc_codec.cli import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    assert "not older" in done.stderr and (tmp_path / "a.looc").read_bytes() == looc_of(tmp_path)


def test_update_and_force_exclude_each_other(tmp_path):
    photo().save(tmp_path / "a.png")
    assert run("compress", tmp_path / "a.png", "--update", "--force").exit_code == 2


def test_what_is_wrong_with_some_names_stops_no_others(tree, tmp_path, tiny_installed):  # noqa: F811
    """Two that would become one file, a pipe in which nobody writes, and a folder that is a file where outputs should go."""
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "deep").write_bytes(b"a file")
    photo().save(tree / "a.jpg")
    os.mkfifo(tree / "pipe.png")
    result = run("compress", tree, "-o", packed, "-m", tiny_installed)
    assert result.exit_code == 1
    assert sorted(path.name for path in packed.iterdir()) == ["b.looc", "deep"]
    lines = result.stderr.splitlines()
    assert "pipes and devices (1)" in lines[0]
    assert "1 of 6 files done, 5 failed" in lines[-1] and len(lines) == 8
    assert sum("and so would" in line for line in lines) == 2 and sum("its folder cannot be made" in line for line in lines) == 3


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tree, tmp_path):
    before = digests(tmp_path)
    packed = tmp_path / "packed"
    result = run("compress", tree / "a.png", tree / "none.png", tree / "b.png", "-o", packed, "--dry-run", "--jobs", 2)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"{tree}/a.png -> {packed}/a.looc", f"looc: {tree}/none.png does not exist; check its name", f"{tree}/b.png -> {packed}/b.looc",
        "2 of 3 files to do, 1 refused",
    ]
    assert digests(tmp_path) == before and not packed.exists()


def test_keep_time_gives_outputs_the_time_of_their_inputs_and_update_knows(tree, tmp_path, tiny_installed):  # noqa: F811
    old = 1_000_000_000
    os.utime(tree / "a.png", (old, old))
    packed, back = tmp_path / "a.looc", tmp_path / "a.jpg"
    assert run("compress", tree / "a.png", "-o", packed, "-m", tiny_installed, "--keep-time").exit_code == 0
    assert run("decompress", packed, "-o", back, "--keep-time", "--quality", 60).exit_code == 0
    assert (packed.stat().st_mtime, back.stat().st_mtime) == (old, old)
    again = run("compress", tree / "a.png", "-o", packed, "-m", tiny_installed, "--update", "--json")
    assert json.loads(again.stdout)["skipped"]


def test_the_summary_counts_bytes_and_what_is_saved(tree, tmp_path, tiny_installed):  # noqa: F811
    packed = tmp_path / "packed"
    result = run("compress", tree, "-o", packed, "-m", tiny_installed)
    before = sum(path.stat().st_size for path in tree.rglob("*.png") if path.name != "broken.png")
    after = sum(path.stat().st_size for path in packed.rglob("*.looc"))
    assert f"4 of 5 files done, 1 failed, {size_text(before)} -> {size_text(after)}, {100 * (1 - after / before):.1f}% saved in" in result.stderr
    restored = run("decompress", packed, "-o", tmp_path / "back")
    assert f"4 of 4 files done, {size_text(after)} -> " in restored.stderr and "saved" not in restored.stderr


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
@pytest.mark.parametrize(("number", "whole_group"), [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGHUP, True)])
def test_an_interruption_leaves_nothing_half_written_and_no_process(tmp_path, tiny_installed, number, whole_group):  # noqa: F811
    folder, packed = tmp_path / "in", tmp_path / "packed"
    folder.mkdir()
    for index in range(12):
        photo(900, 700, seed=index).save(folder / f"{index:02d}.png")
    process = subprocess.Popen(
        [sys.executable, "-m", "looc_codec", "compress", str(folder), "-o", str(packed), "-m", tiny_installed, "--jobs", "2"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        # What runs the tests may ignore them.
        preexec_fn=lambda: [signal.signal(ignored, signal.SIG_DFL) for ignored in (signal.SIGINT, signal.SIGHUP)],
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
    # Of the files that it had in work, one, and no more.
    assert sum("worker process died" in (record["error"] or "") for record in records) == 1
    assert sum(record["error"] is None for record in records) == 11
    assert all(record["error"] or (packed / Path(record["output"]).name).exists() for record in records)


def test_a_worker_told_to_end_ends_even_where_the_exception_is_lost():
    """As in a finaliser, whose exceptions Python ignores, or while it waits for a lock that nobody will release."""
    script = (
        "import os, signal, time\n"
        "from looc_codec.cli import workers\n"
        "workers.LEAVE_SECONDS = 0.5\n"
        "signal.signal(signal.SIGTERM, workers._leave)\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
        "except SystemExit:\n"
        "    pass\n"
        "time.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=30).returncode == 1


def _die_at_third(job: Job, record: Record) -> None:
    """The work of a test: the third file takes its process with it, in the middle of its output."""
    with write_atomically(job.output) as file:
        file.write(b"half")
        if job.input == "2":
            os.kill(os.getpid(), signal.SIGKILL)


def _report_halves(job: Job, record: Record) -> None:
    progress.report(0.5)
    time.sleep(2 * workers._REPORT_SECONDS)
    progress.report(0.75)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_what_a_dead_worker_had_in_work_fails_leaves_nothing_and_is_all(tmp_path):
    jobs = [Job(str(number), str(tmp_path / f"{number}.out")) for number in range(6)]
    with workers.results(jobs, _die_at_third, 2, lambda job, share: None) as result_of:
        failures = [result_of(job)[1] for job in jobs]
    assert [failure is not None for failure in failures] == [False, False, True, False, False, False]
    assert isinstance(failures[2], workers.WorkerError)
    assert sorted(os.listdir(tmp_path)) == ["0.out", "1.out", "3.out", "4.out", "5.out"]


def test_workers_say_how_far_each_of_their_files_is():
    jobs = [Job(str(number), f"{number}.out") for number in range(2)]
    heard: list[tuple[str, float]] = []
    with workers.results(jobs, _report_halves, 2, lambda job, share: heard.append((job.input, share))) as result_of:
        for job in jobs:
            assert result_of(job)[1] is None
    assert sorted(heard) == [("0", 0.5), ("0", 0.75), ("1", 0.5), ("1", 0.75)]


def test_workers_need_no_semaphores(tmp_path, monkeypatch):
    """Those live in /dev/shm, which a container may lack or hold read-only."""

    def refuse(*arguments):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("_multiprocessing.SemLock", refuse)
    jobs = [Job(str(number), f"{number}.out") for number in range(2)]
    with workers.results(jobs, _report_halves, 2, lambda job, share: None) as result_of:
        assert [result_of(job)[1] for job in jobs] == [None, None]


@pytest.mark.parametrize("allowed", [0, 1])
def test_one_process_does_it_where_no_others_can_be_started(tmp_path, monkeypatch, capsys, allowed):
    started = []
    usual = workers._Pool._new_worker

    def refuse(pool):
        if len(started) == allowed:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(usual(pool))
        return started[-1]

    monkeypatch.setattr(workers._Pool, "_new_worker", refuse)
    jobs = [Job(str(number), f"{number}.out") for number in range(2)]
    with workers.results(jobs, _report_halves, 2, lambda job, share: None) as result_of:
        assert [result_of(job)[1] for job in jobs] == [None, None]
    assert capsys.readouterr().err == (
        "looc: no further processes can be started (Resource temporarily unavailable); working on one file at a time\n"
    )


def test_the_last_worker_to_die_leaves_the_rest_to_this_process(tmp_path, monkeypatch, capsys):
    usual = workers._Pool._new_worker

    def refuse(pool):
        if len(pool._results):
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return usual(pool)

    monkeypatch.setattr(workers._Pool, "_new_worker", refuse)
    jobs = [Job("2", str(tmp_path / f"{number}.out")) for number in range(2)] + [Job("3", str(tmp_path / "3.out"))]
    with workers.results(jobs, _die_at_third, 2, lambda job, share: None) as result_of:
        failures = [result_of(job)[1] for job in jobs]
    assert [failure is not None for failure in failures] == [True, True, False]
    assert os.listdir(tmp_path) == ["3.out"]
    assert "going on with this one" in capsys.readouterr().err


def _meet_a_bug(job: Job, record: Record) -> None:
    raise KeyError("a bug")


def test_a_bug_in_a_worker_is_shown_with_its_own_trace():
    jobs = [Job(str(number), f"{number}.out") for number in range(2)]
    with pytest.raises(KeyError) as raised, workers.results(jobs, _meet_a_bug, 2, lambda job, share: None) as result_of:
        result_of(jobs[0])
    assert "_meet_a_bug" in str(raised.value.__cause__)
