"""An audit from images to its finished directory: fingerprints in parts, then pairs, flags and the report.

The parts take nearly all the time, because they decode. A run that was killed resumes with the first missing part, and
ends with the bytes of a run that was not.
"""

import contextlib
import importlib.metadata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import is_leftover, sha256_file, write_atomically, write_json
from convnext_imagenet.records.audit.evidence import Asked, Evidence
from convnext_imagenet.records.audit.features import FEATURES_VERSION, Described, describe
from convnext_imagenet.records.audit.fingerprint import FINGERPRINT_VERSION
from convnext_imagenet.records.audit.flags import FLAGS_VERSION, Flag, count_kinds, make_flags
from convnext_imagenet.records.audit.labels import LABELS_VERSION, Doubts, class_noise, find_doubts
from convnext_imagenet.records.audit.pairs import (
    EQUAL,
    LARGEST_DISTANCE,
    PAIRS_VERSION,
    Found,
    are_other_labels,
    find_pairs,
)
from convnext_imagenet.records.audit.parts import FOLDER, Views, part_numbers, part_unit, write_part
from convnext_imagenet.records.audit.predictions import Probabilities
from convnext_imagenet.records.audit.report import report_page
from convnext_imagenet.records.audit.sources import Source
from convnext_imagenet.records.audit.tables import PAIRS_FILE, ROWS_FILE, write_pairs, write_rows
from convnext_imagenet.records.images import CHECKS_VERSION

SUMMARY_FILE, REPORT_FILE = "summary.json", "report.html"
_FILES = (PAIRS_FILE, ROWS_FILE, SUMMARY_FILE, REPORT_FILE)
_PACKAGES = ("numpy", "opencv-python-headless", "pillow", "pyarrow")
OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class _Noise:
    """Doubtful labels of one split, whose first image has the number `first`."""

    split: str
    first: int
    doubts: Doubts
    rows: np.ndarray


@dataclass(frozen=True)
class AuditJob:
    """The right of this process to write an audit; `open_audit` makes it."""

    source: Source
    out: Path
    plan: dict[str, Any]
    plan_id: str
    workers: int

    @cached_property
    def parts(self) -> list[range]:
        """Return the numbers of the images of each part."""
        return part_numbers(self.source.rows.num_rows)

    @cached_property
    def pending(self) -> list[int]:
        """Return the parts that had no whole files with a receipt when first asked."""
        units = enumerate(part_unit(index) for index in range(len(self.parts)))
        return [index for index, unit in units if self._receipt(unit) is None]

    @property
    def pending_rows(self) -> int:
        """Return the number of images that are still to be decoded."""
        return sum(len(self.parts[index]) for index in self.pending)

    def write_parts(self, on_progress: OnProgress, is_stopped: Callable[[], bool]) -> None:
        """Write the pending parts. Raises Interrupted when stopped; a later run resumes."""
        for index in self.pending:
            write_part(
                self.source, self.parts[index], self.out, part_unit(index), self.plan_id, self.workers, on_progress,
                is_stopped,
            )  # fmt: skip

    def finish(self, evidence: Evidence, on_progress: OnProgress = lambda count: None) -> dict[str, Any]:
        """Find pairs and flags, write tables, summary and report, mark the audit as finished; return the summary.

        `evidence` is what networks said; `on_progress` gets the number of candidates confirmed. Raises ArtefactError
        when a part is missing.
        """
        missing = [unit for unit in map(part_unit, range(len(self.parts))) if self._receipt(unit) is None]
        if missing:
            raise ArtefactError(f"{self.out / FOLDER / missing[0]}: missing; run the same command again to write it")
        described = self._described(evidence) if evidence.features else None
        with contextlib.closing(Views.open(self.out, self.source.rows.num_rows)) as views:
            found = find_pairs(views, self.workers, on_progress, described.hashes if described else None)
            measures = views.table
        rows = self.source.rows
        noise = [self._noise(each) for each in evidence.probabilities]
        doubts = [(each.doubts, each.first) for each in noise]
        flags = make_flags(rows, measures, found.pairs, doubts, described.distances if described else None)
        summary = self._summary(found, flags, noise)
        _write(self.out / PAIRS_FILE, lambda path: write_pairs(path, rows, found.pairs))
        _write(self.out / ROWS_FILE, lambda path: write_rows(path, rows, flags, self.source.wnids))
        write_json(self.out / SUMMARY_FILE, summary)
        facts = {"plan id": self.plan_id, **_flat(self.plan)}
        lines = _noise_lines(noise, self.source.wnids) if noise else None
        page = report_page(self.source, found.pairs, flags, lines, facts)
        write_atomically(self.out / REPORT_FILE, page.encode())
        files = {name: sha256_file(self.out / name) for name in _FILES}
        manifest = {"plan_id": self.plan_id, "source": self.source.identity, "files": files, "summary": summary}
        protocol.finish(self.out, "audit", manifest)
        return summary

    def _receipt(self, unit: str) -> dict[str, Any] | None:
        return protocol.read_receipt(self.out / FOLDER, unit, self.plan_id, deep=True)

    def _numbers(self, split: str) -> np.ndarray:
        """Return the numbers of the images of a split, rising, int64."""
        return np.flatnonzero(np.asarray(self.source.rows["split"].to_pylist()) == split)

    def _described(self, evidence: Evidence) -> Described:
        firsts = [int(self._numbers(each.split)[0]) for each in evidence.features]

        def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for first, predictions in zip(firsts, evidence.features, strict=True):
                for numbers, features in predictions.features():
                    yield first + numbers, features

        return describe(self.source.rows["label"].to_numpy(), parts)

    def _noise(self, predictions: Probabilities) -> _Noise:
        rows = self.source.rows
        numbers = self._numbers(predictions.split)
        labels = rows["label"].to_numpy()[numbers]
        return _Noise(
            predictions.split, int(numbers[0]), find_doubts(labels, predictions.parts, len(self.source.wnids)),
            np.bincount(labels, minlength=len(self.source.wnids)),
        )  # fmt: skip

    def _summary(self, found: Found, flags: Sequence[Flag], noise: Sequence[_Noise]) -> dict[str, Any]:
        rows = self.source.rows
        splits, labels = rows["split"].to_pylist(), rows["label"].to_pylist()
        names = sorted(set(splits))
        kinds = Counter(pair.kind for pair in found.pairs)
        near = {number for pair in found.pairs if pair.kind != EQUAL for number in (pair.first, pair.second)}
        return {
            "images": {name: splits.count(name) for name in names},
            "pairs": {
                "total": len(found.pairs),
                "kinds": dict(kinds),
                "images_in_near_pairs": len(near),
                "across_splits": sum(splits[pair.first] != splits[pair.second] for pair in found.pairs),
                "different_labels": sum(are_other_labels(labels, pair) for pair in found.pairs),
            },
            "candidates": {"confirmed_or_refused": found.candidates, "left_out": found.left_out, "flat": found.flat},
            "flags": count_kinds(flags),
            "leaks": {
                name: sum(splits[flag.number] == name and "leak" in (flag.kind, *flag.also) for flag in flags)
                for name in names
            },
            "label_noise": {each.split: _class_noise(each, self.source.wnids) for each in noise},
        }


def plan_audit(source: Source, asked: Asked) -> dict[str, Any]:
    """Return the plan, all that decides the bytes of an audit, as JSON."""
    return {
        "source": source.identity,
        **asked.identity(),
        "largest_distance": LARGEST_DISTANCE,
        "rules": {
            "image_checks": CHECKS_VERSION,
            "fingerprint": FINGERPRINT_VERSION,
            "pairs": PAIRS_VERSION,
            "labels": LABELS_VERSION,
            "flags": FLAGS_VERSION,
            **({"features": FEATURES_VERSION} if asked.network else {}),
        },
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


@contextlib.contextmanager
def open_audit(source: Source, asked: Asked, root: Path, out: Path, workers: int) -> Iterator[AuditJob]:
    """Reserve `out` for the audit of the images in `root`.

    Raises ArtefactError when `out` lies inside `root`, belongs to another audit, or another process writes there, and
    for two sources of probabilities of one split.
    """
    if out.resolve().is_relative_to(root.resolve()):
        raise ArtefactError(f"{out}: lies inside {root}; choose a directory outside of it")
    splits = asked.splits()
    if twice := {split for split in splits if splits.count(split) > 1}:
        raise ArtefactError(
            f"labels of {min(twice)}: --predictions, --weights (--unseen) and --folds name this split twice; "
            f"choose one of them for each split"
        )
    plan = plan_audit(source, asked)
    protocol.begin(out, "audit", plan)  # before the lock, so that a refused directory gets no lock file
    with protocol.exclusive(out):
        plan_id = protocol.begin(out, "audit", plan)
        for folder in (out, out / FOLDER):
            for path in folder.glob(".*.tmp"):
                if is_leftover(path.name):
                    path.unlink(missing_ok=True)
        yield AuditJob(source, out, plan, plan_id, workers)


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file under a hidden name and rename it, so that it is whole or absent."""
    staged = protocol.staging(path.parent) / path.name
    write(staged)
    write_atomically(path, staged.read_bytes())


def _noise_lines(noise: Sequence[_Noise], wnids: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """Return class, the class that its doubtful images look like, rows, doubtful rows; the noisiest class first."""
    lines = []
    for each in noise:
        for label, row in enumerate(each.doubts.joint):
            others = row.copy()
            others[label] = 0
            if others.sum():
                line = (f"{each.split} {wnids[label]}", wnids[int(others.argmax())], int(each.rows[label]))
                lines.append((*line, int(others.sum())))
    return sorted(lines, key=lambda line: (-line[3] / line[2], line[0]))


def _class_noise(noise: _Noise, wnids: Sequence[str]) -> dict[str, float]:
    return {wnid: round(float(value), 6) for wnid, value in zip(wnids, class_noise(noise.doubts.joint), strict=True)}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: inner for key, each in value.items() for name, inner in _flat(each, f"{prefix} {key}".strip()).items()
    }
