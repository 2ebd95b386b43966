"""`convnext-train`: the command line of training, its progress bar and its log lines."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from convnext_imagenet.records.cli import expected_errors, show_log_lines

if TYPE_CHECKING:  # importing these takes seconds, which --help must not
    from convnext_imagenet.train.checkpoint import Position
    from convnext_imagenet.train.loop import EpochReport, StepReport
    from convnext_imagenet.train.plan import StepPlan
    from convnext_imagenet.train.run import RunSummary


@click.group()
@click.version_option(package_name="convnext_imagenet")
def main() -> None:
    """Train a ConvNeXt on RECORDS."""


@main.command()
@click.argument("config")
@click.option("--records", type=click.Path(path_type=Path), required=True, help="The RECORDS directory to train on.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The RUN directory; an existing one resumes."
)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Replace one key of CONFIG.")
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True, help="How many devices.")
@click.option(
    "--device-target",
    type=click.Choice(["CPU", "GPU", "Ascend"]),
    default="CPU",
    show_default=True,
    help="Where to run.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Threads that prepare batches.  [default: one a core]")
def run(
    config: str,
    records: Path,
    out: Path,
    overrides: tuple[str, ...],
    devices: int,
    device_target: str,
    workers: int | None,
) -> None:
    """Train CONFIG, a preset's name or the path of a .toml file.

    The same command on an interrupted RUN resumes it from the end of its last finished epoch.
    """
    from convnext_imagenet.model.errors import ModelError

    with expected_errors(ModelError):
        from convnext_imagenet.train.config_source import load_config

        resolved = load_config(config, overrides)
        cores = len(os.sched_getaffinity(0))
        _check_request(records, devices, workers or cores, cores)

        from convnext_imagenet.model.runtime import prepare

        show_log_lines()
        prepare(device_target)

        from convnext_imagenet.train.run import train

        with _Screen() as screen:
            summary = train(resolved, records, out, workers or cores, screen)
        _print_summary(summary, records)


def _check_request(records: Path, devices: int, workers: int, cores: int) -> None:
    from convnext_imagenet.train.errors import TrainError

    if devices > 1:
        raise TrainError(f"--devices {devices}: this version trains on one device; leave the option out")
    if workers > cores:
        raise TrainError(f"--workers {workers}: must not exceed the {cores} cores of this process")
    if not records.exists():
        raise TrainError(
            f"{records}: no such RECORDS directory; make one by `make records DATA=/path/to/imagenet`, "
            f"or see the whole path on small images by `make demo`"
        )


class _Screen:
    """A bar over the whole run on standard error, and two lines for each epoch on standard output."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> "_Screen":
        return self

    def __exit__(self, *failure: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_start(self, plan: "StepPlan", done: "Position") -> None:
        images = plan.global_batch_size
        if done.epoch:
            click.echo(f"resuming after epoch {done.epoch} of {plan.epochs}")
        click.echo(f"{plan.epochs} epochs of {plan.steps_per_epoch} steps of {images} images; compiling the first step")
        self._bar = tqdm(
            total=plan.total_steps * images,
            initial=done.step * images,
            unit="img",
            desc="train",
            dynamic_ncols=True,
            mininterval=0.5,
        )

    def on_step(self, report: "StepReport") -> None:
        self._bar.set_postfix_str(f"loss {report.loss:.3f}, lr {report.learning_rate:.2e}", refresh=False)
        self._bar.update(report.images)

    def on_epoch(self, report: "EpochReport") -> None:
        milliseconds = report.train_s * 1000
        lines = [
            f"epoch: {report.epoch} step: {report.steps_per_epoch}, loss is {report.last_loss:.6g}",
            f"epoch time: {milliseconds:.3f} ms, per step time: {milliseconds / report.steps_per_epoch:.3f} ms",
        ]
        if (accuracy := report.accuracy) is not None:
            lines.append(
                f"epoch: {report.epoch} Top1-Acc: {accuracy.top1:.5f}, Top{accuracy.guesses}-Acc: {accuracy.top5:.5f}"
            )
        with tqdm.external_write_mode():
            click.echo("\n".join(lines))


def _print_summary(summary: "RunSummary", records: Path) -> None:
    state = "was finished before; nothing to do" if summary.was_finished else "is finished"
    click.echo(f"{summary.run}: {state}, {summary.last.epoch} epochs, {summary.last.step} steps")
    click.echo(f"best top-1 on val: {summary.best.top1:.5f} (epoch {summary.best.epoch})")
    click.echo(f"next: make eval RUN={summary.run} RECORDS={records}")
