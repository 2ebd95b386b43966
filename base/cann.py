"""Where CANN, the software of Ascend devices, lies on this machine. Reads files; imports nothing of CANN."""

import os
from collections.abc import Mapping
from pathlib import Path

# The usual folders of an installation: since CANN 8.5, and before. By root, or by a user into the home directory.
_PREFIXES = ("usr/local/Ascend", "~/Ascend")
_FOLDERS = ("cann", "ascend-toolkit")
_SCRIPT = "set_env.sh"


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
