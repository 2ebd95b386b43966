"""An audit from images to its finished directory: fingerprints in parts, then pairs, flags and the report.

The parts take nearly all the time, because they decode. A run that was killed resumes with the first missing part, and
ends with the bytes of a run that was not. Where pictures are stored with the records, few images are decoded at first;
those that are near another one follow, so pairs are always found among decoded images.
"""

import contextlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import remove_leftovers, sha256_file, write_atomically, write_json
from convnext_imagenet.records.audit.evidence import FOLDS_VERSION, Asked
from convnext_imagenet.records.audit.features import FEATURES_VERSION, Described, describe
from convnext_imagenet.records.audit.fingerprint import FINGERPRINT_VERSION
from convnext_imagenet.records.audit.flags import FLAGS_VERSION, make_flags
from convnext_imagenet.records.audit.labels import LABELS_VERSION, find_doubts
from convnext_imagenet.records.audit.pairs import LARGEST_DISTANCE, PAIRS_VERSION, Found, Slack, find_pairs
from convnext_imagenet.records.audit.parts import FOLDER, Part, Views, all_parts, decoded_parts, write_part
from convnext_imagenet.records.audit.predictions import Predictions, Probabilities
from convnext_imagenet.records.audit.report import report_page
from convnext_imagenet.records.audit.sources import Source
from convnext_imagenet.records.audit.stored import STORED_VERSION
from convnext_imagenet.records.audit.summary import Noise, noise_lines, summarise
from convnext_imagenet.records.audit.tables import PAIRS_FILE, ROWS_FILE, write_pairs, write_rows
from convnext_imagenet.records.image_headers import CHECKS_VERSION

SUMMARY_FILE, REPORT_FILE = "summary.json", "report.html"
_FILES = (PAIRS_FILE, ROWS_FILE, SUMMARY_FILE, REPORT_FILE)
_PACKAGES = ("numpy", "opencv-python-headless", "pillow", "pyarrow")
_STORED_SLACK = Slack(bits=1, distance=0.05)  # between a stored picture and that of the pixels (DECISIONS, 2026-11-30)
OnProgress = Callable[[int], None]
# Shows the progress of a step of so many units (None if not known), with this title and unit.
Step = Callable[[int | None, str, str], AbstractContextManager[OnProgress]]


def unseen(total: int | None, title: str, unit: str) -> AbstractContextManager[OnProgress]:
    """Show no progress."""
    return contextlib.nullcontext(lambda count: None)


@dataclass(frozen=True)
class Compared:
    """All pairs, a row of measures of each image, and what the features of a network say, None without one."""

    found: Found
    measures: pa.Table
    described: Described | None
    decoded: int


@dataclass(frozen=True)
class AuditJob:
    """The right of this process to write an audit; `open_audit` makes it."""

    source: Source
    out: Path
    plan: dict[str, Any]
    plan_id: str
    workers: int

    @cached_property
    def parts(self) -> list[Part]:
        """Return the parts of all images."""
        return all_parts(self.source.rows.num_rows, self.source.pictures)

    @cached_property
    def pending(self) -> list[Part]:
        """Return the parts that had no whole files with a receipt when first asked."""
        return self._without_receipt(self.parts)

    @property
    def pending_rows(self) -> int:
        """Return the number of images that are still to be measured."""
        return sum(len(part.numbers) for part in self.pending)

    def write_parts(self, on_progress: OnProgress, is_stopped: Callable[[], bool]) -> None:
        """Write the pending parts. Raises Interrupted when stopped; a later run resumes."""
        self._write(self.pending, on_progress, is_stopped)

    def compare(
        self, features: Sequence[Predictions] = (), step: Step = unseen, is_stopped: Callable[[], bool] = lambda: False
    ) -> Compared:
        """Return the pairs of all images; those whose stored picture is near another one are decoded before.

        `features` are those of every split by a network, if there is one. Raises ArtefactError when a part is missing,
        Interrupted when stopped.
        """
        if missing := self._without_receipt(self.parts):
            raise ArtefactError(
                f"{self.out / FOLDER / missing[0].unit}: missing; run the same command again to write it"
            )
        described = self._describe(features) if features else None
        hashes = described.hashes if described else None
        parts, among = list(self.parts), None
        if self.source.pictures is not None:
            among = self._propose(hashes, step)
            parts += self._decode(among, step, is_stopped)
        with contextlib.closing(Views.open(self.out, parts, self.source.rows.num_rows)) as views:
            with step(None, "compare", "pair") as advance:
                found = find_pairs(views, self.workers, advance, hashes, among=among)
            unread = views.table.num_rows - views.table["error"].null_count
            return Compared(found, views.table, described, int(views.is_decoded.sum()) + unread)

    def finish(self, probabilities: Sequence[Probabilities], compared: Compared) -> dict[str, Any]:
        """Write tables, summary and report, mark the audit as finished, and return the summary.

        `probabilities` are out-of-sample ones by split.
        """
        rows, wnids, found = self.source.rows, self.source.wnids, compared.found
        noise = [self._noise(each) for each in probabilities]
        doubts = [(each.doubts, each.first) for each in noise]
        described = compared.described
        flags = make_flags(rows, compared.measures, found.pairs, doubts, described.distances if described else None)
        summary = summarise(rows, found, flags, noise, wnids, compared.decoded)
        _write(self.out / PAIRS_FILE, lambda path: write_pairs(path, rows, found.pairs))
        _write(self.out / ROWS_FILE, lambda path: write_rows(path, rows, flags, wnids))
        write_json(self.out / SUMMARY_FILE, summary)
        facts = {"plan id": self.plan_id, **_flat(self.plan)}
        page = report_page(self.source, found.pairs, flags, noise_lines(noise, wnids) if noise else None, facts)
        write_atomically(self.out / REPORT_FILE, page.encode())
        files = {name: sha256_file(self.out / name) for name in _FILES}
        manifest = {"plan_id": self.plan_id, "source": self.source.identity, "files": files, "summary": summary}
        protocol.finish(self.out, "audit", manifest)
        return summary

    def _propose(self, hashes: np.ndarray | None, step: Step) -> np.ndarray:
        """Return which images are near another one as far as stored pictures tell, bool (images,)."""
        is_near = np.zeros(self.source.rows.num_rows, bool)
        with contextlib.closing(Views.open(self.out, self.parts, len(is_near))) as views:
            with step(None, "propose", "pair") as advance:
                found = find_pairs(views, self.workers, advance, hashes, _STORED_SLACK)
            for pair in found.pairs:
                is_near[[pair.first, pair.second]] = True
        return is_near

    def _decode(self, is_near: np.ndarray, step: Step, is_stopped: Callable[[], bool]) -> list[Part]:
        """Decode these images if they are not decoded yet; return their parts."""
        with contextlib.closing(Views.open(self.out, self.parts, len(is_near))) as views:
            parts = decoded_parts(np.flatnonzero(is_near & ~views.is_decoded))
        pending = self._without_receipt(parts)
        with step(sum(len(part.numbers) for part in pending), "decode", "image") as advance:
            self._write(pending, advance, is_stopped)
        return parts

    def _write(self, parts: Sequence[Part], on_progress: OnProgress, is_stopped: Callable[[], bool]) -> None:
        for part in parts:
            write_part(self.source, part, self.out, self.plan_id, self.workers, on_progress, is_stopped)

    def _without_receipt(self, parts: Sequence[Part]) -> list[Part]:
        return [part for part in parts if not self._is_whole(part)]

    def _is_whole(self, part: Part) -> bool:
        receipt = protocol.read_receipt(self.out / FOLDER, part.unit, self.plan_id, deep=True)
        return receipt is not None and part.facts.items() <= receipt["facts"].items()

    def _numbers(self, split: str) -> np.ndarray:
        """Return the numbers of the images of a split, rising, int64."""
        return np.flatnonzero(np.asarray(self.source.rows["split"].to_pylist()) == split)

    def _describe(self, features: Sequence[Predictions]) -> Described:
        firsts = [int(self._numbers(each.split)[0]) for each in features]

        def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for first, predictions in zip(firsts, features, strict=True):
                for numbers, values in predictions.features():
                    yield first + numbers, values

        return describe(self.source.rows["label"].to_numpy(), parts)

    def _noise(self, predictions: Probabilities) -> Noise:
        rows = self.source.rows
        numbers = self._numbers(predictions.split)
        labels = rows["label"].to_numpy()[numbers]
        return Noise(
            predictions.split, int(numbers[0]), find_doubts(labels, predictions.parts, len(self.source.wnids)),
            np.bincount(labels, minlength=len(self.source.wnids)),
        )  # fmt: skip


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
            **({"folds": FOLDS_VERSION} if asked.folds else {}),
            **({"stored_pictures": STORED_VERSION} if source.pictures else {}),
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
            remove_leftovers(folder)
        yield AuditJob(source, out, plan, plan_id, workers)


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file under a hidden name and rename it, so that it is whole or absent."""
    staged = protocol.staging(path.parent) / path.name
    write(staged)
    write_atomically(path, staged.read_bytes())


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: inner for key, each in value.items() for name, inner in _flat(each, f"{prefix} {key}".strip()).items()
    }
