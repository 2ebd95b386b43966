"""Options that several commands of `convnext-serve` share, and the frozen values that a command gets from them."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from convnext_imagenet.base.console import FiniteRange
from convnext_imagenet.base.schemes import is_uri
from convnext_imagenet.launch.cli_cluster import LOCAL, RAY, address_option, is_given
from convnext_imagenet.serve.settings import (
    MOST_CHANGED,
    ClusterOptions,
    EngineChoice,
    ErrorLimit,
    InputOptions,
    PredictOptions,
    TransformOptions,
)

Command = Callable[..., Any]

PATH = click.Path(path_type=Path)


class _PathOrUri(click.ParamType):
    """A path as a Path, a URI as text."""

    name = "PATH|URI"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """Return the value as what it is."""
        return value if is_uri(str(value)) else Path(value)


PATH_OR_URI = _PathOrUri()
EXECUTORS = (LOCAL, RAY)
NETWORKS = ("mindspore", "onnxruntime")
MEASURES = ("margin", "entropy", "energy", "max_logit")  # those of serve/measures.py, which --help must not import
RETRIABLE = ("read_error", "timeout", "decode_error", "damaged", "too_large", "unsupported")


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
precision = click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "auto"]),
    default="float32",
    show_default=True,
    help="Precision of matrix products on the CPU; sums, norms and the rest stay float32. bfloat16 needs a processor "
    "with AMX or AVX512-BF16; auto is bfloat16 on such a processor, if the network is a usual one, else float32.",
)


def refuse_without(needed: str, *names: str) -> None:
    """Raise UsageError for an option of these that was given although it works only with `needed`."""
    for name in names:
        if is_given(name):
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} works only with {needed}; pass that, too, or leave {option} out")


class _ErrorLimitType(click.ParamType):
    """A number of rows, such as 100, or a share of all, such as 0.5%."""

    name = "NUMBER|PERCENT%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ErrorLimit:
        """Return the limit. Raises click.BadParameter for anything else."""
        if isinstance(value, ErrorLimit):
            return value
        number, percent, rest = str(value).partition("%")
        try:
            limit = ErrorLimit(float(number) if percent else int(number), bool(percent))
        except ValueError:
            limit = ErrorLimit(-1)
        if rest or not 0 <= limit.amount <= (100 if percent else float("inf")):
            self.fail(f"{value!r} is neither a number of rows, such as 100, nor a percentage, such as 0.5%", param, ctx)
        return limit


class _WordsType(click.ParamType):
    """Words of a list, separated by commas."""

    def __init__(self, name: str, words: Sequence[str]) -> None:
        self.name, self._words = name, words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the words in the order of the list. Raises click.BadParameter for another word."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",")]
        unknown = [word for word in words if word not in self._words]
        if unknown:
            self.fail(f"{unknown[0]!r} is none of {', '.join(self._words)}", param, ctx)
        return tuple(word for word in self._words if word in words)


max_errors = click.option(
    "--max-errors",
    type=_ErrorLimitType(),
    default="0",
    show_default=True,
    help="Error rows to allow, as a number or a percentage; with more, all rows are written and the exit code is 3.",
)
max_changed = click.option(
    "--max-changed",
    type=_ErrorLimitType(),
    default=str(MOST_CHANGED),
    show_default=True,
    help="Rows that may change their class, as a number or a percentage; with more, nothing is written.",
)
retry = click.option(
    "--retry",
    type=_WordsType("STATUS,...", RETRIABLE),
    default=(),
    help="Make the parts again that hold rows of these statuses, such as read_error,timeout; all other parts stay.",
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
        type=FiniteRange(0, 1, min_open=True),
        help="Share of the resized short side that the centre crop keeps.  [default: as trained]",
    ),
    click.option(
        "--resize",
        "mode",
        type=click.Choice(["crop", "squash"]),
        help="Resize the short side and crop the centre, or squash the whole image.  [default: as trained]",
    ),
)
_INPUTS = (
    click.option("--split", default="val", show_default=True, help="Split to read when IMAGES is a RECORDS directory."),
    click.option("--column", default="", help="Column to read when several columns of a table could hold images."),
    click.option(
        "--include",
        multiple=True,
        metavar="GLOB",
        help="Score only files or members of tars like this, such as '*.jpg' or 'train/*'; repeatable.",
    ),
    click.option("--exclude", multiple=True, metavar="GLOB", help="Leave out files or members like this; repeatable."),
    click.option(
        "--keep",
        default="",
        callback=lambda context, option, value: tuple(dict.fromkeys(filter(None, map(str.strip, value.split(","))))),
        metavar="COLUMN,...",
        help="Columns of a table to store beside the predictions, and the column table_row.",
    ),
    click.option("--label-column", default="", help="Column of a table with labels: wnids, names or class indices."),
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
        "--uncertainty",
        type=_WordsType("NAME,...", MEASURES),
        default=(),
        help=f"Add columns that say how sure the network is: {', '.join(MEASURES)}.",
    ),
    click.option(
        "--calibration",
        type=PATH,
        help="Report of `eval --report` for this network: adds calibrated_score and conformal_set.",
    ),
    click.option(
        "--coverage",
        type=FiniteRange(0, 1, min_open=True, max_open=True),
        default=0.9,
        show_default=True,
        help="With --calibration: the share of images whose conformal_set holds the true class.",
    ),
    click.option(
        "--image-timeout",
        "timeout_s",
        type=FiniteRange(min=0, min_open=True),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="Time limit to read one input, and to decode it. An input that takes longer becomes an error row.",
    ),
    click.option(
        "--exif",
        type=click.Choice(["ignore", "apply"]),
        default="ignore",
        show_default=True,
        help="Turn images as their EXIF orientation says (apply), or score them as they are stored, as trainers do.",
    ),
    click.option(
        "--max-pixels",
        type=click.IntRange(min=1),
        help="Decode images of up to so many pixels; memory grows by about 10 bytes per pixel and worker.  "
        "[default: 64000000]",
    ),
    click.option(
        "--retry-for",
        "retry_s",
        type=FiniteRange(min=0),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to try again, with growing pauses, when an input cannot be read for a reason that may pass.",
    ),
    click.option(
        "--stop-after",
        type=click.IntRange(min=0),
        default=10,
        show_default=True,
        metavar="N",
        help="Stop with exit code 74 when N inputs in a row cannot be read: their disk or store has failed. 0: never.",
    ),
    click.option(
        "--readers",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        help="Threads per rank that read inputs, as a slow store needs many; the number changes no result.",
    ),
    flip,
    precision,
    batch_size,
    workers,
)


def _prediction(
    features: bool, normalize: bool, logits: bool, uncertainty: tuple[str, ...], **values: Any
) -> PredictOptions:
    if values["calibration"] is None and values["coverage"] != PredictOptions.coverage:
        raise click.UsageError("--coverage is that of the column conformal_set, which needs --calibration REPORT")
    asked_for = {"features": features, "unit_features": normalize, "logits": logits}
    extras = tuple(name for name, is_asked_for in asked_for.items() if is_asked_for)
    return PredictOptions(extras=extras + uncertainty, **values)


def inputs(command: Command) -> Command:
    """Add the options that choose inputs to a command, which gets them as the argument `choice`."""
    return _as_one_value("choice", InputOptions, InputOptions._fields, _INPUTS, command)


def transform(command: Command) -> Command:
    """Add the options of the evaluation transform to a command, which gets them as the argument `transform`."""
    return _as_one_value("transform", TransformOptions, ("size_px", "crop_pct", "mode"), _TRANSFORM, command)


def cluster(command: Command) -> Command:
    """Add the options of a cluster to a command, which gets them as the argument `cluster`."""
    return _as_one_value("cluster", ClusterOptions, ("address", "per_actor"), _CLUSTER, command)


def prediction(command: Command) -> Command:
    """Add the options of scoring to a command, which gets them as `predict_options` (without engine and device)."""
    scoring = (
        "topk",
        "part_rows",
        "batch_size",
        "flip",
        "precision",
        "features",
        "normalize",
        "logits",
        "exif",
        "max_pixels",
    )
    scoring_more = ("uncertainty", "calibration", "coverage")
    reading = ("workers", "readers", "timeout_s", "retry_s", "stop_after")
    return _as_one_value("predict_options", _prediction, (*scoring, *scoring_more, *reading), _PREDICTION, command)


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
