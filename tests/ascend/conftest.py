"""Dry runs of all configurations, once a session; everything here is skipped where stand-ins cannot be made."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import pytest

from convnext_imagenet.launch.devices import SIMULATION_LEVEL
from convnext_imagenet.launch.dry_run.simulation import simulate
from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.train.dry_run import DryRunPlan, DryRunReport, dry_runs

from .configurations import CLASSES, FULL, TINY, Audited

REGENERATE = "CONVNEXT_REGENERATE"
_AT_ONCE = min(2, len(os.sched_getaffinity(0)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.ascend)


@pytest.fixture(scope="session")
def simulated() -> Mapping[str, str]:
    """The environment of a process on one simulated device, or a skip that says why there is none."""
    try:
        variables = simulate(1).variables
    except LaunchError as reason:
        pytest.skip(str(reason))
    quiet = {"GLOG_v": "3", "MS_SUBMODULE_LOG_v": "{DISTRIBUTED:3}"}
    return {name: value for name, value in os.environ.items() if name != SIMULATION_LEVEL} | quiet | variables


@pytest.fixture(scope="session")
def reports(simulated: Mapping[str, str]) -> Mapping[str, DryRunReport]:
    """What each configuration of TINY and FULL needs, by its name."""
    every = sorted((TINY | FULL).items(), key=lambda item: (item[0] in FULL, item[1].devices))
    jobs = [dict(group) for _, group in groupby(every, key=lambda item: (item[0] in FULL, item[1].devices))]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(_reports_of, jobs)
    return {name: report for job in found for name, report in job.items()}


def _reports_of(audited: Mapping[str, Audited]) -> dict[str, DryRunReport]:
    """The configurations' reports, from one process: they share a number of devices."""
    devices = next(iter(audited.values())).devices
    found = dry_runs([one.config for one in audited.values()], DryRunPlan("Ascend", devices, CLASSES))
    return dict(zip(audited, found, strict=True))


@pytest.fixture(scope="session")
def is_regenerating() -> bool:
    """Whether the checked-in files are to be written anew."""
    return bool(os.environ.get(REGENERATE))
