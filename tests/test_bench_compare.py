"""What counts as slower, and that two checkouts are really two."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_compare", ROOT / "bench" / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_compare"] = module
    spec.loader.exec_module(module)
    return module


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


def test_the_history_has_a_line_for_each_kept_run(
    compare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "HISTORY", tmp_path)
    for _ in range(2):
        compare.keep("everyday", "abc", [{"case": "show", "after_cpu_s": 0.1}])
    lines = (tmp_path / "everyday.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert '"commit": "abc"' in lines[0]
    assert "cores" in lines[0]
