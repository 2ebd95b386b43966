"""`convnext-train`: the command line of training."""

import functools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convnext_imagenet.base.cli_output import progress_option
from convnext_imagenet.base.console import (
    FiniteRange,
    LocalPath,
    Program,
    RenamedOption,
    expected_errors,
    show_log_lines,
)
from convnext_imagenet.base.wording import as_word, plural, to_type
from convnext_imagenet.launch.cli import announcing_exit, device_target_option, enter_ranks, launch_options
from convnext_imagenet.train.cli_config import config, config_argument, presets, set_option
from convnext_imagenet.train.cli_doctor import doctor
from convnext_imagenet.train.cli_dry_run import run_dry
from convnext_imagenet.train.cli_probe import probe
from convnext_imagenet.train.cli_request import check_request, load_fitting, with_weights
from convnext_imagenet.train.cli_views import plot, replay, track
from convnext_imagenet.train.progress import Screen
from convnext_imagenet.train.run_log import run_log

if TYPE_CHECKING:  # importing these takes seconds, and --help must answer at once
    from convnext_imagenet.serve.settings import Weights
    from convnext_imagenet.train.run.run import RunSummary

_DEFAULT_ROLLBACKS = 3
_AUTO = "auto"


@click.group(cls=Program)
@click.version_option(package_name="convnext_imagenet")
def main() -> None:
    """Train a ConvNeXt on RECORDS."""


@main.command()
@config_argument
@click.option("--records", type=click.Path(path_type=Path), help="RECORDS directory or URI to train on.  [required]")
@click.option("--out", type=LocalPath(), help="RUN directory; an unfinished one is resumed.  [required]")
@set_option
@click.option(
    "--workers", type=click.IntRange(min=1), help="Threads per rank that prepare batches.  [default: the rank's cores]"
)
@click.option(
    "--init-from",
    "--start",
    "init_from",
    cls=RenamedOption,
    type=LocalPath(),
    help="Weights to start from: a weights file, or a RUN directory (its best checkpoint).",
)
@click.option(
    "--with-optimizer",
    is_flag=True,
    help="With --init-from RUN: also start with the optimizer's moments of its best checkpoint.",
)
@click.option("--extend", is_flag=True, help="Let an existing RUN get more train.epochs than it began with.")
@click.option(
    "--accept-versions", is_flag=True, help="Resume a RUN that libraries of other versions began; RUN notes it."
)
@click.option(
    "--minutes",
    type=FiniteRange(min=0, min_open=True),
    help="With CONFIG auto: choose as many epochs as fit into this time.",
)
@click.option("--save-steps", type=click.IntRange(min=1), help="Also save a checkpoint every N steps.", metavar="N")
@click.option(
    "--save-minutes",
    type=FiniteRange(min=0, min_open=True),
    help="Also save a checkpoint every M minutes.",
    metavar="M",
)
@click.option(
    "--on-divergence",
    default="stop",
    show_default=True,
    metavar="stop|rollback[:K]",
    help="At a loss or gradients that are not finite: end the run, or continue after them with the weights of the last "
    "checkpoint, at most K times (3).",
)
@click.option(
    "--dry-run",
    "is_dry_run",
    is_flag=True,
    help="Only compile and plan, without a device, and print kernels, memory and bytes. Needs no --records or --out.",
)
@click.option("--json", "report", type=LocalPath(), help="With --dry-run: also write every kernel to this file.")
@click.option(
    "--nondeterministic",
    is_flag=True,
    help="On Ascend and GPU: let the same sum have other last bits each time, which may be faster. A resumed run is "
    "then not bit-identical, and a checkpoint may find that ranks differ.",
)
@progress_option
@launch_options
def run(
    config: str,
    records: Path | None,
    out: Path | None,
    overrides: tuple[str, ...],
    workers: int | None,
    init_from: Path | None,
    with_optimizer: bool,
    minutes: float | None,
    extend: bool,
    accept_versions: bool,
    save_steps: int | None,
    save_minutes: float | None,
    on_divergence: str,
    is_dry_run: bool,
    report: Path | None,
    nondeterministic: bool,
    **launch: Any,
) -> None:
    """Train CONFIG: the name of a preset, the path of a .toml file, or auto.

    auto chooses a configuration for RECORDS as `convnext-train suggest` does and writes it beside RUN, to RUN.toml. To
    resume an interrupted RUN from its last checkpoint, run the same command again. A checkpoint is saved after each
    epoch, when SIGTERM, SIGINT or SIGUSR1 stops the run, and as often as --save-steps and --save-minutes say.
    """
    if is_dry_run:
        run_dry(config, overrides, init_from, records, report, workers, launch)
        return
    if report is not None:
        raise click.UsageError("--json needs --dry-run.")
    if records is None or out is None:
        raise click.UsageError(f"Missing option '{'--out' if records else '--records'}'.")
    if minutes is not None and config != _AUTO:
        raise click.UsageError("--minutes needs CONFIG auto.")
    if with_optimizer and init_from is None:
        raise click.UsageError("--with-optimizer needs --init-from RUN.")

    from convnext_imagenet.base.protocol import check_begun_or_empty, logs_folder
    from convnext_imagenet.launch.devices import choose_target
    from convnext_imagenet.train.config.config import check_network_is_known
    from convnext_imagenet.train.config.source import load_config

    begin = time.perf_counter()
    show_log_lines()
    with announcing_exit(), expected_errors(), run_log() as log:
        from convnext_imagenet.records.cached import local_records

        rollbacks = _parse_on_divergence(on_divergence)
        records = local_records(records, ("train", "val"), lambda line: click.echo(line, err=True))
        chosen_before = None
        if config == _AUTO:
            check_request(records, workers)
            path = out.with_name(f"{out.name}.toml")
            if path.exists():
                chosen_before = path
            else:
                _write_suggestion(path, records, init_from, minutes, workers, launch["device_target"], begin)
            config = str(path)

        def echo(line: str) -> None:
            click.echo(line, err=True)
            log.add(line)

        def before() -> None:
            if chosen_before is not None:
                ignored = ", and --minutes changes nothing" if minutes is not None else ""
                echo(f"{chosen_before} exists and is used{ignored}; to choose again, pass another --out")
            if nondeterministic:
                echo(_check_nondeterministic(launch["device_target"]))
            target = choose_target(launch["device_target"]).target
            checked = load_fitting(config, overrides, records, launch["devices"] * launch["nodes"], target)
            if init_from is None:
                check_network_is_known(checked.model)
            check_request(records, workers)
            check_begun_or_empty(out, "run")

        with log.of_launcher(out):
            ranks, _ = enter_ranks(launch, logs_folder(out, "run"), before, not nondeterministic, echo)
        resolved = load_config(config, overrides)  # checked in `before`, when there were no ranks yet

        from convnext_imagenet.train.run.checkpoint import state_of
        from convnext_imagenet.train.run.context import Interval
        from convnext_imagenet.train.run.plan import Accepted
        from convnext_imagenet.train.run.run import RunRequest, train

        weights = None
        if init_from is not None:
            # Moments belong to the weights as trained, not to their average.
            kind: Weights = "raw" if with_optimizer else "best"
            say = echo if ranks.own.is_first else None
            weights, resolved = with_weights(config, overrides, init_from, out, kind, say)
        request = RunRequest(
            records=records,
            run=out,
            workers=workers or len(os.sched_getaffinity(0)),
            interval=Interval(steps=save_steps or 0, seconds=60 * (save_minutes or 0.0)),
            init_from=weights,
            init_state=state_of(weights) if weights is not None and with_optimizer else None,
            accepted=Accepted(extend=extend, versions=accept_versions),
            ranks=ranks,
            rollbacks=rollbacks,
        )
        with Screen(out, begin, log if ranks.own.is_first else None) as screen:
            summary = train(resolved, request, screen)
        screen.say("\n".join(_summary_lines(summary, records)))


@main.command()
@click.argument("records", type=LocalPath())
@click.option(
    "--minutes",
    type=FiniteRange(min=0, min_open=True),
    help="Choose as many epochs as fit into this time.  [default: as many as the recipe needs]",
)
@click.option(
    "--init-from",
    type=LocalPath(),
    help="Suggest fine-tuning from these weights: a weights file, or a RUN directory (its best checkpoint).",
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Threads that prepare batches.  [default: the process's cores]"
)
@device_target_option
def suggest(
    records: Path, minutes: float | None, init_from: Path | None, workers: int | None, device_target: str
) -> None:
    """Print a configuration for RECORDS: `convnext-train suggest RECORDS > own.toml`.

    It follows from classes, counts and image sizes of the records, and from a few steps that are timed on this machine.
    Comments say why each key was chosen and how long the run will take. `convnext-train run auto` does both steps.
    """
    begin = time.perf_counter()
    with expected_errors():
        check_request(records, workers)
        click.echo(_suggested(records, init_from, minutes, workers, device_target, begin))


for _command in (config, doctor, plot, presets, probe, replay, track):
    main.add_command(_command)


def _write_suggestion(path: Path, *request: Any) -> None:
    """Write a suggested configuration, once: a resumed run, and each rank of a job, reads it."""
    from convnext_imagenet.base.files import make_folder, write_output

    text = _suggested(*request)
    make_folder(path.parent)
    write_output(path, text.encode())
    header = [line for line in text.splitlines() if line.startswith("#")]
    click.echo("\n".join([*header, f"# This configuration: {path}"]), err=True)


def _suggested(
    records: Path, init_from: Path | None, minutes: float | None, workers: int | None, target: str, begin: float
) -> str:
    """Return the text of a suggested configuration; measure on this process's device."""
    from convnext_imagenet.launch.devices import choose_target
    from convnext_imagenet.model.runtime import prepare

    prepare(choose_target(target).target)

    from convnext_imagenet.serve.pointers import resolve_checkpoint
    from convnext_imagenet.train.suggest.suggest import SuggestRequest
    from convnext_imagenet.train.suggest.suggest import suggest as suggest_text

    weights = None if init_from is None else resolve_checkpoint(init_from)
    request = SuggestRequest(records, weights, minutes, workers or len(os.sched_getaffinity(0)))
    return suggest_text(request, lambda: time.perf_counter() - begin, functools.partial(click.echo, err=True))


def _parse_on_divergence(text: str) -> int:
    """Return how often a run may go back. Raises TrainError for another word or count."""
    from convnext_imagenet.train.errors import TrainError

    action, colon, count = text.partition(":")
    if action == "stop" and not colon:
        return 0
    if action == "rollback" and not colon:
        return _DEFAULT_ROLLBACKS
    if action == "rollback" and count.isdecimal() and int(count):
        return int(count)
    raise TrainError(f"--on-divergence {text}: must be stop, rollback or rollback:K with K of at least 1")


def _check_nondeterministic(device_target: str) -> str:
    """Return a line that says what is lost. Raises TrainError on the CPU, where nothing would change."""
    from convnext_imagenet.launch.devices import choose_target
    from convnext_imagenet.train.errors import TrainError

    if choose_target(device_target).target == "CPU":
        raise TrainError(
            "--nondeterministic: the CPU is always deterministic, and this makes it no faster; leave it out"
        )
    return (
        "--nondeterministic: a resumed run will not be bit-identical, and a checkpoint may find that ranks differ, "
        "which ends the run"
    )


def _summary_lines(summary: "RunSummary", records: Path) -> list[str]:
    state = "already finished, nothing to do" if summary.was_finished else "finished"
    epochs = summary.last.epoch
    best, by = summary.best, summary.best_by
    kind = " (EMA weights)" if best.best_weights(by) == "ema" else ""
    top1, loss = best.best_numbers(by)
    number = f"best top-1 on val{kind}: {top1:.5f}"
    if by == "loss":
        number = f"best loss on val{kind}: {loss:.5f}, top-1 {top1:.5f}"
    early = f"ended early: not better for {plural(epochs - best.epoch, 'epoch')}"
    target = f"eval RUN={as_word(summary.run)} RECORDS={as_word(records)}"
    command = f"convnext-serve eval {as_word(summary.run)} --records {as_word(records)}"
    to_continue = "to continue, raise train.patience_epochs and pass --extend"
    return [
        f"{summary.run}: {state}; {plural(epochs, 'epoch')}, {plural(summary.last.step, 'step')}",
        *([f"{early}; {to_continue}"] if epochs < summary.epochs else []),
        f"{number} (epoch {best.epoch})",
        f"curves: {summary.run / 'curves.png'}",
        f"Next: {to_type(target, command)}",
    ]
