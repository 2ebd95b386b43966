"""The environment in which MindSpore compiles, plans and runs for Ascend without a device: CANN's own, or stand-ins.

It must be set before a process starts, because the loader reads LD_LIBRARY_PATH only then.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from convnext_imagenet.launch.devices import SIMULATION_LEVEL
from convnext_imagenet.launch.dry_run.standins_cache import standins_folder

_LEVEL = "1"  # compile, plan and start kernels that do nothing; 2 and 3 need CANN's kernels
_MAIN = "libascendcl.so"


@dataclass(frozen=True)
class Simulation:
    """Variables to add to a process' environment, and whose libraries it then uses."""

    variables: Mapping[str, str]
    libraries: str


def simulate(devices: int, environment: Mapping[str, str] = os.environ) -> Simulation:
    """Return the environment of rank 0 of `devices` simulated Ascend devices, for a child of `environment`.

    Makes stand-ins if CANN is not installed. Raises LaunchError if that is not possible.
    """
    ranks = {SIMULATION_LEVEL: _LEVEL, "RANK_SIZE": str(devices), "RANK_ID": "0"}
    if cann := installed_cann(environment):
        path = _first(cann, environment.get("LD_LIBRARY_PATH"))
        return Simulation({**ranks, "LD_LIBRARY_PATH": path}, f"CANN in {cann}")
    root = standins_folder()
    variables = {
        "LD_LIBRARY_PATH": _first(root / "lib64", environment.get("LD_LIBRARY_PATH")),
        "PYTHONPATH": _first(root / "python", environment.get("PYTHONPATH")),
        "ASCEND_HOME_PATH": str(root),
        "ASCEND_OPP_PATH": str(root / "opp"),
    }
    return Simulation(ranks | variables, "stand-ins for CANN")


def installed_cann(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder of CANN's libraries that LD_LIBRARY_PATH or ASCEND_HOME_PATH names, or None."""
    folders = [Path(name) for name in environment.get("LD_LIBRARY_PATH", "").split(":") if name]
    if home := environment.get("ASCEND_HOME_PATH"):
        folders.append(Path(home) / "lib64")
    return next((folder for folder in folders if (folder / _MAIN).exists()), None)


def _first(folder: Path, others: str | None) -> str:
    return f"{folder}:{others}" if others else str(folder)
