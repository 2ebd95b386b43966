"""Hash seed, cores, directory, locale, time zone and umask: none of them is in the bytes."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [str(Path(sys.executable).parent / "convnext-ingest"), "build"]
CHANGES = {
    "hash seed": {"env": {"PYTHONHASHSEED": "12345"}},
    "one core": {"prefix": ["taskset", "-c", "0"]},
    "workers": {"options": ["--workers", "3"]},
    "locale": {"env": {"LC_ALL": "C", "LANG": "C"}},
    "time zone": {"env": {"TZ": "Pacific/Kiritimati"}},
    "umask": {"umask": 0o077},
    "directory": {"folder": "an other/plâce"},
}


@pytest.fixture(scope="module")
def plain(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of the command as it stands."""
    out = tmp_path_factory.mktemp("plain") / "records"
    _build(tree, out)
    return out


def _build(tree: Path, out: Path, env=None, prefix=(), options=(), umask: int = 0o022) -> None:
    command = [*prefix, *COMMAND, str(tree), "--out", str(out), "--classes", "found", *(options or ["--workers", "1"])]
    result = subprocess.run(
        command, env=os.environ | (env or {}), umask=umask, cwd=tree, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def _build_changed(tree: Path, folder: Path, changes: list[dict]) -> Path:
    """The records under some changes of the surroundings."""
    merged: dict = {"env": {}}
    for change in changes:
        merged["env"] |= change.get("env", {})
        merged |= {name: value for name, value in change.items() if name != "env"}
    place = folder / merged.pop("folder", "here")
    tree = Path(shutil.copytree(tree, place / "raw", copy_function=shutil.copyfile))
    _build(tree, place / "out", **merged)
    return place / "out"


def _modes(out: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.slow
def test_everything_varied_at_once(bench, plain: Path, tree: Path, tmp_path: Path):
    out = _build_changed(tree, tmp_path, list(CHANGES.values()))
    assert bench.digests(out) == bench.digests(plain)
    assert _modes(out) == {0o600}
    assert _modes(plain) == {0o644}


def test_directory_that_mindspore_would_not_find_is_refused(tree: Path, tmp_path: Path):
    out = os.fsencode(tmp_path) + b"/\xff"
    result = subprocess.run([*COMMAND, str(tree), "--out", out, "--classes", "found"], capture_output=True, text=True)
    assert (result.returncode, "only paths that are UTF-8 text" in result.stderr) == (1, True)
    assert not Path(os.fsdecode(out)).exists()


@pytest.mark.faults
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_varied_alone(bench, plain: Path, tree: Path, tmp_path: Path, change: dict):
    assert bench.digests(_build_changed(tree, tmp_path, [change])) == bench.digests(plain)
