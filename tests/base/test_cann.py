"""Where CANN is looked for, and what a user is told to source."""

from pathlib import Path

import pytest

from convnext_imagenet.base.cann import find_set_env, sourcing_advice, toolkit_folders

NEW, OLD = "usr/local/Ascend/cann", "usr/local/Ascend/ascend-toolkit"
OF_USER, HOME = "home/u/Ascend/cann", {"HOME": "/home/u"}


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
