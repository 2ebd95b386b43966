"""Units over two nodes: all are done once, lost ones again, and what cannot be done is named."""

import importlib
import os
import random
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cluster
ROUNDS = 3

JOBS = """
import os, pathlib, signal, time
from dataclasses import dataclass, replace

@dataclass(frozen=True)
class Task:
    path: str
    number: int = 0
    staging: str = ""

    @property
    def title(self):
        return f"unit {self.path}"

    def attempt(self, number):
        return replace(self, number=number)

def touch(task, advance):
    for _ in range(3):
        time.sleep(0.1)
        advance(1)
    with open(task.path, "a") as file:
        file.write(f"{task.number} {os.environ['RAY_NODE_ID'] if 'RAY_NODE_ID' in os.environ else ''}\\n")

def die_at_first(task, advance):
    advance(1)
    if task.number == 0 and task.path.endswith("1"):
        os.kill(os.getpid(), signal.SIGKILL)
    touch(task, advance)

def die(task, advance):
    if task.path.endswith("1"):
        os.kill(os.getpid(), signal.SIGKILL)
    touch(task, advance)

def fail(task, advance):
    from convnext_imagenet.ingest.errors import FailedIngestError
    if task.path.endswith("1"):
        raise FailedIngestError(f"{task.path}: changed")
    time.sleep(0.2)
"""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory):
    """A module that workers can import, since nodes are started after it is on their path."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "cluster_jobs.py").write_text(JOBS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])))
        yield importlib.import_module("cluster_jobs")


@pytest.fixture
def executor(jobs, two_nodes, tmp_path: Path):
    """An executor over both nodes."""
    from convnext_imagenet.launch.cluster.nodes import WorkerResources
    from convnext_imagenet.launch.cluster.session import connected_to_ray
    from convnext_imagenet.launch.cluster.units import ClusterExecutor

    (tmp_path / "out").mkdir()
    with connected_to_ray(two_nodes.address, 1) as ray:
        _wait_for_nodes(ray, 2)
        yield ClusterExecutor(ray, WorkerResources(), tmp_path / "out")


def _wait_for_nodes(ray: Any, count: int) -> None:
    from convnext_imagenet.launch.cluster.session import live_nodes

    end = time.monotonic() + 60
    while len(live_nodes(ray)) != count:
        assert time.monotonic() < end
        time.sleep(0.1)


def _tasks(jobs, folder: Path, count: int) -> list[Any]:
    return [jobs.Task(str(folder / f"unit{number}")) for number in range(count)]


def _attempts(tasks: list[Any]) -> list[str]:
    return [Path(task.path).read_text().split()[0] for task in tasks]


def test_every_unit_is_done_once_and_counted(jobs, executor, tmp_path: Path):
    told: list[int] = []
    units: list[int] = []
    tasks = _tasks(jobs, tmp_path, 9)
    executor.run(jobs.touch, iter(tasks), 9, told.append, lambda: units.append(1))
    assert [len(Path(task.path).read_text().splitlines()) for task in tasks] == [1] * 9
    assert sum(told) == 27
    assert min(told) >= 0
    assert len(units) == 9


def test_a_unit_whose_worker_dies_is_done_by_another(jobs, executor, tmp_path: Path, caplog):
    tasks = _tasks(jobs, tmp_path, 4)
    told: list[int] = []
    executor.run(jobs.die_at_first, iter(tasks), 4, told.append)
    assert _attempts(tasks) == ["0", "1", "0", "0"]
    assert sum(told) == 16
    assert "unit1: its worker died" in caplog.text


def test_a_unit_that_kills_every_worker_is_named_in_the_end(jobs, executor, tmp_path: Path):
    from convnext_imagenet.launch.errors import FailedLaunchError

    with pytest.raises(
        FailedLaunchError, match=r"unit .*unit1: its worker died 3 times, .* run the same command again"
    ):
        executor.run(jobs.die, iter(_tasks(jobs, tmp_path, 3)), 3, lambda count: None)


def test_an_expected_error_ends_the_job_as_it_is(jobs, executor, tmp_path: Path):
    from convnext_imagenet.ingest.errors import FailedIngestError

    with pytest.raises(FailedIngestError) as caught:
        executor.run(jobs.fail, iter(_tasks(jobs, tmp_path, 30)), 30, lambda count: None)
    assert str(caught.value) == f"{tmp_path / 'unit1'}: changed"


def test_a_stop_raises_interrupted_and_leaves_no_worker(jobs, executor, tmp_path: Path):
    from convnext_imagenet.base.errors import Interrupted

    asked = iter([False] * 5)
    stopping = replace(executor, is_stopped=lambda: next(asked, True))
    with pytest.raises(Interrupted, match="run the same command again to resume in"):
        stopping.run(jobs.touch, iter(_tasks(jobs, tmp_path, 500)), 500, lambda count: None)
    end = time.monotonic() + 30
    while executor.ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < end, "the workers' cores are not given back"
        time.sleep(0.2)


def test_two_jobs_of_a_cluster_on_one_output_are_refused(jobs, executor, tmp_path: Path, monkeypatch):
    from convnext_imagenet.base.errors import ArtefactError
    from convnext_imagenet.launch.cluster import units

    monkeypatch.setattr(units, "_NAME_SECONDS", 0.5)
    refused: list[Exception] = []

    def try_another(count: int) -> None:
        if not refused:
            with pytest.raises(ArtefactError, match="another job of this cluster is writing here") as caught:
                executor.run(jobs.touch, iter(_tasks(jobs, tmp_path, 1)), 1, lambda count: None)
            refused.append(caught.value)

    executor.run(jobs.touch, iter(_tasks(jobs, tmp_path, 2)), 2, try_another)
    assert refused
    executor.run(jobs.touch, iter(_tasks(jobs, tmp_path, 2)), 2, lambda count: None)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_node_killed_at_a_random_moment_costs_no_unit(jobs, executor, two_nodes, tmp_path: Path, seed: int):
    moment_s = random.Random(seed).uniform(0.5, 8.0)

    def kill_and_replace() -> None:
        time.sleep(moment_s)
        two_nodes.kill()
        two_nodes.add()

    tasks = _tasks(jobs, tmp_path, 30)
    told: list[int] = []
    killer = threading.Thread(target=kill_and_replace)
    killer.start()
    try:
        executor.run(jobs.touch, iter(tasks), 30, told.append)
    finally:
        killer.join()
    assert all(Path(task.path).exists() for task in tasks), f"killed after {moment_s:.2f} s"
    assert sum(told) == 90
