"""The house: who may import whom, and what stays out of libraries."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "base": set(),
    "records": {"base"},
    "model": {"base"},
    "launch": {"base", "records", "model"},
    "ingest": {"base", "records", "launch"},
    "serve": {"base", "records", "model", "launch"},
    "train": {"base", "records", "model", "launch", "serve"},
}
FILES = [path for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))]


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_follow_the_arrows(path):
    room = path.relative_to(ROOT).parts[0]
    for module in _imports(path):
        assert not module.startswith("."), f"{module}: imports are absolute"
        top, _, rest = module.partition(".")
        assert top not in MAY_IMPORT, f"{module}: a bare import would load a second copy"
        if top == "convnext_imagenet":
            assert rest.split(".")[0] in {room, *MAY_IMPORT[room]}, f"{room}/ may not import {module}"


# options.py and cli_COMMAND.py hold what a cli.py would be too long with.
TALKING = re.compile(r"(cli|cli_\w+|screen|options)\.py")


@pytest.mark.parametrize("path", [p for p in FILES if not TALKING.fullmatch(p.name)], ids=_name)
def test_libraries_do_not_talk_to_the_screen(path):
    assert not {"click", "tqdm"} & {module.partition(".")[0] for module in _imports(path)}
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert "print" not in {call.id for call in calls if isinstance(call, ast.Name)}


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_files_say_what_they_own(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "a module begins by saying what it owns"
    assert path.name not in {"utils.py", "common.py", "helpers.py"}


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_public_functions_and_classes_have_docstrings(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_assert_never_checks_input(path):
    assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]


def test_help_does_not_load_heavy_modules():
    for path in (path for path in FILES if path.name.startswith("cli")):
        top_level = {
            alias.name if isinstance(node, ast.Import) else node.module
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        heavy = {m for m in top_level if re.match(r"(mindspore|cv2|pyarrow|numpy|scipy|PIL)\b", m or "")}
        assert not heavy, f"{_name(path)} loads {heavy} before it knows the command"
