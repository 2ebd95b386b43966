"""`convnext-records audit` and `decisions`: their options, and what they print."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convnext_imagenet.base.cli_output import json_option, progress_option, result_on_stdout
from convnext_imagenet.base.console import FiniteRange, LocalPath, expected_errors, progress

if TYPE_CHECKING:  # importing these takes seconds, and --help must answer at once
    from convnext_imagenet.base.signals import StopSignals
    from convnext_imagenet.records.audit.evidence import Run

_PATH = LocalPath()
_ON_DEVICES = (("train", "run"), ("serve", "predict"))


@click.command()
@click.argument("images", metavar="RECORDS", type=_PATH)
@click.option("--out", required=True, type=_PATH, help="AUDIT directory to create or resume.")
@click.option(
    "--predictions",
    multiple=True,
    type=_PATH,
    help="PREDICTIONS of a split with --logits, by a network that was not trained on it; one for each split.",
)
@click.option(
    "--weights",
    type=_PATH,
    metavar="CHECKPOINT",
    help="Network with the classes of RECORDS, which scores all splits first: finds smaller crops, outliers, and wrong "
    "labels of the splits that it has not seen.",
)
@click.option(
    "--unseen",
    multiple=True,
    metavar="SPLIT",
    help="With --weights: a split that CHECKPOINT was not trained on; may be repeated.  [default: all but train]",
)
@click.option(
    "--folds",
    type=click.IntRange(2, 20),
    metavar="K",
    help="Train K networks first, each without another part of train, which judge the labels of train.",
)
@click.option(
    "--config",
    default="auto",
    show_default=True,
    help="With --folds: CONFIG of the trainings, as of `convnext-train run`.",
)
@click.option(
    "--minutes",
    default=10.0,
    show_default=True,
    type=FiniteRange(min=0, min_open=True),
    help="With --folds and --config auto: how long each training takes.",
)
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --weights or --folds: devices of this machine that score and train.  [default: 1]",
)
@click.option(
    "--decode-all", is_flag=True, help="Decode every image, also of RECORDS that were built with --fingerprints."
)
@click.option("--workers", type=click.IntRange(min=1), help="Threads that decode.  [default: one per core]")
@json_option()
@progress_option
def audit(
    images: Path, out: Path, predictions: tuple[Path, ...], weights: Path | None, unseen: tuple[str, ...],
    folds: int | None, config: str, minutes: float, devices: int | None, decode_all: bool, workers: int | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Find copies within and across splits, doubtful labels and odd images.

    RECORDS may also be a folder of images, whose folders are the classes. To resume a stopped audit, run the same
    command again.
    """
    if unseen and weights is None:
        raise click.UsageError("--unseen needs --weights CHECKPOINT")
    if folds is None and _is_stated("config", "minutes"):
        raise click.UsageError("--config and --minutes need --folds K")
    if config != "auto" and _is_stated("minutes"):
        raise click.UsageError("--minutes needs --config auto; a configuration states its epochs itself")
    if devices is not None and weights is None and folds is None:
        raise click.UsageError("--devices needs --weights CHECKPOINT or --folds K")
    with expected_errors(), result_on_stdout(as_json) as report:
        from convnext_imagenet.base.signals import StopSignals
        from convnext_imagenet.records.audit.evidence import (
            Asked,
            Folds,
            check_folds,
            gather,
            open_network,
            predict_folds,
        )
        from convnext_imagenet.records.audit.job import open_audit
        from convnext_imagenet.records.audit.leaks import remember_leaks
        from convnext_imagenet.records.audit.messages import audit_lines, audit_result
        from convnext_imagenet.records.audit.predictions import open_predictions_of
        from convnext_imagenet.records.audit.sources import open_source, unused_pictures
        from convnext_imagenet.records.audit.summary import sure_copies

        source = open_source(images, uses_pictures=not decode_all)
        if note := unused_pictures(source) if not decode_all else None:
            click.echo(note, err=True)
        opened = tuple(open_predictions_of(source, path) for path in predictions)
        threads = workers or len(os.sched_getaffinity(0))
        with StopSignals(f"run the same command again to resume in {out}", second_ends=True) as stop:
            run = _programs(stop, devices or 1)
            network = open_network(weights, source, unseen, run) if weights else None
            trainings = Folds(folds, config, minutes) if folds else None
            if trainings:
                check_folds(trainings, source)
            asked = Asked(opened, network, trainings)
            with open_audit(source, asked, images, out, threads) as job:
                if done := len(job.parts) - len(job.pending):
                    click.echo(f"{out}: {done} of {len(job.parts)} parts are there already", err=True)
                with progress(job.pending_rows, "audit") as advance:
                    job.write_parts(advance, lambda: stop.received)
                evidence = gather(source, asked, out, run)
                compared = job.compare(evidence.features, progress, lambda: stop.received)
                copies = sure_copies(compared.found, source.rows.num_rows)
                folded = [predict_folds(source, trainings, out, run, copies)] if trainings else []
                summary = job.finish([*evidence.probabilities, *folded], compared)
                remember_leaks(source, summary, out)
        click.echo("\n".join(audit_lines(out, summary)))
        report(audit_result(out, summary))


def _is_stated(*options: str) -> bool:
    """Return whether one of these options was on the command line."""
    context = click.get_current_context()
    return any(context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE for name in options)


def _programs(stop: "StopSignals", devices: int) -> "Run":
    """Return what runs our other programs, on `devices` where they take devices, and says so."""
    from convnext_imagenet.base.programs import run_program

    def run(arguments: Sequence[str], returns_output: bool) -> str:
        stop.check()
        if devices > 1 and tuple(arguments[:2]) in _ON_DEVICES:
            arguments = [*arguments, "--devices", str(devices)]
        click.echo(f"+ convnext {shlex.join(arguments)}", err=True)
        return run_program(arguments, lambda: stop.received, returns_output)

    return run


@click.command()
@click.argument("audited", metavar="AUDIT", type=_PATH)
@click.option("--out", required=True, type=_PATH, help="CSV file to write.")
@click.option(
    "--from", "earlier", multiple=True, type=_PATH, help="CSV file with decisions to take over; may be repeated."
)
def decisions(audited: Path, out: Path, earlier: tuple[Path, ...]) -> None:
    """Write the flagged images of AUDIT as a CSV file, for people to decide: keep, drop or relabel.

    Fill in the column `decision`. `convnext-ingest build --drop` and `convnext-serve eval --without` read the file.
    """
    with expected_errors():
        from convnext_imagenet.base.wording import plural
        from convnext_imagenet.records.audit.decisions import export_decisions, open_judged

        audit = open_judged(audited)
        counts = export_decisions(audit, out, [open_judged(path) for path in earlier])
        decided = ", ".join(f"{count:,} {decision}" for decision, count in sorted(counts.items()))
        click.echo(f"{out}: {plural(len(audit.rows), 'image')} ({decided or 'none flagged'})")
