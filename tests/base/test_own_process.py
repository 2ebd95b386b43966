"""A process of ours starts and ends without what it does not need; the process of a library's user stays as it is."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from convnext_imagenet.base.console import Program
from convnext_imagenet.base.own_process import command_began, has_started

_OURS = "from convnext_imagenet.base.own_process import own_process; own_process()\n"


@pytest.fixture
def pandas_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once any process has imported pandas, which is a stand-in."""
    mark = tmp_path / "imported"
    (tmp_path / "pandas.py").write_text(f"open({str(mark)!r}, 'w')\nvars()['__version__'] = '0.1'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return mark


def run_python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("begin", "is_imported"), [("", True), (_OURS, False)], ids=["library", "ours"])
def test_pyarrow_imports_pandas_for_a_library_only(pandas_imported: Path, begin: str, is_imported: bool) -> None:
    run_python(f"{begin}import pyarrow, convnext_imagenet.base.parquet\npyarrow.array([1])")
    assert pandas_imported.exists() == is_imported


def test_pandas_can_be_imported_later(pandas_imported: Path) -> None:
    run_python(f"{_OURS}import convnext_imagenet.base.parquet\nimport pandas")
    assert pandas_imported.exists()


def test_no_process_of_a_build_imports_pandas(pandas_imported: Path) -> None:
    folder = pandas_imported.parent
    for name in ("dark", "light"):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(5):
            pixels = np.full((16, 16, 3), number * 40 + (name == "light"), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{number}.png")
    program = "from convnext_imagenet.ingest.cli import main; main()"
    command = [sys.executable, "-c", program, "build", str(folder / "images"), "--out", str(folder / "records")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert not pandas_imported.exists()


def test_searches_for_garbage_are_rare_until_started_and_never_at_the_end() -> None:
    program = f"""
import atexit, gc
usual = gc.get_threshold()
atexit.register(lambda: print(gc.get_freeze_count() > 1000))
{_OURS}
from convnext_imagenet.base.own_process import command_began, has_started
kept = [[] for _ in range(1000)]
print(gc.get_threshold()[0] > usual[0], gc.get_freeze_count() > 1000, end=" ")
has_started()
print(gc.get_threshold() == usual, gc.get_freeze_count() > 1000, end=" ")
gc.unfreeze()
"""
    assert run_python(program) == "True False True True True"


def test_a_program_that_python_calls_leaves_the_process_alone() -> None:
    before = gc.get_threshold(), gc.get_freeze_count()

    @click.group(cls=Program)
    def program() -> None:
        pass

    @program.command()
    def work() -> None:
        has_started()

    assert CliRunner().invoke(program, ["work"]).exit_code == 0
    assert (gc.get_threshold(), gc.get_freeze_count()) == before


def test_a_program_of_its_own_owns_its_process() -> None:
    program = """
import sys
import click
from convnext_imagenet.base.console import Program
from convnext_imagenet.base.own_process import is_own_process
@click.group(cls=Program)
def program():
    pass
@program.command()
def work():
    print(is_own_process())
sys.argv[1:] = ["work"]
program()
"""
    assert run_python(program) == "True"


def test_a_command_began_when_its_process_did() -> None:
    program = (
        "import time; time.sleep(0.5)\n"
        f"{_OURS}from convnext_imagenet.base.own_process import command_began\n"
        "print(time.monotonic() - command_began())"
    )
    begin = time.monotonic()
    age_s = float(run_python(program))
    assert 0.5 <= age_s <= time.monotonic() - begin + 0.02  # a tick of the kernel's clock is 0.01 s


def test_what_a_library_calls_begins_now() -> None:
    before = time.monotonic()
    assert before <= command_began() <= time.monotonic()
