"""`convnext-serve predict`: its options, what it prints and its exit code; predict/job.py does the work."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convnext_imagenet.base.cli_output import json_option, progress_option, result_on_stdout
from convnext_imagenet.base.console import expected_errors, progress, show_log_lines
from convnext_imagenet.base.own_process import command_began
from convnext_imagenet.base.signals import StopSignals
from convnext_imagenet.base.wording import plural
from convnext_imagenet.launch.cli import announcing_exit, enter_ranks, launch_options, with_heartbeat
from convnext_imagenet.launch.cli_cluster import RAY, is_given, is_usual, on_cluster, refuse_unused
from convnext_imagenet.launch.devices import AUTO, choose_target
from convnext_imagenet.serve import options
from convnext_imagenet.serve.settings import (
    ClusterOptions,
    EngineChoice,
    ErrorLimit,
    InputOptions,
    PredictOptions,
    TransformOptions,
    Weights,
)

if TYPE_CHECKING:  # importing these takes seconds, which --help must not
    from convnext_imagenet.launch.cluster.units import ClusterExecutor
    from convnext_imagenet.launch.ranks.collectives import Ranks
    from convnext_imagenet.serve.predict.job import PredictionJob, Summary
    from convnext_imagenet.serve.predict.spec import PredictionSpec


@click.command()
@click.argument("checkpoint", type=options.PATH)
@click.argument("images")
@options.inputs
@click.option(
    "--out",
    type=options.PATH_OR_URI,
    required=True,
    help="PREDICTIONS directory, or a URI of a store, such as s3://bucket/folder; an unfinished one is resumed.",
)
@options.max_errors
@options.retry
@options.weights
@options.transform
@options.prediction
@options.engine
@options.cluster
@click.option(
    "--dry-run", "is_dry_run", is_flag=True, help="Write nothing: score the first inputs, print rows, parts and time."
)
@json_option()
@progress_option
@launch_options
def predict(
    checkpoint: Path, images: str, choice: InputOptions, out: Path | str, max_errors: ErrorLimit,
    retry: tuple[str, ...], weights: Weights, transform: TransformOptions, predict_options: PredictOptions,
    engine: EngineChoice, cluster: ClusterOptions, is_dry_run: bool, as_json: bool, **launch: Any,
) -> None:  # fmt: skip
    """Write one Parquet row for every input in IMAGES.

    An unreadable input gets a row with the error.

    IMAGES is a folder, a list of files (.txt), a tar or a folder of tars, tables (.parquet, .arrow, .feather) with a
    column of image bytes or paths, a folder of Hugging Face's save_to_disk, a RECORDS directory, or a URI such as
    s3://bucket/folder.
    """
    from convnext_imagenet.base.protocol import logs_folder

    begin = command_began()
    if is_dry_run and (engine.executor == RAY or launch["devices"] * launch["nodes"] > 1):
        raise click.UsageError("--dry-run is for one device of this machine, without --devices and --engine ray")
    refuse_unused(engine.executor, **cluster._asdict())
    show_log_lines()
    with _leaving_hanging_calls(), announcing_exit(), expected_errors(), result_on_stdout(as_json) as print_result:
        check = partial(_check_out, out, engine.executor)
        if engine.executor == RAY:
            ranks, target = _start_driver(launch, check)
        else:
            logs = None if isinstance(out, str) else logs_folder(out, "predictions")
            ranks, target = enter_ranks(launch, logs, check)

        from convnext_imagenet.base.uris import public_place
        from convnext_imagenet.serve.messages import pace, summary_line
        from convnext_imagenet.serve.predict.spec import PredictionSpec

        predict_options = replace(predict_options, device_target=target, engine=engine.network)
        spec = PredictionSpec(checkpoint, weights, transform, images, choice, out, predict_options)
        if is_dry_run:
            print_result(_print_forecast(spec, begin))
            return
        shown = public_place(out) if isinstance(out, str) else out
        with StopSignals(f"run the same command again to resume in {shown}", second_ends=True) as stop:
            if engine.executor == RAY:
                with _cluster(spec, cluster, stop) as executor:
                    summary, rows, seconds = _run(spec, ranks, stop, retry, executor)
            else:
                summary, rows, seconds = _run(spec, ranks, stop, retry)
        click.echo(summary_line(shown, summary, pace(rows * ranks.own.world, seconds)))
        if ranks.own.is_first:
            print_result(
                {"predictions": shown, "rows": summary.rows, "statuses": summary.statuses}
                | {"parts": summary.parts, "parts_made": summary.parts_made, "seconds": seconds}
            )
            _refuse_error_rows(out, shown, summary, max_errors)


@contextlib.contextmanager
def _leaving_hanging_calls() -> Iterator[None]:
    """End the process with the exit code of the block when a call into a library still hangs in a thread.

    The interpreter does not wait for such a thread, but the libraries of stores wait for their requests.
    """
    code: int | None = 0
    try:
        yield
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
        raise
    finally:
        prefetch = sys.modules.get("convnext_imagenet.serve.prefetch")
        if prefetch is not None and sys.exc_info()[0] in (None, SystemExit) and prefetch.has_hanging_calls():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or 0)


def _check_out(out: Path | str, executor: str) -> None:
    """Raise ExpectedError for a place that cannot become PREDICTIONS, before any work."""
    from convnext_imagenet.serve.errors import ServeError
    from convnext_imagenet.serve.predict.place import open_place

    if isinstance(out, str) and executor == RAY:
        raise ServeError("--engine ray writes to a folder that all nodes share; pass a path as --out, not a URI")
    open_place(out).check()


def _print_forecast(spec: "PredictionSpec", begin: float) -> dict[str, Any]:
    """Print what the job would do, and return it for --json."""
    from convnext_imagenet.serve.predict.forecast import forecast_lines, forecast_predictions

    found = forecast_predictions(*spec.open(), spec.options, begin)
    click.echo("\n".join(forecast_lines(found)))
    return found.to_json()


def _run(
    spec: "PredictionSpec", ranks: "Ranks", stop: StopSignals, retry: tuple[str, ...],
    executor: "ClusterExecutor | None" = None,
) -> "tuple[Summary, int, float]":  # fmt: skip
    """Run the job here, or its parts on `executor`; return what PREDICTIONS holds, the rows done, and the seconds."""
    from convnext_imagenet.serve.predict.cluster import ClusterRunner
    from convnext_imagenet.serve.predict.job import LocalRunner, open_job
    from convnext_imagenet.serve.predict.place import open_place
    from convnext_imagenet.serve.prefetch import Stopped, call_apart

    if executor is not None:
        spec = spec.for_other_nodes(_threads(spec.options.workers, executor))
    try:
        checkpoint, inputs = call_apart(spec.open, lambda: stop.received)  # a store may keep its listing for minutes
    except Stopped:
        raise stop.interruption() from None
    started = time.monotonic()
    with open_job(checkpoint, inputs, open_place(spec.out), spec.options, ranks, retry) as job:
        rows = report_finished_parts(job)
        parts = f"of {len(job.pending)} parts" if executor else ""
        with progress(rows, "predict", units=parts) as bar:
            runner = (
                ClusterRunner(executor, spec, bar.count_unit)
                if executor
                else LocalRunner(lambda: stop.received, lambda stage: bar.note(f"waits for {stage}"))
            )
            summary = job.run(with_heartbeat(bar, "predicting"), runner)
    return summary, rows, time.monotonic() - started


def _start_driver(choices: dict[str, Any], before: Callable[[], None]) -> "tuple[Ranks, str]":
    """Return what `enter_ranks` returns, for a process that computes nothing itself.

    Raises click.UsageError for an option of the launcher, which the cluster replaces.
    """
    for name in ("devices", "nodes", "node_rank", "rendezvous", "restarts", "heartbeat_timeout"):
        if not is_usual(name, choices[name]):
            raise click.UsageError(
                f"--{name.replace('_', '-')}: --engine ray uses the devices of the cluster; leave this option "
                f"out, or see --per-actor"
            )
    before()
    choice = choose_target(choices["device_target"])
    if choices["device_target"] == AUTO:
        click.echo(f"device target {choice.target}: {choice.reason}", err=True)

    from convnext_imagenet.model.runtime import prepare

    prepare("CPU")  # the networks run on the nodes: the driver needs no device

    from convnext_imagenet.launch.ranks.collectives import SINGLE

    return SINGLE, choice.target


def _cluster(
    spec: "PredictionSpec", cluster: ClusterOptions, stop: StopSignals
) -> "AbstractContextManager[ClusterExecutor]":
    from convnext_imagenet.launch.cluster.nodes import network_resources

    choose_resources = partial(network_resources, spec.options.device_target, cluster.per_actor)
    out = Path(spec.out)  # no URI: _check_out has refused it
    return on_cluster(cluster.address, choose_resources, out, spec.paths, is_stopped=lambda: stop.received)


def _threads(workers: int, executor: "ClusterExecutor") -> int:
    """Return the decoding threads beside each network: the user's choice, else as many as the network has cores."""
    return workers if is_given("workers") else max(1, int(executor.per_worker.cpus))


def report_finished_parts(job: "PredictionJob") -> int:
    """Print how many of this rank's parts are there already; return the number of inputs still to be read."""
    done = len(job.own_parts) - len(job.pending)
    if done:
        click.echo(f"{job.out}: {done} of {len(job.own_parts)} parts are there already", err=True)
    return job.pending_rows


def _refuse_error_rows(out: Path | str, shown: Path | str, summary: "Summary", max_errors: ErrorLimit) -> None:
    from convnext_imagenet.serve.errors import ErrorRows
    from convnext_imagenet.serve.predict.job import first_error_row
    from convnext_imagenet.serve.predict.place import open_place

    if summary.first_error_part is None or max_errors.allows(summary.error_rows, summary.rows):
        return
    first = first_error_row(open_place(out), summary.first_error_part)
    unread = [status for status in ("read_error", "timeout") if summary.statuses.get(status)]
    retry = f", pass --retry {','.join(unread)} to read those inputs again" if unread else ""
    raise ErrorRows(
        f"{shown} is finished: every input has its row. {plural(summary.error_rows, 'error row')}, more than the "
        f"{max_errors} allowed; the first is {first}. See the columns status and error{retry}, or pass --max-errors "
        f"{summary.error_rows}"
    )
