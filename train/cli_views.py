"""`convnext-train replay`, `plot` and `track`: what shows a run, and changes none."""

from pathlib import Path

import click

from convnext_imagenet.base.console import FiniteRange, LocalPath, expected_errors
from convnext_imagenet.base.wording import plural
from convnext_imagenet.train.cli_config import config_argument, set_option


@click.command()
@config_argument
@click.option("--records", type=LocalPath(), required=True, help="RECORDS directory.")
@click.option("--sample", "key", required=True, metavar="KEY", help="Image key, such as n01440764_10026.")
@click.option("--epoch", type=click.IntRange(min=1), required=True, help="Epoch, counted from 1.")
@set_option
@click.option("--out", type=LocalPath(), default="replay.png", show_default=True, help="Picture to write.")
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


@click.command()
@click.argument("run_folder", metavar="RUN", type=LocalPath())
@click.option("--out", type=LocalPath(), help="Picture to write.  [default: RUN/curves.png]")
def plot(run_folder: Path, out: Path | None) -> None:
    """Draw loss, learning rate and accuracy of a RUN, finished or not."""
    with expected_errors():
        from convnext_imagenet.base.files import write_atomically
        from convnext_imagenet.train.errors import TrainError
        from convnext_imagenet.train.run.curves import curves_png
        from convnext_imagenet.train.run.epoch import read_metrics, unread_lines

        file = run_folder / "metrics.jsonl"
        metrics = read_metrics(file)
        if not metrics:
            found = "no finished epoch in metrics.jsonl" if run_folder.is_dir() else "no such directory"
            raise TrainError(f"{run_folder}: {found}; give a RUN with at least one epoch")
        picture = out or run_folder / "curves.png"
        write_atomically(picture, curves_png(metrics))
        click.echo(f"{picture}: {plural(len(metrics), 'epoch')}")
        if unread := unread_lines(file, len(metrics)):
            rest = plural(unread, "line")
            click.echo(f"Warning: {file}: line {len(metrics) + 1} is damaged; {rest} from there left out", err=True)


@click.command()
@click.argument("run_folder", metavar="RUN", type=LocalPath())
@click.option(
    "--to", "tool_name", required=True, type=click.Choice(["mlflow", "wandb", "tensorboard"]), help="Tool to send to."
)
@click.option("--follow", "is_following", is_flag=True, help="Keep sending until the run is finished.")
@click.option(
    "--interval",
    "interval_s",
    type=FiniteRange(min=0, min_open=True),
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
        click.echo(f"{run_folder}: {tool_name} has {plural(count, 'epoch')}")
