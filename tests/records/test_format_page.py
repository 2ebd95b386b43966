"""docs/format.md says what is on disk: its tables are compared with a directory that ingest has built."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from convnext_imagenet.ingest.cli import main
from convnext_imagenet.records.schema import MINDRECORD_SCHEMA, shard_name

from .conftest import jpeg

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "format.md").read_text()
NAMES = {"versions": "<library>", "files": "<file>", "rows_per_class": "<class index>"}  # objects with keys of any name
WHOLE = (
    "plan.source",
    "plan.treatment",
    "source.treatment.conversion",
    "source.treatment.reencoding",
    "source.junk.<split>",
)  # objects that have one row of their own
JSON_TYPES = {str: "string", bool: "bool", int: "int", list: "list", dict: "object", type(None): "null"}


def _documented(heading: str) -> dict[str, str]:
    """The first two columns of the table under a heading: name and type."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \| .+ \|$", section, re.MULTILINE))


def _leaves(value: Any, path: str = "", key: str = "") -> Iterator[tuple[str, str]]:
    """Each documented name in a JSON value, and the type of what is there."""
    if isinstance(value, dict) and path not in WHOLE:
        for name, inner in value.items():
            shown = NAMES.get(key) or ("<split>" if name in ("train", "val") else name)
            yield from _leaves(inner, f"{path}.{shown}".lstrip("."), name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from _leaves(inner, f"{path}[]")
    else:
        yield path, JSON_TYPES[type(value)]


def _require_documented(value: Any, documented: dict[str, str]) -> None:
    leaves = list(_leaves(value))
    assert {name for name, _ in leaves} == documented.keys()
    wrong = [f"{name}: {kind}" for name, kind in leaves if kind not in documented[name].split(" or ")]
    assert not wrong


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RECORDS of two classes without a devkit, with a damaged image and images that are made smaller."""
    root = tmp_path_factory.mktemp("format")
    for number in range(8):
        folder = root / "raw" / ("val" if number > 5 else "train") / ("cats" if number % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(jpeg(number) if number else b"")
    options = ["--convert", "--max-quarantine", "1", "--max-side", "16", "--workers", "1"]
    done = CliRunner().invoke(main, ["build", str(root / "raw"), "--out", str(root / "records"), *options])
    assert done.exit_code == 0, done.output
    return root / "records"


@pytest.mark.parametrize(
    ("heading", "file"),
    [
        ("plan.json", "plan.json"),
        ("manifest.json", "manifest.json"),
        (r"\_SUCCESS", "_SUCCESS"),
        ("The receipt of a shard", "train/imagenet-train-00000-of-00001.json"),
    ],
)
def test_every_key_of_a_json_file_is_documented_with_its_type(built: Path, heading: str, file: str) -> None:
    _require_documented(json.loads((built / file).read_text()), _documented(heading))


@pytest.mark.parametrize("file", ["index.parquet", "quarantine.parquet"])
def test_every_column_of_a_table_is_documented_with_its_type(built: Path, file: str) -> None:
    assert _documented(file) == {field.name: str(field.type) for field in pq.read_schema(built / file)}


def test_the_table_beside_a_shard_is_documented(built: Path) -> None:
    (sentence,) = re.findall(r"The table beside each shard has (.+?):", PAGE, re.DOTALL)
    schema = pq.read_schema(built / "train" / "imagenet-train-00000-of-00001.parquet")
    assert re.findall(r"`(\w+)`", sentence) == schema.names


def test_every_field_of_the_row_is_documented_with_its_type() -> None:
    assert _documented("The stored row") == {name: field["type"] for name, field in MINDRECORD_SCHEMA.items()}


def test_every_file_of_a_directory_is_documented(built: Path) -> None:
    named = {re.sub(r"\d{5}-of-\d{5}", "N", name) for name in re.findall(r"[\w.-]+", PAGE)}
    files = {re.sub(r"\d{5}-of-\d{5}", "N", path.name) for path in built.rglob("*") if path.is_file()}
    assert files - {name.replace("-train-", "-val-") for name in named} <= named
    assert shard_name("train", 0, 8) in PAGE


def test_every_rule_and_the_shape_of_a_plan_are_documented(built: Path) -> None:
    plan = json.loads((built / "plan.json").read_text())["plan"]
    manifest = json.loads((built / "manifest.json").read_text())
    assert plan["source"].keys() == manifest["source"].keys() - {"treatment", "reencoded", "junk"}
    assert plan["treatment"] == manifest["source"]["treatment"]
    assert plan["rules"].keys() <= set(re.findall(r"`(\w+)`", PAGE.partition("| rule |")[2].partition("\n\n")[0]))
    assert all(f"`{name}`" in PAGE for name in manifest["source"]["treatment"]["reencoding"])
