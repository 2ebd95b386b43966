"""`convnext-serve predict`: what it prints and how it ends; the work is that of predict.py."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convnext_imagenet.base.console import expected_errors, progress, show_log_lines
from convnext_imagenet.base.signals import StopSignals
from convnext_imagenet.launch.cli import launch_options, leaving, start, with_pulse
from convnext_imagenet.launch.cli_cluster import RAY, is_given, is_usual, on_cluster, refuse_unused
from convnext_imagenet.launch.devices import AUTO, choose_target
from convnext_imagenet.serve import options

if TYPE_CHECKING:  # importing these takes seconds, which --help must not
    from convnext_imagenet.launch.cluster.units import ClusterExecutor
    from convnext_imagenet.launch.ranks.collectives import Ranks
    from convnext_imagenet.serve.predict.job import Job, Summary
    from convnext_imagenet.serve.predict.spec import Order


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
    topk: int, part_rows: int, batch_size: int, workers: int, timeout_s: float,
    engines: options.Engines, address: str, per_actor: tuple[str, ...], **others: Any,
) -> None:  # fmt: skip
    """Write one Parquet row for every input in IMAGES, unreadable ones included.

    IMAGES is a folder, a list of files (.txt), a tar or a folder of tars, tables (.parquet, .arrow, .feather) with a
    column of image bytes or paths, a RECORDS directory, or a URI such as s3://bucket/folder.
    """
    from convnext_imagenet.base.protocol import check_begun_or_empty, logs_folder
    from convnext_imagenet.model.errors import ModelError

    refuse_unused(engines.place, address=address, per_actor=per_actor)
    show_log_lines()
    with leaving(), expected_errors(ModelError):
        check = partial(check_begun_or_empty, out, "predictions")
        if engines.place == RAY:
            ranks, target = _start_driver(others, check)
        else:
            ranks, target = start(others, logs_folder(out, "predictions"), check)

        from convnext_imagenet.serve.messages import pace, summary_line
        from convnext_imagenet.serve.predict.part_writer import Options
        from convnext_imagenet.serve.predict.spec import Order

        extras = tuple(name for name, asked in (("features", features), ("logits", logits)) if asked)
        chosen = Options(
            topk, part_rows, batch_size, workers, target, others["flip"], extras, timeout_s, engines.network
        )
        order = Order(
            checkpoint, others["weights"], tuple(options.changes(others).items()), images, split, column, out, chosen
        )
        with StopSignals(f"the same command goes on in {out}", second_ends=True) as stop:
            if engines.place == RAY:
                with _cluster(order, address, per_actor, stop) as executor:
                    summary, rows, seconds = _run(order, ranks, stop, executor)
            else:
                summary, rows, seconds = _run(order, ranks, stop)
        click.echo(summary_line(out, summary, pace(rows * ranks.place.ranks, seconds)))
        if ranks.place.is_first:
            _refuse_error_rows(out, summary, max_errors)


def _run(
    order: "Order", ranks: "Ranks", stop: StopSignals, executor: "ClusterExecutor | None" = None
) -> "tuple[Summary, int, float]":
    """Run the job here, or its parts where `executor` does; returns what it holds, the rows done, and the seconds."""
    from convnext_imagenet.serve.predict.cluster import maker_on
    from convnext_imagenet.serve.predict.job import Job, open_job

    if executor is not None:
        order = order.for_other_nodes(_threads(order.options.workers, executor))
    loaded, inputs = order.open()
    started = time.monotonic()
    with open_job(loaded, inputs, order.out, order.options, ranks) as job:
        rows = say_parts(job)
        parts = f"of {len(job.pending)} parts" if executor else ""
        with progress(rows, "predict", units=parts) as bar:
            make_parts = maker_on(executor, order, bar.count_unit) if executor else Job.make_here
            summary = job.run(with_pulse(bar, "predicting"), lambda: stop.received, make_parts)
    return summary, rows, time.monotonic() - started


def _start_driver(choices: dict[str, Any], before: Callable[[], None]) -> "tuple[Ranks, str]":
    """What `start` gives, for a process that computes nothing itself."""
    for name in ("devices", "nodes", "node_rank", "master", "restarts", "silence"):
        if not is_usual(name, choices[name]):
            raise click.UsageError(
                f"--{name.replace('_', '-')}: --engine ray takes what the cluster has; leave it out, see --per-actor"
            )
    before()
    choice = choose_target(choices["device_target"])
    if choices["device_target"] == AUTO:
        click.echo(f"device target {choice.target}: {choice.reason}", err=True)

    from convnext_imagenet.model.runtime import prepare

    prepare("CPU")

    from convnext_imagenet.launch.ranks.collectives import SINGLE

    return SINGLE, choice.target


def _cluster(
    order: "Order", address: str, per_actor: Sequence[str], stop: StopSignals
) -> "AbstractContextManager[ClusterExecutor]":
    from convnext_imagenet.launch.cluster.nodes import need_of_network

    choose_need = partial(need_of_network, order.options.device_target, per_actor)
    return on_cluster(address, choose_need, order.out, order.paths, is_stopped=lambda: stop.received)


def _threads(workers: int, executor: "ClusterExecutor") -> int:
    """The threads that decode beside each network: as many as it has cores, unless the user chose."""
    return workers if is_given("workers") else max(1, int(executor.need.cpus))


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
