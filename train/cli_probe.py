"""`convnext-train probe`: its options, and what it prints."""

import os
import time
from pathlib import Path

import click

from convnext_imagenet.base.console import FiniteRange, LocalPath, expected_errors, show_log_lines
from convnext_imagenet.base.wording import as_word
from convnext_imagenet.launch.cli import announcing_exit, device_target_option


@click.command()
@click.argument("records", type=LocalPath())
@click.option("--weights", type=LocalPath(), required=True, help="Weights file, or a RUN (its best).")
@click.option("--out", type=LocalPath(), required=True, help="Directory; unfinished features resume.")
@click.option(
    "--fraction",
    "fractions",
    type=FiniteRange(0, 1, min_open=True),
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
        click.echo(f"Next: convnext-serve eval {as_word(out / CHECKPOINT)} --records {as_word(records)}", err=True)
