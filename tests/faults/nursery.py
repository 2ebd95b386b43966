"""Runs `convnext-ingest` again and again without loading MindSpore again: a clean process that forks for each run.

The test talks to it over a pipe: a line of JSON for each run (see `Run`), answered by the child's process id and, at
its end, by its wait status. A child is the leader of its own process group, so that a test can kill all of it.

A run may be disturbed at a chosen step. Steps are what Python does to the file system below the output directory,
as its audit events tell: opening for writing, mkdir, rename, remove. MindRecord's own writing is not seen by it.
"""

import contextlib
import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


@dataclass(frozen=True)
class Run:
    """One run: the arguments of convnext-ingest, and how it is disturbed.

    Before step `at` (from 0; -1 for never) the process kills itself, or fills the disk that `filler` lies on but for
    `spare_bytes`. `steps` is a file that hears of each step. `is_alone` writes shards in the process itself, so that
    all steps are its own. No file may grow above `file_bytes`, unless it is negative.
    """

    arguments: list[str]
    output: str
    log: str
    at: int = -1
    filler: str = ""
    spare_bytes: int = 0
    steps: str = ""
    is_alone: bool = False
    rows_per_shard: int = 8
    file_bytes: int = -1


class Nursery:
    """The test's side: starts the clean process, and runs in it one ingest at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, run: Run) -> int:
        """Begin a run; its process id is also the id of its process group."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(asdict(run)) + "\n")
        self._process.stdin.flush()
        return int(self._read())

    def wait(self) -> int:
        """The exit code of the run that was begun last, negative for a signal."""
        return os.waitstatus_to_exitcode(int(self._read()))

    def run(self, run: Run) -> int:
        """Begin a run and wait for its end."""
        self.start(run)
        return self.wait()

    def close(self) -> None:
        """End the clean process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the nursery has died"
        return line


def _disturb(run: Run) -> None:
    """Follow the steps of this process, and do at the chosen one what the run says."""
    count = 0
    is_busy = False

    def follow(event: str, details: tuple[Any, ...]) -> None:
        nonlocal count, is_busy
        if event not in _WATCHED or is_busy or not _is_step(event, details, run.output):
            return
        is_busy = True
        if run.steps:
            with Path(run.steps).open("a") as file:
                file.write(_step_name(event, os.fsdecode(details[0]), run.output) + "\n")
        if count == run.at and run.filler:
            _fill_disk(Path(run.filler), run.spare_bytes)
        elif count == run.at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        is_busy = False

    sys.addaudithook(follow)


def _is_step(event: str, details: tuple[Any, ...], output: str) -> bool:
    path = details[0]
    if not isinstance(path, str | bytes) or not os.fsdecode(path).startswith(output):
        return False
    return event != "open" or bool(details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _step_name(event: str, path: str, output: str) -> str:
    return f"{event.removeprefix('os.')} {re.sub('[.][0-9]+[.]tmp$', '', os.path.relpath(path, output))}"


def _fill_disk(path: Path, spare_bytes: int) -> None:
    with path.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        file.truncate(max(0, file.tell() - spare_bytes))


def _exit_code(run: Run, main: Callable[..., None]) -> int:
    """Live the forked child's life; the code that Python would exit with."""
    try:
        _live(run, main)
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _live(run: Run, main: Callable[..., None]) -> None:
    from convnext_imagenet.ingest.shards import plan, pool

    os.setsid()
    log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    plan._ROWS_WORTH_A_SHARD = run.rows_per_shard
    forked = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: forked  # type: ignore[assignment,return-value]
    if run.is_alone:
        pool.run_units = _run_alone  # type: ignore[assignment]
    if run.file_bytes >= 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (run.file_bytes, run.file_bytes))
    _disturb(run)
    main(run.arguments, prog_name="convnext-ingest")


def _run_alone(
    function: Callable[..., None], tasks: Any, count: int, workers: int, on_progress: Any, on_unit: Any, start: Any
) -> None:
    for task in tasks:
        function(task, on_progress)


def serve() -> None:
    """Fork for each line of standard input, until it ends."""
    import convnext_imagenet.ingest.make_plan
    import convnext_imagenet.ingest.shards.build
    import convnext_imagenet.records.report.write
    import convnext_imagenet.records.shards  # noqa: F401 - loaded once, for all children
    from convnext_imagenet.ingest.cli import main

    os.environ["GLOG_v"] = "3"  # noqa: SIM112 - MindSpore's spelling
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(_exit_code(Run(**json.loads(line)), main))
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    serve()
