"""The options that commands of `convnext-serve` share; what they mean is the business of the commands."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from convnext_imagenet.launch.cli_cluster import LOCAL, RAY, address_option

if TYPE_CHECKING:  # importing it takes seconds, which --help must not
    from convnext_imagenet.serve.checkpoint import Checkpoint

PATH = click.Path(path_type=Path)
PLACES = (LOCAL, RAY)
NETWORKS = ("mindspore", "onnxruntime")


class Engines(NamedTuple):
    """What --engine says: where the work runs, and what computes."""

    place: str
    network: str


def _one(given: Sequence[str], choices: Sequence[str]) -> str:
    """The one of the choices that was given, the first of them when none was."""
    chosen = [each for each in choices if each in given]
    if len(chosen) > 1:
        raise click.UsageError(f"--engine: {' and '.join(chosen)} exclude each other; give one of them")
    return (*chosen, choices[0])[0]


workers = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=lambda: len(os.sched_getaffinity(0)),
    show_default="the cores of this process",
    help="Threads of a rank that decode and resize; they change no result.",
)
batch_size = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Images that the network sees at once.",
)
topk = click.option(
    "--topk", type=click.IntRange(min=1), default=5, show_default=True, help="Classes named for each image."
)
_EVALUATION = (
    click.option("--records", type=PATH, required=True, help="The RECORDS directory that holds the images."),
    click.option("--split", default="val", show_default=True, help="The split to evaluate."),
    click.option("--report", type=PATH, help="Also write predictions, tables and a page into this directory."),
    click.option("--real", type=PATH, help="With --report: the real.json of the ReaL labels, for their accuracy."),
)
_PREDICTION = (
    click.option(
        "--max-errors",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Error rows that still end with exit code 0; more end with 3. All rows are written either way.",
    ),
    click.option(
        "--part-rows",
        type=click.IntRange(min=1),
        default=4096,
        show_default=True,
        help="Most inputs in one Parquet file; the first files are smaller, so that rows are there within seconds.",
    ),
    click.option(
        "--engine",
        "engines",
        type=click.Choice([*PLACES, *NETWORKS]),
        multiple=True,
        callback=lambda context, option, given: Engines(_one(given, PLACES), _one(given, NETWORKS)),
        help="Where it runs: local, or ray, a cluster (extra `ray`). What computes: mindspore, or onnxruntime, which "
        "needs no C++ compiler (CPU alone, extra `onnx`). Once for each.  [default: local, mindspore]",
    ),
    address_option,
    click.option(
        "--per-actor",
        multiple=True,
        metavar="NAME=AMOUNT",
        help="With --engine ray: what one network takes of a node, such as CPU=8, GPU=1 or NPU=1; may be repeated.  "
        "[default: one device and its share of the cores]",
    ),
    click.option("--features", is_flag=True, help="Add a column with the pooled vector before the head."),
    click.option("--logits", is_flag=True, help="Add a column with all logits."),
    click.option(
        "--image-timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="An input that takes longer to read and decode becomes an error row.",
    ),
)
_EVALUATED_AT = (
    click.option("--size", "size_px", type=click.IntRange(min=32), help="Pixels of a side.  [default: as trained]"),
    click.option(
        "--crop-pct",
        type=click.FloatRange(0, 1, min_open=True),
        help="Share of the resized image that the centre crop keeps.  [default: as trained]",
    ),
    click.option(
        "--resize",
        "mode",
        type=click.Choice(["crop", "squash"]),
        help="Resize the short side and crop, or squash all of the image.  [default: as trained]",
    ),
)
_TRANSFORM = (
    click.option(
        "--weights",
        type=click.Choice(["best", "raw", "ema"]),
        default="best",
        show_default=True,
        help="Of a RUN: the better of its best epoch, the weights as they are, or their moving average.",
    ),
    *_EVALUATED_AT,
    click.option("--flip", is_flag=True, help="Average over the image and its mirror image."),
)


def evaluation(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of what is evaluated and what is written of it."""
    return _with(_EVALUATION, command)


def prediction(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of what PREDICTIONS holds and how far errors are allowed."""
    return _with(_PREDICTION, command)


def transform(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose weights and evaluation transform; `chosen` reads them."""
    return _with(_TRANSFORM, command)


def chosen(checkpoint: Path, given: Mapping[str, Any]) -> "Checkpoint":
    """The checkpoint with the weights and the evaluation transform that the options of `transform` chose."""
    from convnext_imagenet.serve.checkpoint import load_checkpoint

    return load_checkpoint(checkpoint, given["weights"]).evaluated_with(**changes(given))


def changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the options of `evaluated_at` say of the evaluation transform; None where one was not given."""
    return {name: given[name] for name in ("size_px", "crop_pct", "mode")}


def evaluated_at(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that state the evaluation transform."""
    return _with(_EVALUATED_AT, command)


def _with(options: Sequence[Callable[..., Any]], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command
