"""`convnext-serve`: a trained network's accuracy, its predictions as Parquet, and its word on single images."""

import os
import time
from pathlib import Path
from typing import Any

import click

from convnext_imagenet.launch.cli import device_target_option, launch_options, leaving, start, with_pulse
from convnext_imagenet.launch.stopping import StopSignals
from convnext_imagenet.records.cli import expected_errors, progress, show_log_lines

_PATH = click.Path(path_type=Path)
_DEFAULT_BATCH = 32


_workers = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=lambda: len(os.sched_getaffinity(0)),
    show_default="the cores of this process",
    help="Threads of a rank that decode and resize; they change no result.",
)
_batch_size = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=_DEFAULT_BATCH,
    show_default=True,
    help="Images that the network sees at once.",
)


@click.group()
@click.version_option(package_name="convnext_imagenet")
def main() -> None:
    """Use a trained network. CHECKPOINT is a weights file, or a RUN directory (its best epoch)."""


@main.command("eval")
@click.argument("checkpoint", type=_PATH)
@click.option("--records", type=_PATH, required=True, help="The RECORDS directory that holds the images.")
@click.option("--split", default="val", show_default=True, help="The split to evaluate.")
@_batch_size
@_workers
@launch_options
def eval_command(checkpoint: Path, records: Path, split: str, batch_size: int, workers: int, **launch: Any) -> None:
    """Print the exact accuracy of CHECKPOINT over every row of a split."""
    from convnext_imagenet.model.errors import ModelError

    show_log_lines()
    with leaving(), expected_errors(ModelError):
        ranks, _ = start(launch)

        from convnext_imagenet.records.reading import Records
        from convnext_imagenet.serve.checkpoint import check_classes, load_checkpoint
        from convnext_imagenet.serve.evaluate import evaluate

        loaded = load_checkpoint(checkpoint)
        opened = ranks.in_turn(lambda: Records.open(records))
        rows = opened.split(split)
        check_classes(loaded, opened.classes, records)
        started, own = time.monotonic(), rows.rows // ranks.place.ranks
        with StopSignals("run the same command again", second_ends=True) as stop, progress(own, f"eval {split}") as bar:
            advance = with_pulse(bar, "evaluating")
            accuracy = evaluate(
                loaded.classifier(), loaded.card.transform, rows, batch_size, workers, advance, ranks,
                lambda: stop.received,
            )  # fmt: skip
        seconds = time.monotonic() - started
        click.echo(str({"Top1-Acc": accuracy.top1, "Top5-Acc": accuracy.top5}))
        fewer = (
            "" if accuracy.guesses == 5 else f" (the network knows {accuracy.guesses} classes: top-{accuracy.guesses})"
        )
        click.echo(
            f"top-1 {accuracy.top1_correct}/{accuracy.rows}, top-5 {accuracy.top5_correct}/{accuracy.rows}{fewer}, "
            f"every row of {split} counted once"
        )
        click.echo(
            f"{loaded.path} evaluated on {records} in {_pace(accuracy.rows, seconds)}. "
            f"Next: convnext-serve predict {checkpoint} IMAGES --out PREDICTIONS",
            err=True,
        )


@main.command()
@click.argument("checkpoint", type=_PATH)
@click.argument("images", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="The PREDICTIONS directory; an unfinished one is gone on with.")
@click.option("--topk", type=click.IntRange(min=1), default=5, show_default=True, help="Classes named for each image.")
@click.option(
    "--max-errors",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Error rows that still end with exit code 0; more end with 3. All rows are written either way.",
)
@click.option(
    "--part-rows", type=click.IntRange(min=1), default=4096, show_default=True, help="Inputs in one Parquet file."
)
@_batch_size
@_workers
@launch_options
def predict(
    checkpoint: Path, images: Path, out: Path, max_errors: int, topk: int, part_rows: int, batch_size: int,
    workers: int, **launch: Any,
) -> None:  # fmt: skip
    """Write one Parquet row for every file under the directory IMAGES, unreadable ones included."""
    from convnext_imagenet.model.errors import ModelError
    from convnext_imagenet.records.artefact import check_begun_or_empty, logs_folder

    show_log_lines()
    with leaving(), expected_errors(ModelError):
        logs = logs_folder(out, "predictions")
        ranks, target = start(launch, logs, lambda: check_begun_or_empty(out, "predictions"))

        from convnext_imagenet.serve.checkpoint import load_checkpoint
        from convnext_imagenet.serve.predict import Options, open_job
        from convnext_imagenet.serve.sources import list_inputs

        with StopSignals(f"the same command goes on in {out}", second_ends=True) as stop:
            loaded, inputs = load_checkpoint(checkpoint), list_inputs(images)
            options = Options(topk, part_rows, batch_size, workers, target)
            started = time.monotonic()
            with open_job(loaded, inputs, out, options, ranks) as job:
                done, todo = len(job.own_parts) - len(job.pending), job.pending_rows
                if done:
                    click.echo(f"{out}: {done} of {len(job.own_parts)} parts are there already", err=True)
                with progress(todo, "predict") as bar:
                    summary = job.run(with_pulse(bar, "predicting"), lambda: stop.received)
        click.echo(_summary_text(out, summary, _pace(todo * ranks.place.ranks, time.monotonic() - started)))
        if ranks.place.is_first:
            _refuse_error_rows(out, summary, max_errors)


@main.command()
@click.argument("checkpoint", type=_PATH)
@click.argument("files", metavar="FILE...", type=_PATH, nargs=-1, required=True)
@click.option("--out", type=_PATH, help="Write the labelled picture here; for several files, a directory.")
@click.option("--topk", type=click.IntRange(min=1), default=5, show_default=True, help="Classes named for each image.")
@_workers
@device_target_option
def infer(
    checkpoint: Path, files: tuple[Path, ...], out: Path | None, topk: int, workers: int, device_target: str
) -> None:
    """Name what is in each image FILE, with probabilities."""
    from convnext_imagenet.model.errors import ModelError

    show_log_lines()
    with expected_errors(ModelError):
        from convnext_imagenet.launch.devices import choose_target
        from convnext_imagenet.model.runtime import prepare

        prepare(choose_target(device_target).target)

        from convnext_imagenet.serve.checkpoint import load_checkpoint
        from convnext_imagenet.serve.errors import ServeError
        from convnext_imagenet.serve.infer import answer_lines, classify_files, plan_pictures, write_picture

        pictures = plan_pictures(files, out) if out else [None] * len(files)
        with progress(len(files), "infer") as advance:
            answers = classify_files(load_checkpoint(checkpoint), files, topk, workers, advance)
        failed = [answer for answer in answers if answer.error]
        for answer, picture in zip(answers, pictures, strict=True):
            if answer.error:
                click.echo(f"{answer.path}: {answer.error}", err=True)
                continue
            click.echo("\n".join(answer_lines(answer)))
            if picture:
                write_picture(answer, picture)
                click.echo(f"  labelled picture: {picture}")
        if failed:
            raise ServeError(f"{len(failed)} of {len(files)} files could not be read, first {failed[0].path}")
        hint = "" if out else "; --out picture.jpg draws the label"
        click.echo(
            f"{len(files)} named{hint}. Next: convnext-serve predict {checkpoint} IMAGES --out PREDICTIONS", err=True
        )


def _pace(images: int, seconds: float) -> str:
    return f"{seconds:.1f} s ({images / max(seconds, 1e-9):.1f} images/s, compilation included)"


def _summary_text(out: Path, summary: Any, pace: str) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in sorted(summary.statuses.items()))
    return (
        f"{out}: {summary.rows} inputs, {summary.rows} rows ({counts}) in {summary.parts} parts, "
        f"{summary.parts_made} of them made now in {pace}. "
        f"Next: query {out}/part-*.parquet with any tool that reads Parquet"
    )


def _refuse_error_rows(out: Path, summary: Any, max_errors: int) -> None:
    from convnext_imagenet.serve.errors import ErrorRows

    if summary.error_rows > max_errors:
        raise ErrorRows(
            f"{out} is finished and holds a row for every input, {summary.error_rows} of them error rows, more than "
            f"the {max_errors} allowed; see columns status and error, or pass --max-errors {summary.error_rows}"
        )
