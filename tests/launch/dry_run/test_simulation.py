"""The environment of a simulated device: CANN's own libraries where they are, stand-ins elsewhere."""

from pathlib import Path

import pytest

from convnext_imagenet.launch.dry_run import simulation
from convnext_imagenet.launch.dry_run.simulation import installed_cann, simulate


@pytest.fixture
def cann(tmp_path: Path) -> Path:
    """A folder where CANN is installed."""
    (tmp_path / "toolkit" / "lib64").mkdir(parents=True)
    (tmp_path / "toolkit" / "lib64" / "libascendcl.so").write_text("")
    return tmp_path / "toolkit"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where stand-ins would lie."""
    monkeypatch.setattr(simulation, "standins_folder", lambda: tmp_path / "cann")
    return tmp_path / "cann"


def test_stand_ins_come_before_what_the_user_has(made: Path) -> None:
    found = simulate(8, {"LD_LIBRARY_PATH": "/own/lib", "PYTHONPATH": "/own/python", "ASCEND_HOME_PATH": "/absent"})
    assert found.libraries == "stand-ins for CANN"
    assert found.variables == {
        "MS_SIMULATION_LEVEL": "1",
        "RANK_SIZE": "8",
        "RANK_ID": "0",
        "LD_LIBRARY_PATH": f"{made}/lib64:/own/lib",
        "PYTHONPATH": f"{made}/python:/own/python",
        "ASCEND_HOME_PATH": str(made),
        "ASCEND_OPP_PATH": f"{made}/opp",
    }


def test_an_empty_path_names_no_folder(made: Path) -> None:
    """An empty part of LD_LIBRARY_PATH means the working directory."""
    assert simulate(1, {"LD_LIBRARY_PATH": ""}).variables["LD_LIBRARY_PATH"] == f"{made}/lib64"


@pytest.mark.parametrize("variable", ["LD_LIBRARY_PATH", "ASCEND_HOME_PATH"])
def test_an_installed_cann_is_used_and_said(cann: Path, variable: str) -> None:
    value = f"/absent:{cann}/lib64" if variable == "LD_LIBRARY_PATH" else str(cann)
    assert installed_cann({variable: value}) == cann / "lib64"
    found = simulate(2, {variable: value})
    assert found.libraries == f"CANN in {cann}/lib64"
    assert "ASCEND_HOME_PATH" not in found.variables
    assert found.variables["LD_LIBRARY_PATH"].split(":")[0] == f"{cann}/lib64"


def test_without_cann_there_is_none(tmp_path: Path) -> None:
    assert installed_cann({"LD_LIBRARY_PATH": f":{tmp_path}", "ASCEND_HOME_PATH": str(tmp_path)}) is None
