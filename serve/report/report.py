"""The folder of an evaluation: predictions of a split, their numbers as tables, and a page.

REPORT/predictions is a PREDICTIONS directory of the split; per_class.parquet, confusion.parquet, report.html and, last,
summary.json are made from it, each whole or not at all. Equal predictions give equal bytes.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import write_atomically, write_json
from convnext_imagenet.base.protocol import OtherPlanError, read_finished
from convnext_imagenet.base.wording import as_word
from convnext_imagenet.launch.ranks.collectives import SINGLE, Ranks
from convnext_imagenet.records.reader import Split
from convnext_imagenet.records.thumbnails import thumbnail
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.records import open_split
from convnext_imagenet.serve.predict.job import PredictionJob, open_job
from convnext_imagenet.serve.report.folder import predictions_folder
from convnext_imagenet.serve.report.numbers import ScoredRows, worst_first, worst_mistakes
from convnext_imagenet.serve.report.page import MISTAKES_SHOWN, WORST_CLASSES, Mistake, evaluation_page
from convnext_imagenet.serve.report.real_labels import RealLabels, read_real, val_number
from convnext_imagenet.serve.report.tables import Evaluation, confusion_table, count_all, per_class_table, summary_json
from convnext_imagenet.serve.settings import Precision, PredictOptions

_PART_ROWS = 1024  # 49 parts of ImageNet's val split, so that ranks share them evenly
_COLUMNS = ["sample_id", "source", "status", "error", "top1_score", "topk.list.element.class_index", "label", "loss"]


@dataclass(frozen=True)
class Report:
    """A report in the making: the job that predicts, then `write`, which counts its rows."""

    folder: Path
    split: Split
    job: PredictionJob
    real: RealLabels | None

    def write(self) -> Evaluation:
        """Count the finished predictions, write tables, page and summary, and return the numbers.

        Raises what `write_report` raises.
        """
        writer = self.job.writer
        provenance = {"split": self.split.name, "predictions": writer.plan_id, **writer.plan["model"]}
        provenance |= {"real labels": self.real.sha256} if self.real else {}
        return write_report(self.folder, self.split, writer.checkpoint.card.classes, self.real, provenance)


@contextlib.contextmanager
def begin_report(
    folder: Path,
    checkpoint: Checkpoint,
    split: Split,
    real: Path | None,
    options: PredictOptions,
    ranks: Ranks = SINGLE,
) -> Iterator[Report]:
    """Reserve REPORT/predictions for this job only, after checking that its rows can be counted.

    `real` is the file of the ReaL labels. Raises ServeError when they do not fit the classes or the split, and when
    `folder` lies in the records; also what `open_job` raises.
    """
    wnids = [wnid for wnid, _ in checkpoint.card.classes]
    labels = read_real(real, wnids) if real else None
    if labels:
        val_number(next(split.read([0], ("key",)))["key"])
    inputs = open_split(split.folder.parent, split.name, wnids)
    if inputs.is_inside(folder):
        raise ServeError(f"{folder}: lies inside the records; choose another --report")
    with contextlib.ExitStack() as held:
        try:
            job = held.enter_context(open_job(checkpoint, inputs, predictions_folder(folder), options, ranks))
        except OtherPlanError as error:  # name the whole folder: without its predictions, an old page would stay
            raise ArtefactError(
                f"{folder}: {error.reason}; choose another --report, or delete this folder{error.way_back}"
            ) from None
        yield Report(folder, split, job, labels)


def report_options(
    batch_size: int, workers: int, device_target: str, flip: bool = False, precision: Precision = "float32"
) -> PredictOptions:
    """Return options with which the network gets the same batches as in `evaluate`: parts hold whole batches.

    There is no time limit for an image, as in `evaluate`: a machine that sleeps must not change an accuracy. Nor are
    images refused that are stored: RECORDS were checked when they were written.
    """
    return PredictOptions(
        topk=5,
        part_rows=max(1, _PART_ROWS // batch_size) * batch_size,
        batch_size=batch_size,
        workers=workers,
        device_target=device_target,
        flip=flip,
        extras=("loss",),
        timeout_s=float("inf"),
        precision=precision,
        refuses_damage=False,
    )


def read_scored(predictions: Path, split: Split) -> ScoredRows:
    """Return the rows of finished predictions of `split`.

    Raises ServeError for an image that could not be scored, RuntimeError when the rows differ from the manifest of the
    records, which is a bug.
    """
    manifest = read_finished(predictions, "predictions")
    table = pa.concat_tables(pq.ParquetFile(predictions / part["name"]).read(_COLUMNS) for part in manifest["parts"])
    _refuse_error_rows(table, split)
    labels = table["label"].to_numpy()
    counts = np.bincount(labels, minlength=len(split.entry.rows_per_class))
    is_complete = np.array_equal(table["sample_id"].to_numpy(), np.arange(split.rows))
    if not is_complete or tuple(counts.tolist()) != split.entry.rows_per_class:
        raise RuntimeError(
            f"{predictions}: holds {len(table)} rows, the manifest lists {split.rows} of split {split.name!r}, or the "
            f"labels differ from its counts per class; run `convnext-records verify {as_word(split.folder.parent)}`, "
            f"and report this if it finds no fault"
        )
    guesses = table["topk"].combine_chunks().flatten().field("class_index").to_numpy()
    return ScoredRows(
        labels=labels,
        guesses=guesses.reshape(len(table), -1),
        confidences=table["top1_score"].to_numpy(),
        keys=tuple(table["source"].to_pylist()),
        losses=table["loss"].to_numpy(),
    )


def write_report(
    report: Path,
    split: Split,
    classes: tuple[tuple[str, str], ...],
    real: RealLabels | None,
    provenance: Mapping[str, Any],
) -> Evaluation:
    """Count the predictions of `split` in REPORT/predictions, write the report, and return the numbers.

    `classes` holds (wnid, name) by index; `provenance` goes into the page and the summary. Raises what `read_scored`
    raises, and OSError.
    """
    scored = read_scored(predictions_folder(report), split)
    evaluation = count_all(scored, classes, real)
    page = evaluation_page(evaluation, _mistakes(scored, evaluation, split), split.name, provenance)
    write_atomically(report / "per_class.parquet", _parquet(per_class_table(evaluation)))
    write_atomically(report / "confusion.parquet", _parquet(confusion_table(evaluation)))
    write_atomically(report / "report.html", page.encode())
    # last: its presence means that the other files are whole
    write_json(report / "summary.json", summary_json(evaluation, provenance))
    return evaluation


def _mistakes(scored: ScoredRows, evaluation: Evaluation, split: Split) -> dict[int, list[Mistake]]:
    """Return the most confident mistakes of the worst classes by class index, with pictures."""
    worst = [numbers.index for numbers in worst_first(evaluation.per_class)[:WORST_CLASSES]]
    rows_of = {index: worst_mistakes(scored, index, MISTAKES_SHOWN) for index in worst}
    wanted = sorted(row for rows in rows_of.values() for row in rows)
    images = zip(wanted, split.read(wanted, ("image", "key")), strict=True)
    pictures = {row: thumbnail(stored["image"]) for row, stored in images}

    def mistake(row: int) -> Mistake:
        return Mistake(scored.keys[row], int(scored.guesses[row, 0]), float(scored.confidences[row]), pictures[row])

    return {index: [mistake(row) for row in rows_of[index]] for index in worst}


def _refuse_error_rows(table: pa.Table, split: Split) -> None:
    for row in table.select(["source", "status", "error"]).to_pylist():
        if row["status"] != "ok":
            raise ServeError(
                f"{split.folder}: the image {row['source']} cannot be decoded ({row['error']}); "
                f"run `convnext-records verify {as_word(split.folder.parent)}`"
            )


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
