"""`make demo` as a newcomer runs it: the whole path, its accuracy, and that a second run has nothing to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _run(out: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "BIN": str(Path(sys.executable).parent), "OUT": str(out)}
    return subprocess.run(
        ["bash", "demo/run.sh"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_demo_ends_with_every_artefact_and_a_second_run_has_nothing_to_do(tmp_path):
    pytest.importorskip("sklearn", reason="its digits are the demo's images (extra demo)")
    first = _run(tmp_path / "out")
    assert first.returncode == 0, first.stderr[-2000:]
    assert "ERROR" not in first.stderr
    assert list((tmp_path / "out" / "run" / "compile").glob("*/sealed.json")), "the compiled step was not kept"
    assert "24 ok, 1 unsupported" in first.stdout
    for done in ("records/_SUCCESS", "run/_SUCCESS", "predictions/_SUCCESS"):
        assert (tmp_path / "out" / done).is_file()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("part-*.parquet")}
    again = _run(tmp_path / "out")
    assert again.returncode == 0, again.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
