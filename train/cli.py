"""`convnext-train`: the command line of training."""

import contextlib
import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convnext_imagenet.base.cli_output import progress_option
from convnext_imagenet.base.console import RenamedOption, expected_errors, show_log_lines
from convnext_imagenet.launch.cli import announcing_exit, device_target_option, enter_ranks, launch_options
from convnext_imagenet.train.cli_config import config, config_argument, presets, set_option
from convnext_imagenet.train.progress import Screen
from convnext_imagenet.train.run_log import run_log

if TYPE_CHECKING:  # importing these takes seconds, and --help must answer at once
    from convnext_imagenet.serve.settings import Weights
    from convnext_imagenet.train.config.config import Config
    from convnext_imagenet.train.config.fit import RunFacts
    from convnext_imagenet.train.doctor import Finding
    from convnext_imagenet.train.run.run import RunSummary

_DEFAULT_ROLLBACKS = 3
_AUTO = "auto"


@click.group()
@click.version_option(package_name="convnext_imagenet")
def main() -> None:
    """Train a ConvNeXt on RECORDS."""


@main.command()
@config_argument
@click.option("--records", type=click.Path(path_type=Path), help="RECORDS directory or URI to train on.  [required]")
@click.option("--out", type=click.Path(path_type=Path), help="RUN directory; an unfinished one is resumed.  [required]")
@set_option
@click.option(
    "--workers", type=click.IntRange(min=1), help="Threads per rank that prepare batches.  [default: the rank's cores]"
)
@click.option(
    "--init-from",
    "--start",
    "init_from",
    cls=RenamedOption,
    type=click.Path(path_type=Path),
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
    type=click.FloatRange(min=0, min_open=True),
    help="With CONFIG auto: choose as many epochs as fit into this time.",
)
@click.option("--save-steps", type=click.IntRange(min=1), help="Also save a checkpoint every N steps.", metavar="N")
@click.option(
    "--save-minutes",
    type=click.FloatRange(min=0, min_open=True),
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
@click.option(
    "--json", "report", type=click.Path(path_type=Path), help="With --dry-run: also write every kernel to this file."
)
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
        _dry_run(config, overrides, init_from, records, report, workers, launch)
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
        records = local_records(records, lambda line: click.echo(line, err=True))
        if config == _AUTO:
            _check_request(records, workers)
            path = out.with_name(f"{out.name}.toml")
            if not path.exists():
                _write_suggestion(path, records, init_from, minutes, workers, launch["device_target"], begin)
            config = str(path)

        def echo(line: str) -> None:
            click.echo(line, err=True)
            log.add(line)

        def before() -> None:
            if nondeterministic:
                echo(_check_nondeterministic(launch["device_target"]))
            target = choose_target(launch["device_target"]).target
            checked = load_config(config, overrides, _facts(records, launch["devices"] * launch["nodes"], target))
            if init_from is None:
                check_network_is_known(checked.model)
            _check_request(records, workers)
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
            weights, resolved = _with_weights(config, overrides, init_from, out, kind, say)
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
@click.argument("records", type=click.Path(path_type=Path))
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Choose as many epochs as fit into this time.  [default: as many as the recipe needs]",
)
@click.option(
    "--init-from",
    type=click.Path(path_type=Path),
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
        _check_request(records, workers)
        click.echo(_suggested(records, init_from, minutes, workers, device_target, begin))


@main.command()
@config_argument
@click.option("--records", type=click.Path(path_type=Path), required=True, help="RECORDS directory.")
@click.option("--sample", "key", required=True, metavar="KEY", help="Image key, such as n01440764_10026.")
@click.option("--epoch", type=click.IntRange(min=1), required=True, help="Epoch, counted from 1.")
@set_option
@click.option(
    "--out", type=click.Path(path_type=Path), default="replay.png", show_default=True, help="Picture to write."
)
def replay(config: str, records: Path, key: str, epoch: int, overrides: tuple[str, ...], out: Path) -> None:
    """Draw one training image as the network saw it. CONFIG is a preset, a .toml file or a RUN."""
    with expected_errors():
        from convnext_imagenet.model.runtime import prepare
        from convnext_imagenet.train.config.source import load_config

        prepare()

        from PIL import Image

        from convnext_imagenet.records.reader import Records
        from convnext_imagenet.serve.picture import PICTURE_FORMATS, save_picture
        from convnext_imagenet.train.errors import TrainError
        from convnext_imagenet.train.replay import replay_sample

        if out.suffix.lower() not in PICTURE_FORMATS:
            raise TrainError(f"--out {out}: must end in {', '.join(PICTURE_FORMATS)}")
        source = Path(config) / "config.toml"
        resolved = load_config(str(source) if source.is_file() else config, overrides)
        sample = replay_sample(resolved, Records.open(records), key, epoch)
        save_picture(Image.fromarray(sample.pixels), out)
        click.echo(f"{out}: {key} in epoch {epoch}, step {sample.step}")
        for name, share in sample.shares:
            click.echo(f"  {share:.4f} of the target: {name}")


@main.command()
@click.option("--records", type=click.Path(path_type=Path), help="Also check this RECORDS directory.")
@click.option("--out", type=click.Path(path_type=Path), help="Also check that this RUN directory can be written.")
@click.option(
    "--quick",
    is_flag=True,
    help="Skip the training step and the all-reduce, which take seconds; show only warnings and errors.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each check as a line of JSON, to be sent to somebody.")
@launch_options
def doctor(records: Path | None, out: Path | None, quick: bool, as_json: bool, **launch: Any) -> None:
    """Check this machine and print what it lacks for a run.

    It checks versions, devices, memory, disk, records, one training step and one all-reduce. Each line begins with ok,
    warning or error. A warning or an error says what to do. The exit code is 1 if there is an error.
    """
    from convnext_imagenet.model.runtime import set_environment

    set_environment()  # before the next line imports MindSpore, which would print its own warnings among ours

    from convnext_imagenet.launch.devices import choose_target
    from convnext_imagenet.train.doctor import ERROR, OK, TESTED, examine
    from convnext_imagenet.train.machine import read_machine

    def show(findings: "Iterable[Finding]") -> list[str]:
        levels = []
        for finding in findings:
            levels.append(finding.level)
            if as_json:
                click.echo(json.dumps(dataclasses.asdict(finding)))
            elif finding.level != OK or not quick:
                advice = "" if finding.level == OK else f"; {finding.advice}"
                click.echo(f"{finding.level:8} {finding.what:22} {finding.result}{advice}")
        return levels

    def before() -> None:
        machine = read_machine(choose_target(launch["device_target"]), TESTED)
        levels = show(examine(machine, launch["devices"], records, out))
        if quick and not as_json:
            click.echo(f"doctor: {levels.count(OK)} of {len(levels)} checks ok; `convnext-train doctor` shows them all")
        if ERROR in levels:
            sys.exit(1)

    with announcing_exit(), expected_errors():
        if quick:
            before()
            return
        ranks, _ = enter_ranks(launch, None, before)

        from convnext_imagenet.train.doctor import try_step, try_sum

        levels = show(examination(ranks) for examination in (try_sum, try_step))
        if ERROR in levels:
            sys.exit(1)


@main.command()
@click.argument("records", type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path), required=True, help="Weights file, or a RUN (its best).")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory; unfinished features resume.")
@click.option(
    "--fraction",
    "fractions",
    type=click.FloatRange(0, 1, min_open=True),
    multiple=True,
    help="Share of the labels to fit to; repeatable. The last one becomes the checkpoint.  [default: 0.01, 0.1, 1]",
)
@click.option(
    "--mlp",
    "hidden",
    type=click.IntRange(min=1),
    help="Also measure a perceptron with this many hidden units, such as 512.  [default: none]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the rows of a share.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images in one batch.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Threads that decode.  [default: the cores of this process]"
)
@device_target_option
def probe(
    records: Path, weights: Path, out: Path, fractions: tuple[float, ...], hidden: int | None, seed: int,
    batch_size: int, workers: int | None, device_target: str,
) -> None:  # fmt: skip
    """Fit linear heads and nearest neighbours to the features of frozen WEIGHTS.

    Writes features once (OUT/features), the best linear head as a checkpoint (OUT/probe.safetensors) and a page,
    OUT/report.html. A strength of the L2 penalty and k are chosen on a tenth of train; val only measures.
    """
    show_log_lines()
    with announcing_exit(), expected_errors():
        from convnext_imagenet.launch.devices import choose_target
        from convnext_imagenet.model.runtime import prepare

        target = choose_target(device_target).target
        prepare(target)

        from convnext_imagenet.base.console import progress
        from convnext_imagenet.base.signals import StopSignals
        from convnext_imagenet.records.reader import Records
        from convnext_imagenet.serve.checkpoint import load_checkpoint
        from convnext_imagenet.serve.settings import PredictOptions
        from convnext_imagenet.train.probe.probe import CHECKPOINT, FRACTIONS, PAGE, write_features
        from convnext_imagenet.train.probe.probe import probe as fit_probe

        opened, checkpoint = Records.open(records), load_checkpoint(weights)
        cores = workers or len(os.sched_getaffinity(0))
        options = PredictOptions(batch_size=batch_size, workers=cores, device_target=target, extras=("features",))
        found, started = {}, time.monotonic()
        with StopSignals(f"run the same command again to resume in {out}", second_ends=True) as stop:
            for split in ("train", "val"):
                with progress(opened.split(split).rows, f"features {split}") as bar:
                    found[split] = write_features(
                        checkpoint, records, split, out / "features" / split, options, bar, lambda: stop.received
                    )
        report = fit_probe(
            checkpoint, opened, found["train"], found["val"], out, seed, fractions or FRACTIONS, hidden or 0,
            time.monotonic() - started, click.echo,
        )  # fmt: skip
        click.echo(f"{out / CHECKPOINT}: written after {report['seconds']['heads']:.1f} s of fitting; {out / PAGE}")
        click.echo(f"Next: convnext-serve eval {out / CHECKPOINT} --records {records}", err=True)


@main.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Picture to write.  [default: RUN/curves.png]")
def plot(run_folder: Path, out: Path | None) -> None:
    """Draw loss, learning rate and accuracy of a RUN, finished or not."""
    with expected_errors():
        from convnext_imagenet.base.files import write_atomically
        from convnext_imagenet.train.errors import TrainError
        from convnext_imagenet.train.run.curves import curves_png
        from convnext_imagenet.train.run.epoch import read_metrics

        metrics = read_metrics(run_folder / "metrics.jsonl")
        if not metrics:
            raise TrainError(f"{run_folder}: no finished epoch in metrics.jsonl; give a RUN with at least one")
        picture = out or run_folder / "curves.png"
        write_atomically(picture, curves_png(metrics))
        click.echo(f"{picture}: {len(metrics)} epoch{'s' * (len(metrics) != 1)}")


main.add_command(presets)
main.add_command(config)


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

    from convnext_imagenet.serve.checkpoint import resolve_checkpoint
    from convnext_imagenet.train.suggest.suggest import SuggestRequest
    from convnext_imagenet.train.suggest.suggest import suggest as suggest_text

    weights = None if init_from is None else resolve_checkpoint(init_from)
    request = SuggestRequest(records, weights, minutes, workers or len(os.sched_getaffinity(0)))
    return suggest_text(request, lambda: time.perf_counter() - begin, functools.partial(click.echo, err=True))


def _with_weights(
    config: str,
    overrides: tuple[str, ...],
    init_from: Path,
    out: Path | None,
    kind: "Weights",
    say: Callable[[str], None] | None,
) -> "tuple[Path, Config]":
    """Return the weights file of a RUN's `kind`, and CONFIG with what it leaves to the weights; say what this is."""
    from convnext_imagenet.model.weights import load_card
    from convnext_imagenet.serve.checkpoint import resolve_checkpoint
    from convnext_imagenet.train.config.from_weights import keys_from_weights, load_config_for_weights

    weights = resolve_checkpoint(init_from, kind)
    resolved = load_config_for_weights(config, overrides, load_card(weights), out)
    if say and (taken := keys_from_weights(config, overrides, resolved)):
        say(f"not stated, so taken from the weights: {' '.join(taken)}")
    return weights, resolved


@main.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--to", "tool_name", required=True, type=click.Choice(["mlflow", "wandb", "tensorboard"]), help="Tool to send to."
)
@click.option("--follow", "is_following", is_flag=True, help="Keep sending until the run is finished.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="With --follow: how often to look for new epochs.",
)
@click.option("--name", help="Name of the run in the tool.  [default: the name of the folder RUN]")
@click.option("--project", default="convnext_imagenet", show_default=True, help="Experiment of MLflow, project of W&B.")
def track(
    run_folder: Path, tool_name: str, is_following: bool, interval_s: float, name: str | None, project: str
) -> None:
    """Send configuration and finished epochs of a RUN to MLflow, W&B (offline) or TensorBoard.

    Each epoch is sent once: RUN/tracked-TOOL.json remembers which were, also over kills. A run is not slowed down,
    because this is a process of its own; start it beside the run, or afterwards.
    """
    with expected_errors():
        from convnext_imagenet.base.signals import StopSignals
        from convnext_imagenet.train.track.follow import TrackedRun, follow, parameters
        from convnext_imagenet.train.track.tools import GuardedTool

        shown_as = TrackedRun("", name or run_folder.resolve().name, project, parameters(run_folder / "config.toml"))
        memory = run_folder / f"tracked-{tool_name}.json"
        tool = GuardedTool(tool_name, memory.with_suffix(""))

        def on_sent(epoch: int, is_replaced: bool) -> None:
            click.echo(f"epoch {epoch} sent to {tool_name}{' again: its numbers have changed' * is_replaced}")

        with StopSignals("run the same command again to send the rest") as stop:

            def wait() -> bool:
                return is_following and stop.wait(interval_s)

            count = follow(run_folder, memory, tool, shown_as, wait, on_sent)
            stop.check()
        click.echo(f"{run_folder}: {tool_name} has {count} epoch{'s' * (count != 1)}")


def _dry_run(
    config: str,
    overrides: tuple[str, ...],
    init_from: Path | None,
    records: Path | None,
    report: Path | None,
    workers: int | None,
    launch: dict[str, Any],
) -> None:
    begin = time.perf_counter()
    from convnext_imagenet.train.config.config import check_network_is_known
    from convnext_imagenet.train.config.source import load_config

    with expected_errors():
        devices, target = launch["devices"] * launch["nodes"], launch["device_target"]
        resolved = load_config(config, overrides, _facts(records, devices, target))
        weights = None
        if init_from is not None:
            from convnext_imagenet.model.runtime import set_environment

            set_environment()  # before the next line imports MindSpore
            weights, resolved = _with_weights(
                config, overrides, init_from, None, "best", functools.partial(click.echo, err=True)
            )
        check_network_is_known(resolved.model)

        from convnext_imagenet.base.files import write_output
        from convnext_imagenet.train.dry_run import dry_run, plan_dry_run
        from convnext_imagenet.train.dry_run_table import report_lines

        plan = plan_dry_run(resolved, records, target, devices)
        click.echo(f"compiling for {plan.target}, which takes a minute or two", err=True)
        found = dry_run(resolved, plan)
        for line in report_lines(found, config):
            click.echo(line)
        run_forecast = None
        if records is not None:
            run_forecast = _print_forecast(resolved, records, weights, workers, plan.target, devices, begin)
        if report is not None:
            value = found.to_json() | {"run": run_forecast}
            write_output(report, json.dumps(value, indent=1).encode() + b"\n")


def _print_forecast(
    config: "Config", records: Path, weights: Path | None, workers: int | None, target: str, devices: int, begin: float
) -> dict[str, Any]:
    """Print steps, checkpoints and memory of a run and, for the CPU, its time; return them for --json."""
    from convnext_imagenet.model.runtime import prepare

    compiled_s = time.perf_counter() - begin  # what a run does not need
    prepare("CPU")

    from convnext_imagenet.train.forecast import forecast_lines, forecast_run, with_times

    found = forecast_run(config, records, devices)
    if target == "CPU":
        start_s = time.perf_counter() - begin - compiled_s
        found = with_times(found, config, records, weights, workers or len(os.sched_getaffinity(0)), start_s)
    click.echo("\n".join(["", *forecast_lines(found)]))
    return found.to_json()


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


def _facts(records: Path | None, devices: int, target: str) -> "RunFacts":
    """Return what a configuration must fit. Records without train, or that cannot be read, are refused later."""
    from convnext_imagenet.base.errors import ArtefactError
    from convnext_imagenet.base.protocol import read_finished
    from convnext_imagenet.records.manifest import Manifest
    from convnext_imagenet.train.config.fit import RunFacts

    if records is not None:
        with contextlib.suppress(ArtefactError, KeyError):
            manifest = Manifest.from_json(read_finished(records, "records"))
            return RunFacts(devices, manifest.splits["train"].rows, len(manifest.classes), target)
    return RunFacts(devices, target=target)


def _check_request(records: Path, workers: int | None) -> None:
    from convnext_imagenet.train.errors import TrainError

    cores = len(os.sched_getaffinity(0))
    if (workers or 1) > cores:
        raise TrainError(f"--workers {workers}: must not exceed the {cores} cores of this process")
    if not records.exists():
        raise TrainError(
            f"{records}: no such RECORDS directory; create one with `make records DATA=/path/to/imagenet`, "
            f"or try everything on small images with `make demo`"
        )


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
    early = f"ended early: not better for {epochs - best.epoch} epochs"
    to_continue = "to continue, raise train.patience_epochs and pass --extend"
    return [
        f"{summary.run}: {state}; {epochs} epoch{'s' * (epochs != 1)}, {summary.last.step} steps",
        *([f"{early}; {to_continue}"] if epochs < summary.epochs else []),
        f"{number} (epoch {best.epoch})",
        f"curves: {summary.run / 'curves.png'}",
        f"Next: make eval RUN={summary.run} RECORDS={records}",
    ]
