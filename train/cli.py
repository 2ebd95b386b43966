"""`convnext-train`: the command line of training, its progress bar and its log lines."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from convnext_imagenet.launch.cli import launch_options
from convnext_imagenet.launch.cli import start as start_ranks
from convnext_imagenet.records.cli import expected_errors, show_log_lines

if TYPE_CHECKING:  # importing these takes seconds, which --help must not
    from convnext_imagenet.train.checkpoint import Position
    from convnext_imagenet.train.plan import StepPlan
    from convnext_imagenet.train.reports import EpochReport, StepReport
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
@click.option(
    "--workers", type=click.IntRange(min=1), help="Threads of a rank that prepare batches.  [default: its cores]"
)
@click.option("--start", type=click.Path(path_type=Path), help="Weights to start from: a file, or a RUN (its best).")
@click.option("--save-steps", type=click.IntRange(min=1), help="Save a checkpoint every so many steps, too.")
@click.option("--save-minutes", type=click.FloatRange(min=0, min_open=True), help="Or every so many minutes.")
@launch_options
def run(
    config: str,
    records: Path,
    out: Path,
    overrides: tuple[str, ...],
    workers: int | None,
    start: Path | None,
    save_steps: int | None,
    save_minutes: float | None,
    **launch: Any,
) -> None:
    """Train CONFIG, a preset's name or the path of a .toml file.

    The same command on an interrupted RUN goes on from its last checkpoint: one at the end of each epoch, one when
    SIGTERM, SIGINT or SIGUSR1 stop it, and those that --save-steps and --save-minutes ask for.
    """
    from convnext_imagenet.model.errors import ModelError
    from convnext_imagenet.records.artefact import check_begun_or_empty, logs_folder
    from convnext_imagenet.train.config_source import load_config

    show_log_lines()
    with expected_errors(ModelError):
        resolved = load_config(config, overrides)

        def before() -> None:
            _check_request(records, workers)
            check_begun_or_empty(out, "run")

        ranks, _ = start_ranks(launch, logs_folder(out, "run"), before)

        from convnext_imagenet.serve.checkpoint import resolve_checkpoint
        from convnext_imagenet.train.job import Interval
        from convnext_imagenet.train.run import Request, train

        request = Request(
            records=records,
            run=out,
            workers=workers or len(os.sched_getaffinity(0)),
            interval=Interval(steps=save_steps or 0, seconds=60 * (save_minutes or 0.0)),
            start=None if start is None else resolve_checkpoint(start),
            ranks=ranks,
        )
        with _Screen(out) as screen:
            summary = train(resolved, request, screen)
        _print_summary(summary, records)


@main.command()
@click.argument("config")
@click.option("--records", type=click.Path(path_type=Path), required=True, help="The RECORDS directory.")
@click.option("--sample", "key", required=True, metavar="KEY", help="The image's key, such as n01440764_10026.")
@click.option("--epoch", type=click.IntRange(min=1), required=True, help="Which epoch, from 1.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Replace one key of CONFIG.")
@click.option("--out", type=click.Path(path_type=Path), default="replay.png", show_default=True, help="The picture.")
def replay(config: str, records: Path, key: str, epoch: int, overrides: tuple[str, ...], out: Path) -> None:
    """Write the picture that the network saw of one image: CONFIG is a preset, a .toml file or a RUN."""
    with expected_errors():
        from convnext_imagenet.model.runtime import prepare
        from convnext_imagenet.train.config_source import load_config

        prepare()

        from PIL import Image

        from convnext_imagenet.records.reading import Records
        from convnext_imagenet.serve.picture import PICTURE_FORMATS, save_picture
        from convnext_imagenet.train.errors import TrainError
        from convnext_imagenet.train.replay import replay as seen_in

        if out.suffix.lower() not in PICTURE_FORMATS:
            raise TrainError(f"--out {out}: must end in {', '.join(PICTURE_FORMATS)}")
        source = Path(config) / "config.toml"
        resolved = load_config(str(source) if source.is_file() else config, overrides)
        seen = seen_in(resolved, Records.open(records), key, epoch)
        save_picture(Image.fromarray(seen.pixels), out)
        click.echo(f"{out}: {key} in epoch {epoch}, step {seen.step}")
        for name, share in seen.shares:
            click.echo(f"  {share:.4f} of the target: {name}")


@main.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The picture.  [default: RUN/curves.png]")
def plot(run_folder: Path, out: Path | None) -> None:
    """Draw loss, learning rate and accuracy of a RUN so far."""
    with expected_errors():
        from convnext_imagenet.records.files import write_atomically
        from convnext_imagenet.train.curves import curves_png
        from convnext_imagenet.train.errors import TrainError
        from convnext_imagenet.train.metrics import read_metrics

        metrics = read_metrics(run_folder / "metrics.jsonl")
        if not metrics:
            raise TrainError(f"{run_folder}: no finished epoch in metrics.jsonl; give a RUN that has trained one")
        place = out or run_folder / "curves.png"
        write_atomically(place, curves_png(metrics))
        click.echo(f"{place}: {len(metrics)} epochs")


def _check_request(records: Path, workers: int | None) -> None:
    from convnext_imagenet.train.errors import TrainError

    cores = len(os.sched_getaffinity(0))
    if (workers or 1) > cores:
        raise TrainError(f"--workers {workers}: must not exceed the {cores} cores of this process")
    if not records.exists():
        raise TrainError(
            f"{records}: no such RECORDS directory; make one by `make records DATA=/path/to/imagenet`, "
            f"or see the whole path on small images by `make demo`"
        )


class _Screen:
    """A bar over the whole run on standard error, a few lines for each epoch on standard output, TensorBoard events."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._bar: Any = None
        self._events: Any = None

    def __enter__(self) -> "_Screen":
        return self

    def __exit__(self, *failure: object) -> None:
        for each in (self._bar, self._events):
            if each is not None:
                each.close()

    def on_start(self, plan: "StepPlan", done: "Position") -> None:
        from convnext_imagenet.train.events import Events, has_tensorboard

        if has_tensorboard():
            self._events = Events(self._run, done.step)
        images = plan.global_batch_size
        if done.step:
            click.echo(f"resuming after epoch {done.epoch} of {plan.epochs}, step {done.step} of {plan.total_steps}")
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
        if self._events is not None:
            self._events.on_step(report)

    def on_new_head(self, given: int, classes: int) -> None:
        click.echo(f"the weights to start from know {given} classes, the records {classes}: the head is new")

    def on_warning(self, text: str) -> None:
        with tqdm.external_write_mode():
            click.echo(f"Warning: {text}", err=True)

    def on_epoch(self, report: "EpochReport") -> None:
        if self._events is not None:
            self._events.on_epoch(report)
        milliseconds = report.train_s * 1000
        lines = [
            f"epoch: {report.epoch} step: {report.steps_per_epoch}, loss is {report.last_loss:.6g}",
            f"epoch time: {milliseconds:.3f} ms, per step time: {milliseconds / report.steps_per_epoch:.3f} ms",
        ]
        if (accuracy := report.accuracy) is not None:
            lines.append(
                f"epoch: {report.epoch} Top1-Acc: {accuracy.top1:.5f}, Top{accuracy.guesses}-Acc: {accuracy.top5:.5f}"
            )
        if (average := report.ema_accuracy) is not None:
            lines.append(
                f"epoch: {report.epoch} EMA Top1-Acc: {average.top1:.5f}, Top{average.guesses}-Acc: {average.top5:.5f}"
            )
        with tqdm.external_write_mode():
            click.echo("\n".join(lines))


def _print_summary(summary: "RunSummary", records: Path) -> None:
    state = "was finished before; nothing to do" if summary.was_finished else "is finished"
    click.echo(f"{summary.run}: {state}, {summary.last.epoch} epochs, {summary.last.step} steps")
    best, kind = summary.best, " of the average" if summary.best.best_weights == "ema" else ""
    click.echo(f"best top-1 on val{kind}: {best.best_top1:.5f} (epoch {best.epoch})")
    click.echo(f"curves: {summary.run / 'curves.png'}")
    click.echo(f"next: make eval RUN={summary.run} RECORDS={records}")
