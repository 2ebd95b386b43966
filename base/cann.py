"""CANN, the software of Ascend devices: where it lies on this machine, and what a process sees and lacks of it.

Reads files; imports nothing of CANN.
"""

import importlib.util
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

# Those that MindSpore 2.10 does not warn of: mindspore/run_check/_check_version.py.
ACCEPTED_VERSIONS = ("8.2", "8.3", "8.5", "9.0", "9.1")
# Python modules that come with CANN, by PYTHONPATH of set_env.sh: te compiles operators, hccl connects devices.
MODULES = ("te", "hccl")
# What these import (CANN 9.0, run-time dependencies); protobuf 3.20.x is left out, because MindSpore 2.10 needs 7.34.1.
PYTHON_NEEDS = ("decorator", "sympy", "cffi", "attrs", "pyyaml", "pathlib2", "absl-py", "requests", "psutil", "scipy")
# The usual folders of an installation: since CANN 8.5, and before. By root, or by a user into the home directory.
_PREFIXES = ("usr/local/Ascend", "~/Ascend")
_FOLDERS = ("cann", "ascend-toolkit")
_SCRIPT = "set_env.sh"


def is_accepted(version: str) -> bool:
    """Return whether MindSpore 2.10 accepts this version of CANN, such as "8.5.0.2.220" or "8.3.RC1"."""
    return ".".join(version.split(".")[:2]) in ACCEPTED_VERSIONS


def is_simulated(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether MindSpore simulates its Ascend devices in this process: a dry run, which needs no CANN."""
    return bool(environment.get("MS_SIMULATION_LEVEL"))


def absent_modules() -> tuple[str, ...]:
    """Return those of MODULES that this process could not import; imports none."""
    return tuple(name for name in MODULES if importlib.util.find_spec(name) is None)


def absent_needs() -> tuple[str, ...]:
    """Return those of PYTHON_NEEDS that are not installed."""
    return tuple(name for name in PYTHON_NEEDS if not _is_installed(name))


def toolkit_folders(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> list[Path]:
    """Return the folders where CANN may lie, the likeliest first: ASCEND_HOME_PATH, or all the usual ones."""
    if home := environment.get("ASCEND_HOME_PATH"):
        return [Path(home)]
    return [toolkit / version for toolkit in _usual_folders(environment, root) for version in (".", "latest")]


def find_set_env(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> Path | None:
    """Return the script of the installed CANN that a shell must source, None if it is in no usual place."""
    folders = _usual_folders(environment, root)
    if home := environment.get("ASCEND_HOME_PATH"):
        folders = [
            Path(home),
            Path(home).parent,
            *folders,
        ]  # before CANN 8.5 the script lay beside the version's folder
    return next((folder / _SCRIPT for folder in folders if (folder / _SCRIPT).is_file()), None)


def sourcing_advice(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> str:
    """Return what a user does so that a process finds CANN; begins with a verb, has no full stop."""
    script = find_set_env(environment, root)
    if script is not None:
        return f"run `source {script}` in this shell, then the command again"
    return (
        "install CANN and run `source .../set_env.sh` of it in this shell; "
        "usually it is /usr/local/Ascend/cann/set_env.sh or /usr/local/Ascend/ascend-toolkit/set_env.sh"
    )


def _usual_folders(environment: Mapping[str, str], root: Path) -> list[Path]:
    home = environment.get("HOME", "")
    return [
        root / prefix.replace("~", home.lstrip("/")) / folder
        for prefix in _PREFIXES
        if home or not prefix.startswith("~")
        for folder in _FOLDERS
    ]


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
