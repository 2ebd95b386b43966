"""Every folder with code is installed, under its own name, and pins agree with the metadata."""

import importlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest

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
            assert {pattern, path.name} & set(data.get(package, [])), f"{path} would be missing from the wheel"


def test_rooms_import_under_their_full_name_only():
    for room in ROOMS:
        module = importlib.import_module(f"convnext_imagenet.{room}")
        assert Path(module.__file__ or "").parent == ROOT / room


def test_the_licence_is_in_the_metadata_of_the_installed_package():
    facts = metadata("convnext_imagenet")
    assert facts["License-Expression"] == "Apache-2.0"
    assert facts.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert facts["Version"] == PYPROJECT["project"]["version"]
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_the_notice_names_the_sources_of_every_list_that_is_not_ours():
    notice = (ROOT / "NOTICE").read_text()
    assert "timm" in notice
    assert "WordNet" in notice
    for path in (ROOT / "model" / "exchange").glob("*.txt"):
        assert str(path.relative_to(ROOT)) in notice


def test_the_changelog_has_a_dated_section_for_this_version():
    version = re.escape(PYPROJECT["project"]["version"])
    assert re.search(rf"^## \[{version}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.mark.slow
def test_a_wheel_holds_code_data_types_and_licence(tmp_path):
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not listing:
        pytest.skip("not a git checkout")
    for name in listing:  # a copy, because a build leaves folders behind
        if (ROOT / name).is_file():
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), tmp_path / "source"]
    build = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No matching distribution" in build.stderr:
        pytest.skip("setuptools cannot be fetched here")
    assert build.returncode == 0, build.stderr
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name.removeprefix("convnext_imagenet/") for name in names}
    source = {name for name in listing if name.split("/")[0] in ROOMS and (ROOT / name).is_file()}
    assert source <= inside
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    [facts] = [name for name in names if name.endswith("/METADATA")]
    assert "License-Expression: Apache-2.0" in zipfile.ZipFile(wheel).read(facts).decode()


def test_type_checkers_and_editors_find_the_package(tmp_path):
    """`make setup` links the rooms into .types/, which pyproject names for mypy and pyright."""
    assert (ROOT / ".types" / "convnext_imagenet" / "base").is_dir(), "run `make setup`"
    (tmp_path / "user.py").write_text(
        "from convnext_imagenet.base.errors import ExpectedError\nreveal_type(ExpectedError('x').exit_code)\n"
    )
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), str(tmp_path / "user.py")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert 'Revealed type is "int"' in result.stdout.replace("builtins.", ""), result.stdout + result.stderr


def test_constraints_pin_every_dependency():
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    needed = {re.split(r"[ <>=;!\[]", line)[0].lower() for line in requires("convnext_imagenet") or []}
    optional = PYPROJECT["project"]["optional-dependencies"]
    named = {re.split(r"[ <>=;!\[]", line)[0].lower() for extra in ("demo", "dev") for line in optional[extra]}
    base = {re.split(r"[ <>=;!\[]", line)[0].lower() for line in PYPROJECT["project"]["dependencies"]}
    assert base | named <= needed
    assert base | named <= pinned


def test_the_lock_of_uv_has_the_pins_and_this_version():
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    locked = {package["name"]: package.get("version") for package in packages}
    pins = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    differing = {name: version for name, version in pins.items() if locked[name.replace("_", "-")] != version}
    assert not differing, "run `uv lock --upgrade-package NAME==VERSION` for each"
    assert locked["convnext-imagenet"] == PYPROJECT["project"]["version"], "run `uv lock`"


def test_the_lock_of_uv_has_every_requirement_of_every_extra():
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    (own,) = [package for package in packages if package["name"] == "convnext-imagenet"]
    locked = {
        (entry["name"], _parts(entry.get("specifier", "")), "".join(re.findall(r"extra == '(\w+)'", entry["marker"])))
        for entry in ({"marker": ""} | entry for entry in own["metadata"]["requires-dist"])
    }
    project = PYPROJECT["project"]
    stated = {"": project["dependencies"], **project["optional-dependencies"]}
    needed = {
        (re.sub(r"[._]", "-", name).lower(), _parts(specifier), extra)
        for extra, lines in stated.items()
        for name, specifier in (re.fullmatch(r"([\w.-]+)(.*)", line).groups() for line in lines)
    }
    assert locked == needed, "run `uv lock`"
    assert set(own["metadata"]["provides-extras"]) == project["optional-dependencies"].keys()


def _parts(specifier: str) -> frozenset[str]:
    return frozenset(specifier.split(",")) - {""}


def test_every_program_of_the_readme_is_installed():
    scripts = PYPROJECT["project"]["scripts"]
    assert scripts.keys() == {"convnext", "convnext-records", "convnext-ingest", "convnext-train", "convnext-serve"}
    for target in scripts.values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_containers_get_what_a_build_reads():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = PYPROJECT["project"]
    assert kept == {*ROOMS, "pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]}


@pytest.mark.parametrize(
    ("version", "code", "said"),
    [
        (PYPROJECT["project"]["version"], 0, "### "),
        ("9.9.9", 1, "Error: pyproject.toml has version"),
    ],
)
def test_release_notes_are_the_section_of_the_changelog(version, code, said):
    command = [sys.executable, str(ROOT / ".ci" / "release-notes"), version]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, (done.stdout or done.stderr).startswith(said)) == (code, True)
    assert "\n## " not in done.stdout


def test_workflows_run_what_this_repository_has():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for script in re.findall(r"(?:^|\s)(\.ci/[\w-]+)", path.read_text()):
            assert (ROOT / script).stat().st_mode & 0o100, f"{path.name}: {script} cannot be executed"


def test_the_version_stands_in_pyproject_only():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    states = re.compile(rf"convnext_imagenet-{re.escape(PYPROJECT['project']['version'])}|__version__ *=")
    names = [name for name in listing.stdout.split() if Path(name).suffix in {".py", ".md", ".toml", ".yml", ""}]
    texts = {name: (ROOT / name).read_text(errors="replace") for name in names if (ROOT / name).is_file()}
    assert not [name for name, text in texts.items() if states.search(text) and name != "tests/test_packaging.py"]
