"""A hundred SIGKILLs of a prediction from a store that is slow, refuses and cuts: nothing wrong is sealed.

Predictions go to a folder, and to the same store. CONVNEXT_KILL_SECONDS bounds the time of each hundred; the engine is
onnxruntime, because it compiles nothing, so that most of the time goes to reading and publishing.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ..object_store import Store, running_store
from .conftest import jpeg
from .predict_forks import Forks
from .test_predict_kill import BATCH_ROWS, COMMAND, INPUTS, PART_ROWS, ROWS, tiny_weights

ROUNDS, MOST_SECONDS = 100, float(os.environ.get("CONVNEXT_KILL_SECONDS", "120"))
UNREADABLE = (5, 30, 59)
CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")


@pytest.fixture
def store() -> Iterator[Store]:
    """Sixty small images, three of which cannot be read."""
    with running_store() as running:
        for number in range(INPUTS):
            data = jpeg(number)
            data = data[: len(data) // 2] if number in UNREADABLE else data
            running.objects[f"images/{number:02d}.jpg"] = data
        yield running


@pytest.fixture
def forks(monkeypatch) -> Iterator[Forks]:
    """A process that runs the command, with the user's kernels: building them takes longer than all kills."""
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)
    running = Forks()
    yield running
    running.close()


def _files(store: Store, out: str) -> dict[str, bytes]:
    """What any reader would find now, in a folder or in the store, without notes of writers."""
    if "://" not in out:
        found = {path.name: path.read_bytes() for path in Path(out).glob("*") if path.is_file()}
    else:
        prefix = f"{out.split('/')[3].partition('?')[0]}/"
        found = {key.removeprefix(prefix): data for key, data in list(store.objects.items()) if key.startswith(prefix)}
    # a store's marker of the folder, notes of writers, and what a kill left of a file that was being written
    return {
        name: data for name, data in found.items() if name not in ("", ".lock", "_lock.json") and ".tmp" not in name
    }


def _assert_nothing_wrong_is_sealed(found: dict[str, bytes], whole: dict[str, bytes]) -> None:
    for name, data in found.items():
        if name.startswith("part-"):
            assert data == whole[name], name
        if name.startswith("_part-"):
            assert json.loads(data)["files"][0]["name"] in found, f"{name} came before its part"
    if "_SUCCESS" in found:
        assert found == whole


def _disturb(store: Store, moments: random.Random, folder: str) -> None:
    keys = moments.sample([key for key in store.objects if key.startswith("images/")], 8)
    parts = [f"{folder}/{name}" for name in moments.sample(sorted(ROWS), 2)]
    store.faults.delay_s = moments.uniform(0.002, 0.03)
    store.faults.refused = dict.fromkeys([*keys[:4], *parts], 2)
    store.faults.cut = dict.fromkeys(keys[4:], 1)


@pytest.mark.faults
@pytest.mark.parametrize("place", ["folder", "store"])
def test_a_hundred_kills_leave_every_row_once_and_none_wrong(tmp_path, store, forks, place):
    pytest.importorskip("onnxruntime")
    moments, log = random.Random(25), tmp_path / "log"
    options = ["--part-rows", PART_ROWS, "--batch-size", BATCH_ROWS, "--workers", 2, "--max-errors", 3]
    options += ["--device-target", "CPU", "--engine", "onnxruntime"]
    arguments = ["predict", str(tiny_weights(tmp_path)), store.uri("images"), *map(str, options)]
    forks.start([*arguments, "--out", str(tmp_path / "whole")], log)
    assert forks.wait() == 0, log.read_text()
    whole = _files(store, str(tmp_path / "whole"))
    begun, kills, in_the_middle, finished = time.monotonic(), 0, 0, 0
    name = out = ""
    for round_ in range(ROUNDS):
        if time.monotonic() - begun > MOST_SECONDS:
            break
        name = name or f"out{round_}"
        out = store.uri(name) if place == "store" else str(tmp_path / name)
        _disturb(store, moments, name)
        before = len(_files(store, out))
        process = forks.start([*arguments, "--out", out], log)
        deadline = time.monotonic() + (moments.uniform(0, 3) if round_ % 4 == 3 else 60)
        while time.monotonic() < deadline and Path(f"/proc/{process}").exists() and len(_files(store, out)) <= before:
            time.sleep(0.004)
        time.sleep(moments.uniform(0, 0.4))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        code = forks.wait()
        assert code in (0, -signal.SIGKILL), log.read_text()
        found = _files(store, out)
        kills += code != 0
        in_the_middle += code != 0 and len(found) > before
        _assert_nothing_wrong_is_sealed(found, whole)
        if "_SUCCESS" in found:
            name, finished = "", finished + 1
    print(f"{place}: {kills} kills, {in_the_middle} after something was published, {finished} directories finished")
    assert kills >= 4, "too slow a machine to prove anything"
    assert in_the_middle >= 2
    last = subprocess.run([COMMAND, *arguments, "--out", out], capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert _files(store, out) == whole
    checked = subprocess.run([COMMAND, "verify", out], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert f"{INPUTS} rows, one for each input" in checked.stdout
    rows = pq.read_table(tmp_path / "whole")
    assert rows["sample_id"].to_pylist() == list(range(INPUTS))
    assert [row for row, status in enumerate(rows["status"].to_pylist()) if status != "ok"] == list(UNREADABLE)
