"""What counts as slower, that two checkouts are really two, and what is kept of figures."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("compare")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("figures")


@pytest.mark.parametrize(
    ("before", "after", "slower"),
    [
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], False),
        ([1.0, 1.1, 1.2], [1.05, 1.15, 1.25], False),
        ([1.0, 1.1, 1.2], [1.4, 1.5, 1.6], True),
        ([1.0, 1.1, 1.2], [0.4, 0.5, 0.6], False),
        ([1.0, 1.1, 9.0], [1.4, 1.5, 1.6], False),
        ([1.0], [2.0], True),
        ([2.10, 2.11, 2.12], [2.15, 2.16, 2.17], False),
    ],
)
def test_slower_is_more_than_the_spread(
    compare: ModuleType, before: list[float], after: list[float], slower: bool
) -> None:
    assert compare.is_slower(before, after) is slower


def test_each_side_imports_its_own_commit(compare: ModuleType, tmp_path: Path) -> None:
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("not a git checkout")
    script = "import convnext_imagenet.base.console as module, os; print(os.path.realpath(module.__file__))"
    with compare.checkouts(["HEAD", "WORK"], tmp_path) as sites:
        places = [
            subprocess.run(
                [sys.executable, "-c", script],
                env={"PYTHONPATH": str(site)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for site in sites
        ]
        assert places == [str(tmp_path / "tree-0" / "base" / "console.py"), str(ROOT / "base" / "console.py")]
    assert not (tmp_path / "tree-0").exists()


def test_a_kept_line_says_when_which_commit_and_where(
    figures: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(figures, "HISTORY", tmp_path / "history")
    for images_s in (1234.5678, 0.00012345):
        figures.keep("read", "abc1234", [{"what": "ours", "images_s": images_s, "rounds": 7, "slower": False}])
    lines = [json.loads(line) for line in (tmp_path / "history" / "read.jsonl").read_text().splitlines()]
    assert [line["rows"] for line in lines] == [
        [{"what": "ours", "images_s": images_s, "rounds": 7, "slower": False}] for images_s in (1235.0, 0.0001234)
    ]
    assert {line["commit"] for line in lines} == {"abc1234"}
    assert all(line["date"] and "cores" in line["processor"] for line in lines)
