"""Options that several commands of `convnext-serve` share, and the frozen values that a command gets from them."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from convnext_imagenet.launch.cli_cluster import LOCAL, RAY, address_option
from convnext_imagenet.serve.settings import ClusterOptions, EngineChoice, PredictOptions, TransformOptions

Command = Callable[..., Any]

PATH = click.Path(path_type=Path)
EXECUTORS = (LOCAL, RAY)
NETWORKS = ("mindspore", "onnxruntime")


def _engine_choice(words: Sequence[str]) -> EngineChoice:
    return EngineChoice(_pick_one(words, EXECUTORS), _pick_one(words, NETWORKS))


def _pick_one(words: Sequence[str], choices: Sequence[str]) -> str:
    """Return the choice that was given, or the first one by default. Raises click.UsageError for two."""
    given = [choice for choice in choices if choice in words]
    if len(given) > 1:
        raise click.UsageError(f"--engine: {' and '.join(given)} exclude each other; choose one of them")
    return (*given, choices[0])[0]


workers = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=lambda: len(os.sched_getaffinity(0)),  # not cpu_count: a batch system may grant fewer
    show_default="the cores of this process",
    help="Threads per rank that decode and resize; the number changes no result.",
)
batch_size = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Images in one batch of the network.",
)
topk = click.option(
    "--topk",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of best classes to list for each image.",
)
weights = click.option(
    "--weights",
    type=click.Choice(["best", "raw", "ema"]),
    default="best",
    show_default=True,
    help="Which weights of a RUN: as trained (raw), their moving average (ema), or the better of the two (best).",
)
flip = click.option("--flip", is_flag=True, help="Average the outputs over the image and its mirror image.")
max_errors = click.option(
    "--max-errors",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Number of error rows to allow; with more, all rows are written and the exit code is 3.",
)
engine = click.option(
    "--engine",
    type=click.Choice([*EXECUTORS, *NETWORKS]),
    multiple=True,
    callback=lambda context, option, words: _engine_choice(words),
    help="Where to run: local, or ray for a cluster (extra `ray`). Which library computes: mindspore, or onnxruntime "
    "(CPU only, no C++ compiler needed, extra `onnx`). To choose both, repeat the option.  [default: local, mindspore]",
)
# The defaults are in the help texts: None means the value in the checkpoint, which click cannot show.
_TRANSFORM = (
    click.option(
        "--size",
        "size_px",
        type=click.IntRange(min=32),
        help="Side of the input in pixels.  [default: as trained]",
    ),
    click.option(
        "--crop-pct",
        type=click.FloatRange(0, 1, min_open=True),
        help="Share of the resized short side that the centre crop keeps.  [default: as trained]",
    ),
    click.option(
        "--resize",
        "mode",
        type=click.Choice(["crop", "squash"]),
        help="Resize the short side and crop the centre, or squash the whole image.  [default: as trained]",
    ),
)
_CLUSTER = (
    address_option,
    click.option(
        "--per-actor",
        multiple=True,
        metavar="NAME=AMOUNT",
        help="With --engine ray: resources that each network reserves, such as CPU=8, GPU=1 or NPU=1; repeatable.  "
        "[default: one device and its share of the cores]",
    ),
)
_PREDICTION = (
    topk,
    click.option(
        "--part-rows",
        type=click.IntRange(min=1),
        default=4096,
        show_default=True,
        help="Maximum number of inputs in one Parquet file; the first files are smaller, to be readable in seconds.",
    ),
    click.option("--features", is_flag=True, help="Add a column with the pooled features before the head."),
    click.option(
        "--normalize",
        is_flag=True,
        help="Add a column with these features divided by their length (L2), for cosine similarity.",
    ),
    click.option("--logits", is_flag=True, help="Add a column with all logits."),
    click.option(
        "--image-timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="Time limit to read and decode one input. An input that takes longer becomes an error row.",
    ),
    flip,
    batch_size,
    workers,
)


def _prediction(features: bool, normalize: bool, logits: bool, **values: Any) -> PredictOptions:
    asked_for = {"features": features, "unit_features": normalize, "logits": logits}
    extras = tuple(name for name, is_asked_for in asked_for.items() if is_asked_for)
    return PredictOptions(extras=extras, **values)


def transform(command: Command) -> Command:
    """Add the options of the evaluation transform to a command, which gets them as the argument `transform`."""
    return _as_one_value("transform", TransformOptions, ("size_px", "crop_pct", "mode"), _TRANSFORM, command)


def cluster(command: Command) -> Command:
    """Add the options of a cluster to a command, which gets them as the argument `cluster`."""
    return _as_one_value("cluster", ClusterOptions, ("address", "per_actor"), _CLUSTER, command)


def prediction(command: Command) -> Command:
    """Add the options of scoring to a command, which gets them as `predict_options` (without engine and device)."""
    names = ("topk", "part_rows", "batch_size", "workers", "flip", "features", "normalize", "logits", "timeout_s")
    return _as_one_value("predict_options", _prediction, names, _PREDICTION, command)


def _as_one_value(
    argument: str, make: Callable[..., Any], names: Sequence[str], options: Sequence[Command], command: Command
) -> Command:
    """Return `command` with `options`; it gets their values `names` as one argument, `argument=make(**values)`."""

    @functools.wraps(command)
    def with_one_value(**values: Any) -> Any:
        return command(**{argument: make(**{name: values.pop(name) for name in names})}, **values)

    for option in reversed(options):  # decorators apply from the last to the first; --help lists them in this order
        with_one_value = option(with_one_value)
    return with_one_value
