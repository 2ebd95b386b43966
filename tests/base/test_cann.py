"""Where CANN is looked for, and what a user is told to source."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from convnext_imagenet.base import cann
from convnext_imagenet.base.cann import (
    ACCEPTED_VERSIONS,
    PYTHON_NEEDS,
    absent_needs,
    find_set_env,
    is_accepted,
    sourcing_advice,
    toolkit_folders,
)

ROOT = Path(__file__).parents[2]

NEW, OLD = "usr/local/Ascend/cann", "usr/local/Ascend/ascend-toolkit"
OF_USER, HOME = "people/u/Ascend/cann", {"HOME": "/people/u"}


def _install(root: Path, *folders: str) -> None:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        (root / folder / "set_env.sh").write_text("")


@pytest.mark.parametrize(
    ("installed", "found"),
    [((), None), ((OLD,), OLD), ((OLD, NEW), NEW), ((OF_USER,), OF_USER), ((OF_USER, OLD), OLD)],
)
def test_the_script_is_found_in_the_usual_places(tmp_path: Path, installed: tuple[str, ...], found: str | None) -> None:
    _install(tmp_path, *installed)
    assert find_set_env(HOME, tmp_path) == (found and tmp_path / found / "set_env.sh")


@pytest.mark.parametrize("home", ["opt/cann-9.0", "opt/ascend-toolkit/latest"])
def test_the_script_of_the_stated_installation_wins(tmp_path: Path, home: str) -> None:
    _install(tmp_path, NEW, "opt/cann-9.0", "opt/ascend-toolkit")
    script = find_set_env({"ASCEND_HOME_PATH": str(tmp_path / home)}, tmp_path)
    assert script == tmp_path / home.removesuffix("/latest") / "set_env.sh"


def test_a_folder_of_that_name_is_no_script(tmp_path: Path) -> None:
    (tmp_path / NEW / "set_env.sh").mkdir(parents=True)
    assert find_set_env({}, tmp_path) is None


def test_the_advice_names_the_script_or_where_it_would_be(tmp_path: Path) -> None:
    assert sourcing_advice({}, tmp_path).startswith("install CANN and run `source ")
    _install(tmp_path, OLD)
    assert f"run `source {tmp_path / OLD / 'set_env.sh'}`" in sourcing_advice({}, tmp_path)


def test_the_toolkit_is_the_stated_one_only_or_in_one_of_the_usual_folders(tmp_path: Path) -> None:
    assert toolkit_folders({"ASCEND_HOME_PATH": "/opt/cann"}, tmp_path) == [Path("/opt/cann")]
    usual = toolkit_folders(HOME, tmp_path)
    assert usual[0] == tmp_path / NEW
    assert tmp_path / OLD / "latest" in usual
    assert tmp_path / OF_USER in usual
    assert len(toolkit_folders({}, tmp_path)) == 4


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("8.5.0.2.220", True),
        ("8.3.RC1", True),
        ("9.1", True),
        ("8.1.RC1", False),
        ("8.20.1", False),
        ("9", False),
        ("10.0", False),
        ("", False),
    ],
)
def test_a_version_is_accepted_by_its_first_two_numbers(version: str, expected: bool) -> None:
    assert is_accepted(version) == expected


def test_the_accepted_versions_are_those_of_the_installed_mindspore() -> None:
    spec = cann.importlib.util.find_spec("mindspore")
    source = (Path(spec.origin).parent / "run_check" / "_check_version.py").read_text()
    ascend = source[source.index("class AscendEnvChecker") :]
    listed = re.search(r"self\.version = \[(.*?)\]", ascend).group(1)
    assert tuple(re.findall(r'"([\d.]+)"', listed)) == ACCEPTED_VERSIONS


def test_the_extra_installs_what_cann_imports() -> None:
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert tuple(re.split("[<>=]", line)[0] for line in optional["ascend"]) == PYTHON_NEEDS


def test_needs_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> object:
        if name in ("sympy", "attrs"):
            raise PackageNotFoundError(name)
        return object()

    monkeypatch.setattr(cann, "distribution", find)
    assert absent_needs() == ("sympy", "attrs")


def test_modules_are_looked_for_and_never_imported(tmp_path: Path) -> None:
    """Importing te takes seconds, and fails in ways of its own."""
    (tmp_path / "te").mkdir()
    (tmp_path / "te" / "__init__.py").write_text("raise SystemExit('imported')")
    program = "from convnext_imagenet.base.cann import absent_modules; print(absent_modules())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert done.stdout == "('hccl',)\n"
