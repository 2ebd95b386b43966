"""`make bench PART=audit`: copies and wrong labels, planted among images of CONVNEXT_SHARED_DATA, and who finds them.

Copies of eight kinds: recall of each, and the share of all reported pairs that was planted. Wrong labels: how many of
as many first rows were planted, from the same probabilities. Tools that CONVNEXT_BENCH_PEERS_PYTHON lacks are left out.
CONVNEXT_BENCH_DATA names one of the data sets, or `labels`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from harness import HERE, is_wanted, python_with, report
from PIL import Image
from planted_copies import KINDS

_PLANTED = int(os.environ.get("CONVNEXT_BENCH_PLANTED", "400"))
_PLANTS = "planted"
_FOLDS = 5
_SHARPNESS = 6.0  # of the softmax over the scores of a least-squares fit, which are about 0 to 1
_RIDGE = 30.0
_COPIES = ("ours", "ours, stored pictures", "imagededup", "cleanvision", "fastdup")
_LABELS = ("ours", "cleanlab")


def main() -> None:
    """Plant copies in every data set of the folder, wrong labels in one, and count what each tool finds."""
    shared = Path(os.environ["CONVNEXT_SHARED_DATA"])
    rows: list[dict[str, Any]] = []
    wanted = os.environ.get("CONVNEXT_BENCH_DATA")
    for name in ("nette96", "fullsize"):
        if wanted not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows += _measure_copies(shared / name, Path(folder))
    if wanted in (None, "labels"):
        with tempfile.TemporaryDirectory() as folder:
            rows += _measure_labels(shared / "nette96", Path(folder))
    report("audit", rows)


def _measure_copies(data: Path, folder: Path) -> list[dict[str, Any]]:
    images = folder / "images"
    images.mkdir()
    files = sorted(path for path in data.rglob("*.JPEG"))
    for path in files:
        (images / path.name).symlink_to(path)
    planted = _plant(files, images, min(_PLANTED, len(files) // len(KINDS) * len(KINDS)))
    rows = []
    for tool in filter(is_wanted, _COPIES):
        scratch = folder / tool.replace(", ", "-").replace(" ", "-")
        scratch.mkdir()
        answer = _ask(tool, "copies", tool, str(images), str(scratch))
        if answer is None:
            continue
        found = {(a, b) for a, b in answer.pop("found")}
        hits = {kind: len(pairs & found) for kind, pairs in planted.items()}
        rows.append(
            {
                "data": data.name,
                "images": len(files) + sum(map(len, planted.values())),
                "tool": tool,
                **{kind: hits[kind] / len(pairs) for kind, pairs in planted.items()},
                "recall": sum(hits.values()) / sum(map(len, planted.values())),
                "precision": sum(hits.values()) / max(1, len(found)),
                "pairs": len(found),
                **answer,
            }
        )
    return rows


def _measure_labels(data: Path, folder: Path) -> list[dict[str, Any]]:
    """Rank rows with planted wrong labels by probabilities of a weak classifier that has not seen the row."""
    files = sorted((data / "train").rglob("*.JPEG"))
    names = sorted({path.parent.name for path in files})
    truth = np.array([names.index(path.parent.name) for path in files])
    rng = np.random.default_rng(0)
    planted = rng.choice(len(files), _PLANTED, replace=False)
    labels = truth.copy()
    labels[planted] = (truth[planted] + rng.integers(1, len(names), _PLANTED)) % len(names)
    probabilities = _out_of_sample(_describe(files), labels, len(names), rng)
    stored = folder / "probabilities.npz"
    np.savez(stored, labels=labels, probabilities=probabilities)
    rows = []
    for tool in filter(is_wanted, _LABELS):
        answer = _ask(tool, "labels", tool, str(stored))
        if answer is None:
            continue
        first = answer.pop("found")
        right = len(set(first[:_PLANTED]) & set(planted.tolist()))
        rows.append(
            {
                "data": data.name,
                "images": len(files),
                "tool": tool,
                "correct": float((probabilities.argmax(1) == truth).mean()),
                "doubtful": len(first),
                f"planted in first {_PLANTED}": right,
                "recall": len(set(first) & set(planted.tolist())) / _PLANTED,
                **answer,
            }
        )
    return rows


def _ask(tool: str, *arguments: str) -> dict[str, Any] | None:
    """Return the answer of a tool, None where it is not installed or fails; then it says why."""
    python = sys.executable if tool.startswith("ours") else python_with(f"import {tool}")
    if python is None:
        print(f"{tool}: not installed, left out")
        return None
    done = subprocess.run(
        [python, str(HERE / "audit_tools.py"), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{tool}: {done.stderr.strip().splitlines()[-1:]}")
        return None
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _plant(files: list[Path], images: Path, count: int) -> dict[str, set[tuple[str, str]]]:
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(files), count, replace=False)
    planted: dict[str, set[tuple[str, str]]] = {kind: set() for kind in KINDS}
    for place, number in enumerate(chosen.tolist()):
        kind = list(KINDS)[place % len(KINDS)]
        copy = images / f"{_PLANTS}_{place:04d}.JPEG"
        with Image.open(files[number]) as image:
            copy.write_bytes(KINDS[kind](image.convert("RGB"), rng))
        planted[kind].add((files[number].name, copy.name))
    return planted


def _describe(files: list[Path]) -> np.ndarray:
    """Return gradients and colours of each image, float64 (images, width): enough for a weak classifier."""
    gradients = cv2.HOGDescriptor((64, 64), (16, 16), (8, 8), (8, 8), 9)
    rows = []
    for path in files:
        image = cv2.resize(cv2.imread(str(path)), (64, 64), interpolation=cv2.INTER_AREA)
        colours = cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).ravel() / 255
        rows.append(np.concatenate([gradients.compute(image).ravel(), colours, [1.0]]))
    return np.array(rows)


def _out_of_sample(features: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Return probabilities, float32 (rows, classes), by least squares on the other folds."""
    fold = rng.integers(0, _FOLDS, len(labels))
    scores = np.zeros((len(labels), classes))
    for number in range(_FOLDS):
        seen = features[fold != number]
        products = seen.T @ seen + _RIDGE * np.eye(features.shape[1])
        weights = np.linalg.solve(products, seen.T @ np.eye(classes)[labels[fold != number]])
        scores[fold == number] = features[fold == number] @ weights
    exponentials = np.exp(_SHARPNESS * scores)
    return (exponentials / exponentials.sum(1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
