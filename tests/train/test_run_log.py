"""RUN/train.log: every printed line once, also after a kill and a resume; a full disk is said and ends the run."""

import contextlib
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convnext_imagenet.base.errors import FailedError
from convnext_imagenet.train.cli import main
from convnext_imagenet.train.progress import Screen
from convnext_imagenet.train.run_log import RunLog

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ")


def _lines(path: Path) -> list[str]:
    """Return the logged lines without their times, which must rise."""
    lines = path.read_text().splitlines()
    assert all(STAMP.match(line) for line in lines)
    times = [line.split()[0] for line in lines]
    assert times == sorted(times)
    return [STAMP.sub("", line, count=1) for line in lines]


def test_lines_wait_until_the_file_is_open_and_are_appended(tmp_path: Path) -> None:
    for word in ("first", "second"):
        log = RunLog()
        log.add(f"{word} before")
        assert (tmp_path / "train.log").exists() == (word == "second")
        log.open(tmp_path / "train.log")
        log.add(f"{word} after\n{word} in another line \udcff")
        log.close()
    assert _lines(tmp_path / "train.log") == [
        f"{word} {line}" for word in ("first", "second") for line in ("before", "after", "in another line \\udcff")
    ]


def test_a_line_that_was_cut_short_is_ended_before_the_next(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("2026-11-29T00:00:00.000Z epoch: 1 st")
    log = RunLog()
    log.open(tmp_path / "train.log")
    log.add("next")
    assert _lines(tmp_path / "train.log") == ["epoch: 1 st", "next"]


def test_a_full_disk_is_said_once(small_disk: Path) -> None:
    log = RunLog()
    log.open(small_disk / "train.log")
    with (small_disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    said = r"train\.log: cannot be written \(No space left on device\); free disk space"
    with pytest.raises(FailedError, match=said):
        log.add("a line\n" * 1000)
    log.add("the error that the user sees")


def test_an_error_that_ends_a_run_is_logged_and_a_bug_with_its_traceback(tmp_path: Path) -> None:
    for error in (FailedError("the disk\nis full"), OSError(5, "broken", "a.bin"), ValueError("a bug")):
        with contextlib.suppress(type(error)), Screen(tmp_path, 0.0, log := RunLog()) as screen:
            screen.on_begin()
            raise error
        log.close()
    first, second, *trace = _lines(tmp_path / "train.log")
    assert (first, second) == ("Error: the disk is full", "Error: a.bin: broken")
    assert (trace[0], trace[-1]) == ("Traceback (most recent call last):", "ValueError: a bug")


@pytest.fixture
def resume(finished_run: Path, records_root: Path, tiny: tuple[str, ...], tmp_path: Path):
    """`resume(change)` starts a copy of the finished run that lacks only its last file, after `change(run)`."""

    def start(change) -> Result:
        shutil.copytree(finished_run, tmp_path / "run")
        (tmp_path / "run" / "_SUCCESS").unlink()
        change(tmp_path / "run")
        overrides = [word for override in tiny for word in ("--set", override)]
        words = ["run", "paper-tiny", "--records", records_root, "--out", tmp_path / "run", "--workers", 1, *overrides]
        return CliRunner().invoke(main, [str(word) for word in words])

    return start


def test_a_run_logs_what_it_prints_and_a_finished_one_nothing(
    finished_output: Result, finished_run: Path, records_root: Path, tiny: tuple[str, ...]
) -> None:
    logged = _lines(finished_run / "train.log")
    on_stderr = [line for line in finished_output.stderr.splitlines() if line and "train:" not in line]
    assert sorted(logged) == sorted(finished_output.stdout.splitlines() + on_stderr)
    assert not any("\r" in line or "train:" in line for line in logged), "bars are not logged"


def test_lines_of_metrics_that_are_gone_are_said_once(resume, tmp_path: Path) -> None:
    def lose_the_first(run: Path) -> None:
        path = run / "metrics.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))

    result = resume(lose_the_first)
    assert result.exit_code == 0, result.stderr
    warning = (
        f"Warning: {tmp_path / 'run' / 'metrics.jsonl'}: the lines of 1 of 4 finished epochs are missing (1), so "
        f"curves.png will have a gap; the weights are complete. To have the lines, restore the file from a copy and "
        f"start again"
    )
    assert result.stderr.splitlines().count(warning) == 1, "on a line of its own beside the bar"
    assert _lines(tmp_path / "run" / "train.log").count(warning) == 1
    assert any(line.startswith("resuming after epoch 4 of 4") for line in _lines(tmp_path / "run" / "train.log"))


def test_a_disk_that_is_full_for_the_log_ends_the_run_in_one_line(resume, tmp_path: Path) -> None:
    def fill(run: Path) -> None:
        (run / "train.log").unlink()
        (run / "train.log").symlink_to("/dev/full")

    result = resume(fill)
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (74, True)
    *_, last = result.stderr.splitlines()
    assert last.startswith(f"Error: {tmp_path / 'run' / 'train.log'}: cannot be written (No space left on device); ")
    assert not (tmp_path / "run" / "_SUCCESS").exists()


def test_a_refused_run_leaves_the_log_alone(finished_run: Path, records_root: Path, tiny: tuple[str, ...]) -> None:
    before = (finished_run / "train.log").read_bytes()
    overrides = [word for override in (*tiny, "train.seed=9") for word in ("--set", override)]
    words = ["run", "paper-tiny", "--records", str(records_root), "--out", str(finished_run), *overrides]
    assert CliRunner().invoke(main, words).exit_code == 1
    assert (finished_run / "train.log").read_bytes() == before


def test_a_killed_process_has_logged_all_that_it_had_printed(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from convnext_imagenet.train.progress import Screen
from convnext_imagenet.train.run_log import RunLog

with Screen(Path({str(tmp_path)!r}), 0.0, RunLog()) as screen:
    screen.on_begin()
    for number in range(100):
        screen.say(f"line {{number}}")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert _lines(tmp_path / "train.log") == [f"line {number}" for number in range(100)]
