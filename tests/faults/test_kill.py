"""SIGKILL at any moment: the same command goes on, and ends with the bytes of an undisturbed run."""

import random
import shutil
import time
from pathlib import Path

import pytest

NAMED_STEPS = {
    "before the plan has its name": "rename .plan.json",
    "before anything is staged": "mkdir .staging/imagenet-train-00000-of-00001",
    "before the shard moves": "rename .staging/imagenet-train-00000-of-00001/imagenet-train-00000-of-00001.mindrecord",
    "between a shard and its index": (
        "rename .staging/imagenet-train-00000-of-00001/imagenet-train-00000-of-00001.mindrecord.db"
    ),
    "before the receipt is written": "open train/.imagenet-train-00000-of-00001.json",
    "before the receipt has its name": "rename train/.imagenet-train-00000-of-00001.json",
    "between two shards": "mkdir .staging/imagenet-val-00000-of-00001",
    "before the quarantine has its name": "rename .quarantine.parquet",
    "before the manifest has its name": "rename .manifest.json",
    "between manifest and mark": "open ._SUCCESS",
    "after the mark": "mkdir .staging",
}
ALONE = {"is_alone": True, "rows_per_shard": 64}


@pytest.fixture(scope="module")
def undisturbed(bench, tmp_path_factory) -> tuple[list[str], dict[str, str]]:
    """The steps of a run in one process, and what it makes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, log = bench.run(folder / "records", steps=str(folder / "steps"), **ALONE)
    assert code == 0, log
    return (folder / "steps").read_text().splitlines(), bench.digests(folder / "records")


def _kill_at(bench, step: int, out: Path, expected: dict[str, str]) -> None:
    assert bench.run(out, at=step, **ALONE)[0] == -9
    bench.assert_marked_means_whole(out)
    code, log = bench.run(out, **ALONE)
    assert code == 0, log
    assert bench.digests(out) == expected


@pytest.mark.parametrize("step", NAMED_STEPS.values(), ids=NAMED_STEPS)
def test_killed_at_a_step_of_the_protocol(bench, undisturbed, tmp_path: Path, step: str):
    steps, expected = undisturbed
    last = len(steps) - 1 - steps[::-1].index(step)
    _kill_at(bench, last, tmp_path / "out", expected)


@pytest.mark.faults
def test_killed_at_every_step(bench, undisturbed, tmp_path: Path):
    steps, expected = undisturbed
    for step in range(len(steps)):
        _kill_at(bench, step, tmp_path / str(step), expected)


def _kill_at_random(bench, expected: dict[str, str], out: Path, rounds: int) -> None:
    """Kill so many runs, each going on from the last; finished records are compared and begun anew."""
    moments = random.Random(rounds)
    started = time.monotonic()
    assert bench.run(out)[0] == 0
    typical_seconds = time.monotonic() - started
    for _ in range(rounds):
        if (out / "_SUCCESS").exists():
            shutil.rmtree(out)
        while not bench.run_and_kill(out, moments.uniform(0, typical_seconds)):
            assert bench.digests(out) == expected
            shutil.rmtree(out)
        bench.assert_marked_means_whole(out)
    code, log = bench.run(out)
    assert code == 0, log
    assert bench.digests(out) == expected


@pytest.mark.slow
def test_killed_ten_times_at_random(bench, reference: Path, tmp_path: Path):
    _kill_at_random(bench, bench.digests(reference), tmp_path / "out", 10)


@pytest.mark.faults
def test_killed_two_hundred_times_at_random(bench, reference: Path, tmp_path: Path):
    _kill_at_random(bench, bench.digests(reference), tmp_path / "out", 200)


def _damage(out: Path) -> None:
    shard = out / "train" / "imagenet-train-00000-of-00001.mindrecord"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    (out / "report.html").unlink()


def _steps_of_repair(bench, finished: Path, folder: Path) -> list[str]:
    shutil.copytree(finished, folder / "out")
    _damage(folder / "out")
    code, log = bench.run(folder / "out", "--repair", steps=str(folder / "steps"), **ALONE)
    assert code == 0, log
    return (folder / "steps").read_text().splitlines()


def _kill_repair_at(bench, step: int, finished: Path, out: Path) -> None:
    expected = bench.digests(finished)
    shutil.copytree(finished, out)
    _damage(out)
    assert bench.run(out, "--repair", at=step, **ALONE)[0] == -9
    code, log = bench.run(out, "--repair", **ALONE)
    assert code == 0, log
    assert bench.digests(out) == expected


@pytest.fixture(scope="module")
def finished(bench, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "records"
    assert bench.run(out, **ALONE)[0] == 0
    return out


@pytest.mark.slow
def test_a_repair_that_is_killed_in_the_middle_is_repeated(bench, finished: Path, tmp_path: Path):
    steps = _steps_of_repair(bench, finished, tmp_path)
    _kill_repair_at(bench, len(steps) // 2, finished, tmp_path / "killed")


@pytest.mark.faults
def test_a_repair_that_is_killed_at_any_step_is_repeated(bench, finished: Path, tmp_path: Path):
    for step in range(len(_steps_of_repair(bench, finished, tmp_path))):
        _kill_repair_at(bench, step, finished, tmp_path / str(step))
