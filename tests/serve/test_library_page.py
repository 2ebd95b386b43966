"""docs/library.md: every public path can be imported, has its signature there, and is used by an example that runs."""

import contextlib
import importlib
import inspect
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.schema import Row

from ..records_of import finished_records
from .conftest import build_records, picture, write_checkpoint

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "library.md").read_text()
PATHS = list(dict.fromkeys(re.findall(r"`(convnext_imagenet(?:\.\w+)+)`", PAGE)))
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
WIDTH = 110


def _value(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _annotation(kind: Any) -> str:
    text = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    return re.sub(r"(?:\w+\.)+(?=\w)", "", text)


def _parameter(parameter: inspect.Parameter) -> str:
    star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
    shown = f"{star}{parameter.name}: {_annotation(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return shown
    is_plain = parameter.default is None or isinstance(parameter.default, bool | int | float | str | tuple)
    return f"{shown} = {parameter.default!r}" if is_plain else f"{shown} = ..."


def _signature(path: str) -> str:
    """The signature of what `path` names as it stands on the page, wrapped where it is long."""
    value, name = _value(path), path.rpartition(".")[2]
    if isinstance(value, dict):
        return f"{name}: dict[str, {type(next(iter(value.values()))).__name__}]"
    if isinstance(value, type) and issubclass(value, BaseException):
        return f"class {name}({value.__bases__[0].__name__}): exit_code = {value.exit_code}"
    found = inspect.signature(value)
    words = list(_parameters(found))
    end = ")" if isinstance(value, type) else f") -> {_annotation(found.return_annotation)}"
    line = f"{name}({', '.join(words)}{end}"
    return line if len(line) <= WIDTH else "\n".join([f"{name}(", *(f"    {word}," for word in words), end])


def _parameters(found: inspect.Signature) -> Iterator[str]:
    is_open = True
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and is_open:
            is_open = False
            yield "*"
        is_open = is_open and parameter.kind is not parameter.VAR_POSITIONAL
        yield _parameter(parameter)


@pytest.mark.parametrize("path", PATHS)
def test_every_public_path_can_be_imported_and_is_documented(path):
    value = _value(path)
    assert value.__doc__ if callable(value) else value
    assert any(re.search(rf"\b{path.rpartition('.')[2]}\b", example) for example in EXAMPLES), "no example uses it"


def test_the_page_names_paths_of_every_room_that_a_library_user_needs():
    assert {path.split(".")[1] for path in PATHS} == {"base", "records", "model", "serve", "train"}


def test_the_page_has_the_signatures_of_every_public_name():
    should = "\n".join(map(_signature, PATHS))
    assert f"\n```\n{should}\n```\n" in PAGE.partition("## Signatures")[2], f"the page should have:\n{should}"


def _run(examples: list[str], names: dict[str, Any]) -> list[str]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n".join(examples), "library.md", "exec"), names)
    return printed.getvalue().splitlines()


def test_the_examples_run_one_after_the_other(tmp_path, monkeypatch):
    images = [picture(seed) for seed in range(3)]
    build_records(tmp_path / "records-out", images, [0, 1, 2])
    write_checkpoint(tmp_path / "runs" / "paper-tiny")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(images[0])
    monkeypatch.chdir(tmp_path)
    lines = _run([example for example in EXAMPLES if "load_config" not in example], {})
    assert lines[0] == lines[4] == f"val_0 n00000000 {len(images[0])} bytes"
    assert lines[1].startswith("True 1 absent: no such directory")
    assert lines[2:4] == ["jpeg 40 30 (32, 32, 3)", "[0, 1, 2] True"]
    assert lines[6] == "0 problems"
    assert "rows=3" in lines[7]
    assert "statuses={'ok': 1}" in lines[8]
    assert lines[9:] == ["0 problems", "(96, 192, 384, 768) True"]
    assert (tmp_path / "predictions-out" / "_SUCCESS").is_file()


@pytest.mark.slow
def test_the_example_that_trains_runs(tmp_path, monkeypatch):
    rows = [Row(picture(seed), seed % 2, seed, f"image_{seed}", 30, 40) for seed in range(32)]
    classes = [ClassEntry(index, f"n{index:08d}", f"name {index}") for index in range(2)]
    finished_records(tmp_path / "records-out", {"train": rows, "val": rows[:4]}, classes, {}, is_verified=False)
    monkeypatch.chdir(tmp_path)
    (example,) = [example for example in EXAMPLES if "load_config" in example]
    lines = _run([example], {"Path": Path})
    assert [line.split()[:2] for line in lines] == [["epoch", "1"], ["epoch", "2"], ["best", "epoch"]]
