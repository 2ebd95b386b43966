"""`convnext-serve weights`: import checkpoints from other programs, export ours for them; the work is in weights/."""

from pathlib import Path

import click

from convnext_imagenet.base.console import expected_errors, show_log_lines
from convnext_imagenet.launch.cli import device_target_option
from convnext_imagenet.serve import options
from convnext_imagenet.serve.settings import TransformOptions


@click.group()
def weights() -> None:
    """Weights from other programs, and for them."""


@weights.command("import")
@click.argument("file", type=options.PATH)
@click.option("--out", type=options.PATH, required=True, help="The checkpoint to write, such as tiny.safetensors.")
@click.option(
    "--from",
    "scheme",
    type=click.Choice(["auto", "facebook", "timm", "transformers", "mindcv", "example", "openclip"]),
    default="auto",
    show_default=True,
    help="Whose names the file must have; auto takes those that it has.",
)
@click.option(
    "--use",
    type=click.Choice(["ema", "raw"]),
    help="Of a file with both: the moving average of the weights, or the weights as trained.  [default: ema]",
)
@click.option(
    "--classes",
    type=options.PATH,
    help="What the outputs mean: a RECORDS directory, or a text of lines 'wnid name'.  [default: ImageNet's, if 1000]",
)
@click.option(
    "--fresh-head",
    is_flag=True,
    help="Put a new classifier for --classes on the features, to be fine-tuned; the file's own, if any, is ignored.",
)
@options.transform
def import_command(
    file: Path, out: Path, scheme: str, use: str | None, classes: Path | None, fresh_head: bool,
    transform: TransformOptions,
) -> None:  # fmt: skip
    """Make a checkpoint of ours from FILE: a ConvNeXt of Facebook, timm, transformers, MindCV, OpenCLIP or the example.

    FILE is a .safetensors, a .ckpt or a .pth (which needs the extra torch, and from which no code is run). Variant,
    classes and evaluation transform are inferred and printed; every tensor is accounted for.
    """
    with expected_errors():
        from convnext_imagenet.serve.weights.importing import ImportOptions, import_weights

        choices = ImportOptions(None if scheme == "auto" else scheme, use, classes, fresh_head, transform)
        imported = import_weights(file, out, choices)
        click.echo("\n".join(imported.lines))
        click.echo(f"Next: convnext-serve eval {out} --records RECORDS", err=True)


@weights.command("export")
@click.argument("checkpoint", type=options.PATH)
@click.option("--out", type=options.PATH, required=True, help="The file to write; its card goes beside it, FILE.md.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["onnx", "mindir", "safetensors"]),
    required=True,
    help="onnx (with the extra `onnx`) for any program, mindir for MindSpore, safetensors for PyTorch.",
)
@click.option(
    "--preprocessing", is_flag=True, help="onnx: the input is uint8 pixels (N, S, S, 3), normalised in the graph."
)
@click.option(
    "--names",
    type=click.Choice(["facebook", "timm"]),
    help="safetensors: whose names the parameters have.  [default: facebook]",
)
@device_target_option
def export_command(
    checkpoint: Path, out: Path, format_name: str, preprocessing: bool, names: str | None, device_target: str
) -> None:
    """Write CHECKPOINT as a file for other programs, with a model card in Markdown beside it.

    The file is read back, and published only when it answers as the network does.
    """
    if preprocessing and format_name != "onnx":
        raise click.UsageError(f"--preprocessing belongs to --format onnx; a {format_name} always takes uint8 pixels")
    if names and format_name != "safetensors":
        raise click.UsageError(f"--names belongs to --format safetensors; {format_name} has no names to choose")
    show_log_lines()
    with expected_errors():
        from convnext_imagenet.launch.devices import choose_target
        from convnext_imagenet.model.runtime import prepare

        prepare(choose_target(device_target).target)

        from convnext_imagenet.serve.checkpoint import load_checkpoint
        from convnext_imagenet.serve.weights.exporting import ExportOptions, export_weights

        loaded = load_checkpoint(checkpoint)
        is_new = export_weights(loaded, out, ExportOptions(format_name, preprocessing, names or "facebook"))
        size_mib = out.stat().st_size / 2**20
        click.echo(f"{out}: {size_mib:.1f} MiB, {'written and checked' if is_new else 'there already, unchanged'}")
        click.echo(f"{loaded.path} exported. Next: read {out}.md, which says how to run it", err=True)
