"""docs/library.md: every public path can be imported, every example runs on real directories."""

import contextlib
import importlib
import io
import re
from pathlib import Path

import pytest

from .conftest import build_records, picture, write_checkpoint

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "library.md").read_text()
PATHS = sorted(set(re.findall(r"`(convnext_imagenet(?:\.\w+)+)`", PAGE)))


@pytest.mark.parametrize("path", PATHS)
def test_every_public_path_can_be_imported_and_is_documented(path):
    module, _, name = path.rpartition(".")
    value = getattr(importlib.import_module(module), name)
    assert value.__doc__ if callable(value) else value


def test_the_page_names_paths_of_every_room_that_a_library_user_needs():
    assert {path.split(".")[1] for path in PATHS} == {"base", "records", "model", "serve", "train"}


def test_the_examples_run_one_after_the_other(tmp_path, monkeypatch):
    images = [picture(seed) for seed in range(3)]
    build_records(tmp_path / "records-out", images, [0, 1, 2])
    write_checkpoint(tmp_path / "runs" / "paper-tiny")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(images[0])
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)), "library.md", "exec"), {})
    lines = printed.getvalue().splitlines()
    assert lines[0] == lines[1] == f"val_0 n00000000 {len(images[0])} bytes"
    assert "rows=3" in lines[3]
    assert "statuses={'ok': 1}" in lines[4]
    assert (tmp_path / "predictions-out" / "_SUCCESS").is_file()
