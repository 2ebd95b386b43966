"""Every folder with code is installed, under its own name, and pins agree with the metadata."""

import importlib
import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = ("base", "records", "model", "launch", "ingest", "serve", "train")


def test_every_folder_with_code_is_packaged():
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    expected = {"convnext_imagenet." + ".".join(folder.relative_to(ROOT).parts) for folder in folders}
    setuptools = PYPROJECT["tool"]["setuptools"]
    assert set(setuptools["packages"]) == expected
    assert {name: str(ROOT / folder) for name, folder in setuptools["package-dir"].items()} == {
        "convnext_imagenet." + ".".join(folder.relative_to(ROOT).parts): str(folder) for folder in folders
    }


def test_every_other_file_beside_the_code_is_packaged():
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if path.suffix in {".py", ".pyc"} or not path.is_file():
                continue
            folder = next(parent for parent in path.parents if (parent / "__init__.py").exists())
            package = "convnext_imagenet." + ".".join(folder.relative_to(ROOT).parts)
            pattern = str(path.relative_to(folder).with_name(f"*{path.suffix}"))
            assert pattern in data.get(package, []), f"{path} would be missing from the wheel"


def test_rooms_import_under_their_full_name_only():
    for room in ROOMS:
        module = importlib.import_module(f"convnext_imagenet.{room}")
        assert Path(module.__file__ or "").parent == ROOT / room


def test_constraints_pin_every_dependency():
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    needed = {re.split(r"[ <>=;!\[]", line)[0].lower() for line in requires("convnext_imagenet") or []}
    optional = PYPROJECT["project"]["optional-dependencies"]
    named = {re.split(r"[ <>=;!\[]", line)[0].lower() for extra in ("demo", "dev") for line in optional[extra]}
    base = {re.split(r"[ <>=;!\[]", line)[0].lower() for line in PYPROJECT["project"]["dependencies"]}
    assert base | named <= needed
    assert base | named <= pinned
