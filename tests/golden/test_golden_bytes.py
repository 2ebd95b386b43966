"""Golden content of RECORDS and PREDICTIONS: what a tiny raw tree becomes, row by row and byte by byte.

Regenerate, when stored bytes are meant to change: `.venv/bin/python tests/golden/test_golden_bytes.py` rewrites
golden_bytes.json. Plans and manifests are not in it: they name versions. Images are encoded by the pinned libraries.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import ConvNeXtConfig, init_parameters
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import save_weights
from convnext_imagenet.records.reader import Records

GOLDEN = Path(__file__).with_name("golden_bytes.json")
DEMO_TREE = Path(__file__).resolve().parents[2] / "demo" / "make_raw_tree.py"
LIBRARIES = ("mindspore", "numpy", "opencv-python-headless", "pillow", "pyarrow")
# Labels of the demo's digits: the first image of 1 is CMYK, of 2 gray, of 3 a PNG, of 4 truncated.
TRAIN_LABELS, VAL_LABELS = (4, 1, 3, 2) * 4, (2, 4, 1, 3, 3)
COLUMNS = ("image", "label", "sample_id", "key", "height", "width")
SCORE_TOLERANCE = 2e-4  # floats of a network differ between processors


def make_tree(root: Path) -> None:
    """A raw tree with a devkit, four classes of random blocks drawn as the demo draws its digits."""
    spec = importlib.util.spec_from_file_location("golden_demo_tree", DEMO_TREE)
    assert spec is not None
    assert spec.loader is not None
    demo = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    ink_N88 = np.random.Generator(np.random.Philox(20)).integers(0, 17, (len(TRAIN_LABELS) + len(VAL_LABELS), 8, 8))
    labels = (*TRAIN_LABELS, *VAL_LABELS)
    digits = [
        demo.Digit(n, label, ink.astype(float)) for n, (label, ink) in enumerate(zip(labels, ink_N88, strict=True))
    ]
    for name, data in demo.tree_files(digits[: len(TRAIN_LABELS)], digits[len(TRAIN_LABELS) :]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    whole = (root / "val" / "ILSVRC2012_val_00000001.JPEG").read_bytes()
    (root / "score" / "cut.JPEG").write_bytes(whole[: len(whole) // 2])
    (root / "score" / "empty.JPEG").write_bytes(b"")


def make_weights(path: Path) -> None:
    """The smallest network with drawn weights; a large head makes its answers differ between images."""
    config = ConvNeXtConfig("convnext_test", (1, 1, 1, 1), (8, 16, 24, 32), num_classes=7, head_init_scale=40.0)
    classes = tuple((f"n{index:08d}", f"name {index}, synonym {index}") for index in range(7))
    save_weights(path, init_parameters(config, 3), ModelCard(config, classes, EvalTransform(size_px=32)))


def _command(name: str, *arguments: object) -> None:
    program = Path(sys.executable).with_name(name)
    ran = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def make_artefacts(root: Path) -> None:
    """RECORDS and PREDICTIONS below `root`, by the commands that users run."""
    make_tree(root / "raw")
    make_weights(root / "tiny.weights.safetensors")
    ingest = ("--classes", "found", "--max-quarantine", 1, "--max-side", 70, "--workers", 1, "--seed", 1)
    _command("convnext-ingest", "build", root / "raw", "--out", root / "records", *ingest)
    predict = ("--topk", 2, "--max-errors", 3, "--features", "--logits", "--device-target", "CPU", "--workers", 1)
    images = (root / "tiny.weights.safetensors", root / "raw" / "score")
    _command("convnext-serve", "predict", *images, "--out", root / "predictions", *predict)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _files(root: Path, pattern: str) -> dict[str, str]:
    return {str(path.relative_to(root)): _sha256(path.read_bytes()) for path in sorted(root.rglob(pattern))}


def _stored_rows(records: Records, split: str) -> list[dict[str, Any]]:
    """The rows in stored order, each image by its SHA-256."""
    opened = records.split(split)
    rows = opened.read(range(opened.rows), COLUMNS)
    return [{name: _sha256(row[name]) if name == "image" else row[name] for name in COLUMNS} for row in rows]


def _table(path: Path) -> dict[str, Any]:
    """Columns with their types, and the rows; bytes by their SHA-256."""
    table = pq.read_table(path)
    rows = [
        {name: _sha256(value) if isinstance(value, bytes) else value for name, value in row.items()}
        for row in table.to_pylist()
    ]
    columns = [f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in table.schema]
    return {"columns": columns, "rows": rows}


def digests(root: Path) -> dict[str, Any]:
    """What is compared of the artefacts below `root`, as JSON keeps it."""
    records = Records.open(root / "records")
    tables = sorted((root / "records").rglob("*.parquet"))
    found = {
        "raw files": _files(root / "raw", "*.JPEG"),
        "classes": [[entry.index, entry.wnid, entry.name] for entry in records.classes],
        "stored rows": {split: _stored_rows(records, split) for split in ("train", "val")},
        "shard files": _files(root / "records", "*.mindrecord"),
        "shard index files": _files(root / "records", "*.mindrecord.db"),
        "tables": {str(path.relative_to(root / "records")): _table(path) for path in tables},
        "predictions": {path.name: _table(path) for path in sorted((root / "predictions").glob("*.parquet"))},
    }
    return json.loads(json.dumps(found))


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of everything in a JSON value that is neither object nor list."""
    if isinstance(value, dict | list):
        yield path, len(value)
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(part, f"{path}[{name}]")
    else:
        yield path, value


def _is_same(found: Any, expected: Any) -> bool:
    if isinstance(found, float) and isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=SCORE_TOLERANCE, abs_tol=SCORE_TOLERANCE)
    return type(found) is type(expected) and found == expected


@contextlib.contextmanager
def _private_cache(root: Path) -> Iterator[None]:
    """A cache folder of our own; the compiled kernels in it are the user's, to compile them once."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convnext_imagenet" / "kernels"
    with contextlib.suppress(OSError):
        usual.mkdir(parents=True, exist_ok=True)
    (root / "cache" / "convnext_imagenet").mkdir(parents=True)
    (root / "cache" / "convnext_imagenet" / "kernels").symlink_to(usual)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    root = tmp_path_factory.mktemp("golden")
    with _private_cache(root):
        make_artefacts(root)
        yield digests(root)


@pytest.mark.parametrize(
    "part",
    [
        "raw files",
        "classes",
        "stored rows",
        "shard files",
        "shard index files",
        "tables",
        "predictions",
    ],
)
def test_golden_bytes(found: dict[str, Any], golden: dict[str, Any], part: str) -> None:
    made, expected = dict(_leaves(found[part])), dict(_leaves(golden[part]))
    others = {
        at: {"golden": expected.get(at), "found": made.get(at)}
        for at in [*expected, *(made.keys() - expected.keys())]
        if at not in expected or at not in made or not _is_same(made[at], expected[at])
    }
    assert not others, (
        f"{part}: stored content changed: the same input no longer gives the same RECORDS or PREDICTIONS. If that is "
        f"meant, say so in CHANGELOG.md and regenerate; made with {golden['versions']}, here {_versions()}"
    )


def test_the_golden_artefacts_hold_what_is_hard(golden: dict[str, Any]) -> None:
    tables, (part,) = golden["tables"], golden["predictions"].values()
    assert [row["reason"] for row in tables["quarantine.parquet"]["rows"]] == ["truncated"]
    assert {row["mode"] for row in tables["index.parquet"]["rows"]} == {"RGB", "L", "CMYK"}
    assert max(max(row["width"], row["height"]) for row in golden["stored rows"]["train"]) == 70
    assert {row["status"] for row in part["rows"]} == {"ok", "decode_error", "unsupported"}
    assert len({row["top1_index"] for row in part["rows"]}) > 2


def regenerate() -> None:
    """Rewrite the golden content."""
    with tempfile.TemporaryDirectory() as folder, _private_cache(Path(folder)):
        make_artefacts(Path(folder))
        content = {
            "regenerate": ".venv/bin/python tests/golden/test_golden_bytes.py",
            "versions": _versions(),
            **digests(Path(folder)),
        }
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    regenerate()
