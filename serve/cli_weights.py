"""`convnext-serve weights`: import weights of other programs, export ours to them; weights/ does the work."""

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from convnext_imagenet.base.cli_output import json_option, progress_option, result_on_stdout
from convnext_imagenet.base.console import FiniteRange, expected_errors, progress, show_log_lines
from convnext_imagenet.base.wording import as_word
from convnext_imagenet.launch.cli import device_target_option
from convnext_imagenet.serve import options
from convnext_imagenet.serve.cli_average import average
from convnext_imagenet.serve.settings import ErrorLimit, TransformOptions

if TYPE_CHECKING:  # importing these takes seconds, which --help must not
    from convnext_imagenet.model.card import ModelCard
    from convnext_imagenet.model.exchange.onnx_precision import LowPrecision


@click.group()
def weights() -> None:
    """Import weights of other programs, or export to them."""


@weights.command("import")
@click.argument("file", type=options.PATH)
@click.option("--out", type=options.PATH, required=True, help="Checkpoint to write, such as tiny.safetensors.")
@click.option(
    "--from",
    "scheme",
    type=click.Choice(["auto", "facebook", "timm", "transformers", "dinov3", "mindcv", "example", "openclip"]),
    default="auto",
    show_default=True,
    help="Program whose parameter names FILE must use; auto detects it.",
)
@click.option(
    "--use",
    type=click.Choice(["ema", "raw"]),
    help="If FILE holds both: take the moving average of the weights, or the weights as trained.  [default: ema]",
)
@click.option(
    "--classes",
    type=options.PATH,
    help="Classes of the outputs: a RECORDS directory, or a text file of lines 'wnid name'.  "
    "[default: ImageNet's for 1000 outputs]",
)
@click.option(
    "--fresh-head",
    is_flag=True,
    help="Replace the classifier of FILE, if any, by an untrained one for --classes, to be fine-tuned.",
)
@click.option("--no-head", is_flag=True, help="Leave out the classifier of FILE: the network gives features.")
@click.option(
    "--zero-shot",
    type=options.PATH,
    help="Text embeddings of the classes, .parquet or .safetensors: they become the classifier of a CLIP network.",
)
@click.option(
    "--logit-scale",
    type=FiniteRange(min=0, min_open=True),
    help="With --zero-shot: factor of the cosines.  [default: that of the embeddings, else of FILE]",
)
@options.transform
@json_option()
def import_command(
    file: Path, out: Path, scheme: str, use: str | None, classes: Path | None, fresh_head: bool, no_head: bool,
    zero_shot: Path | None, logit_scale: float | None, transform: TransformOptions, as_json: bool,
) -> None:  # fmt: skip
    """Convert FILE, a ConvNeXt of Facebook, DINOv3, timm, transformers, MindCV, OpenCLIP or the MindSpore example.

    FILE is a .safetensors, .ckpt or .pth. A .pth needs the extra `torch`; no code in it is run. Variant, classes and
    evaluation transform are inferred and printed. A missing tensor, or one of unknown purpose, is an error.
    """
    if no_head and (fresh_head or classes):
        raise click.UsageError("--no-head leaves out the classes, too; leave out --fresh-head and --classes")
    if zero_shot and (fresh_head or no_head):
        raise click.UsageError("--zero-shot makes the classifier; leave out --fresh-head and --no-head")
    if logit_scale is not None and not zero_shot:
        raise click.UsageError("--logit-scale belongs to --zero-shot; pass that, too, or leave it out")
    with expected_errors(), result_on_stdout(as_json) as report:
        from convnext_imagenet.serve.weights.importing import ImportOptions, import_weights
        from convnext_imagenet.serve.weights.inspecting import inspect_weights

        choices = ImportOptions(
            None if scheme == "auto" else scheme, use, classes, fresh_head, no_head, zero_shot, logit_scale, transform
        )
        imported = import_weights(file, out, choices)
        click.echo("\n".join(imported.lines))
        click.echo(f"Next: {_next_command(imported.card, fresh_head).format(as_word(out))}", err=True)
        report(inspect_weights(out))


def _next_command(card: "ModelCard", is_head_new: bool) -> str:
    """Return the command to run on an imported network, with {} for its file."""
    if is_head_new:
        return "convnext-train run auto --records RECORDS --out RUN --init-from {}"
    if not card.classes:
        return "convnext-serve predict {} IMAGES --out FEATURES --features"
    if not any(wnid for wnid, _ in card.classes):  # labels cannot be compared
        return "convnext-serve predict {} IMAGES --out PREDICTIONS"
    return "convnext-serve eval {} --records RECORDS"


@weights.command()
@click.argument("file", metavar="CHECKPOINT", type=options.PATH)
@json_option()
def inspect(file: Path, as_json: bool) -> None:
    """Print network, classes, evaluation and origin of a weights file or a RUN (its best epoch), from its header."""
    with expected_errors(), result_on_stdout(as_json) as report:
        from convnext_imagenet.serve.weights.inspecting import inspect_weights, inspection_lines

        if file.is_dir():
            from convnext_imagenet.serve.pointers import resolve_checkpoint

            file = resolve_checkpoint(file)
        found = inspect_weights(file)
        report(found)
        if not as_json:
            click.echo("\n".join(inspection_lines(found)))


@weights.command("export")
@click.argument("checkpoint", type=options.PATH)
@click.option(
    "--out",
    type=options.PATH,
    required=True,
    help="File to write; its model card is written to FILE.md.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["onnx", "mindir", "safetensors"]),
    required=True,
    help="onnx (needs the extra `onnx`) for any program, mindir for MindSpore, safetensors for PyTorch.",
)
@click.option(
    "--preprocessing", is_flag=True, help="With onnx: take uint8 pixels (N, S, S, 3) and normalise them in the graph."
)
@click.option(
    "--names",
    type=click.Choice(["facebook", "timm"]),
    help="With safetensors: program whose parameter names to use.  [default: facebook]",
)
@click.option("--features", is_flag=True, help="With onnx: also an output `features`, the values before the head.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8"]),
    default="fp32",
    show_default=True,
    help="With onnx: float16, weights in bfloat16, or products of the blocks in int8. Needs --records.",
)
@click.option("--records", type=options.PATH, help="With --precision: RECORDS that measure its loss.")
@click.option("--split", default="val", show_default=True, help="Split that measures the loss.")
@options.max_changed
@click.option(
    "--calibration-split", default="train", show_default=True, help="With int8: split of the rows that set scales."
)
@click.option(
    "--calibration-rows", type=click.IntRange(min=1), default=256, show_default=True, help="With int8: their number."
)
@options.batch_size
@options.workers
@json_option()
@progress_option
@device_target_option
def export_command(
    checkpoint: Path, out: Path, format_name: str, preprocessing: bool, names: str | None, features: bool,
    precision: str, records: Path | None, split: str, max_changed: ErrorLimit, calibration_split: str,
    calibration_rows: int, batch_size: int, workers: int, as_json: bool, device_target: str,
) -> None:  # fmt: skip
    """Write CHECKPOINT as a file for other programs, with a model card in Markdown beside it.

    The file is loaded again and kept only if it gives the same answers as the network. Of lower --precision, it is kept
    only if no more rows of --records change their class than --max-changed allows.
    """
    if precision != "fp32" and format_name != "onnx":
        raise click.UsageError("--precision works only with --format onnx; leave it out")
    if (precision == "fp32") != (records is None):
        raise click.UsageError(
            "--records measures the loss of lower precision: pass --precision fp16, bf16 or int8, and --records, or "
            "neither"
        )
    unused = "split", "max_changed", "calibration_split", "calibration_rows", "batch_size", "workers"
    options.refuse_without("--records", *(unused if records is None else ()))
    options.refuse_without("--precision int8", *(unused[2:4] if precision != "int8" else ()))
    if preprocessing and format_name != "onnx":
        raise click.UsageError(
            "--preprocessing works only with --format onnx (mindir always takes uint8 pixels); leave it out"
        )
    if features and format_name != "onnx":
        raise click.UsageError("--features works only with --format onnx; leave it out")
    if names and format_name != "safetensors":
        raise click.UsageError(f"--names works only with --format safetensors; leave it out for {format_name}")
    show_log_lines()
    with expected_errors(), result_on_stdout(as_json) as report:
        from convnext_imagenet.launch.devices import choose_target
        from convnext_imagenet.model.runtime import prepare

        prepare(choose_target(device_target).target)

        from convnext_imagenet.serve.checkpoint import load_checkpoint
        from convnext_imagenet.serve.weights.export_formats import ExportOptions, stated_loss
        from convnext_imagenet.serve.weights.exporting import export_weights, exported_files
        from convnext_imagenet.serve.weights.precision_loss import Reduction, loss_in_words

        loaded = load_checkpoint(checkpoint)
        with contextlib.ExitStack() as stack:
            reduction = None
            if records is not None:
                from convnext_imagenet.records.reader import Records

                bar = stack.enter_context(progress(Records.open(records).split(split).rows, f"measure {precision}"))
                low = cast("LowPrecision", precision)
                reduction = Reduction(
                    low, records, split, max_changed, calibration_split, calibration_rows, batch_size, workers, bar
                )
            choices = ExportOptions(format_name, preprocessing, names or "facebook", features, reduction)
            is_new = export_weights(loaded, out, choices)
        sizes = [path.stat().st_size for path in exported_files(out, format_name)]
        size = f"{sum(sizes) / 2**20:.1f} MiB{f' in {len(sizes)} files' if len(sizes) > 1 else ''}"
        click.echo(f"{out}: {size}, {'written and checked' if is_new else 'there already, unchanged'}")
        loss = stated_loss(out) if reduction is not None else None
        if loss is not None:
            click.echo(f"{precision}: {loss_in_words(loss)}")
        click.echo(f"{loaded.path} exported.\nNext: read {out}.md to learn how to run it", err=True)
        report(
            {"checkpoint": loaded.path, "sha256": loaded.sha256, "out": out, "card": f"{out}.md", "format": format_name}
            | {"bytes": sum(sizes), "is_new": is_new, "precision": precision}
            | {"loss": None if loss is None else asdict(loss)}
        )


weights.add_command(average)
