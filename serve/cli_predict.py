"""`convnext-serve predict`: what it prints and how it ends; the work is that of predict.py."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convnext_imagenet.launch.cli import launch_options, leaving, start, with_pulse
from convnext_imagenet.launch.stopping import StopSignals
from convnext_imagenet.records.cli import expected_errors, progress, show_log_lines
from convnext_imagenet.serve import options

if TYPE_CHECKING:  # importing these takes seconds, which --help must not
    from convnext_imagenet.serve.predict import Job, Summary


@click.command()
@click.argument("checkpoint", type=options.PATH)
@click.argument("images")
@click.option("--split", default="val", show_default=True, help="The split, when IMAGES is a RECORDS directory.")
@click.option("--column", default="", help="The column, when IMAGES is a table with several that may hold images.")
@click.option(
    "--out", type=options.PATH, required=True, help="The PREDICTIONS directory; an unfinished one is gone on with."
)
@options.topk
@options.prediction
@options.transform
@options.batch_size
@options.workers
@launch_options
def predict(
    checkpoint: Path, images: str, split: str, column: str, out: Path, max_errors: int, features: bool, logits: bool,
    topk: int, part_rows: int, batch_size: int, workers: int, timeout_s: float, **others: Any,
) -> None:  # fmt: skip
    """Write one Parquet row for every input in IMAGES, unreadable ones included.

    IMAGES is a folder, a list of files (.txt), a tar or a folder of tars, tables (.parquet, .arrow, .feather) with a
    column of image bytes or paths, a RECORDS directory, or a URI such as s3://bucket/folder.
    """
    from convnext_imagenet.model.errors import ModelError
    from convnext_imagenet.records.artefact import check_begun_or_empty, logs_folder

    show_log_lines()
    with leaving(), expected_errors(ModelError):
        logs = logs_folder(out, "predictions")
        ranks, target = start(others, logs, lambda: check_begun_or_empty(out, "predictions"))

        from convnext_imagenet.serve.input_kinds import open_inputs
        from convnext_imagenet.serve.predict import Options, open_job
        from convnext_imagenet.serve.said import pace, summary_line

        with StopSignals(f"the same command goes on in {out}", second_ends=True) as stop:
            loaded = options.chosen(checkpoint, others)
            inputs = open_inputs(images, [wnid for wnid, _ in loaded.card.classes], split, column)
            extras = [name for name, asked in (("features", features), ("logits", logits)) if asked]
            chosen = Options(
                topk, part_rows, batch_size, workers, target, others["flip"], tuple(extras), timeout_s, others["engine"]
            )  # fmt: skip
            started = time.monotonic()
            with open_job(loaded, inputs, out, chosen, ranks) as job:
                todo = say_parts(job)
                with progress(todo, "predict") as bar:
                    summary = job.run(with_pulse(bar, "predicting"), lambda: stop.received)
        click.echo(summary_line(out, summary, pace(todo * ranks.place.ranks, time.monotonic() - started)))
        if ranks.place.is_first:
            _refuse_error_rows(out, summary, max_errors)


def say_parts(job: "Job") -> int:
    """Say which of this rank's parts are there already; returns the inputs that are still to be read."""
    done = len(job.own_parts) - len(job.pending)
    if done:
        click.echo(f"{job.out}: {done} of {len(job.own_parts)} parts are there already", err=True)
    return job.pending_rows


def _refuse_error_rows(out: Path, summary: "Summary", max_errors: int) -> None:
    from convnext_imagenet.serve.errors import ErrorRows

    if summary.error_rows > max_errors:
        raise ErrorRows(
            f"{out} is finished and holds a row for every input, {summary.error_rows} of them error rows, more than "
            f"the {max_errors} allowed; see columns status and error, or pass --max-errors {summary.error_rows}"
        )
