"""`convnext-serve weights`: import weights of other programs, export ours to them; weights/ does the work."""

from pathlib import Path

import click

from convnext_imagenet.base.console import expected_errors, show_log_lines
from convnext_imagenet.launch.cli import device_target_option
from convnext_imagenet.serve import options
from convnext_imagenet.serve.settings import TransformOptions


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
@options.transform
def import_command(
    file: Path, out: Path, scheme: str, use: str | None, classes: Path | None, fresh_head: bool, no_head: bool,
    transform: TransformOptions,
) -> None:  # fmt: skip
    """Convert FILE, a ConvNeXt of Facebook, DINOv3, timm, transformers, MindCV, OpenCLIP or the MindSpore example.

    FILE is a .safetensors, .ckpt or .pth. A .pth needs the extra `torch`; no code in it is run. Variant, classes and
    evaluation transform are inferred and printed. A missing tensor, or one of unknown purpose, is an error.
    """
    if no_head and (fresh_head or classes):
        raise click.UsageError("--no-head leaves out the classes, too; leave out --fresh-head and --classes")
    with expected_errors():
        from convnext_imagenet.serve.weights.importing import ImportOptions, import_weights

        choices = ImportOptions(None if scheme == "auto" else scheme, use, classes, fresh_head, no_head, transform)
        imported = import_weights(file, out, choices)
        click.echo("\n".join(imported.lines))
        has_head = imported.card.config.num_classes > 0
        task = "eval {} --records RECORDS" if has_head else "predict {} IMAGES --out FEATURES --features"
        click.echo(f"Next: convnext-serve {task.format(out)}", err=True)


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
@device_target_option
def export_command(
    checkpoint: Path, out: Path, format_name: str, preprocessing: bool, names: str | None, features: bool,
    device_target: str,
) -> None:  # fmt: skip
    """Write CHECKPOINT as a file for other programs, with a model card in Markdown beside it.

    The file is loaded again and kept only if it gives the same answers as the network.
    """
    if preprocessing and format_name != "onnx":
        raise click.UsageError(
            "--preprocessing works only with --format onnx (mindir always takes uint8 pixels); leave it out"
        )
    if features and format_name != "onnx":
        raise click.UsageError("--features works only with --format onnx; leave it out")
    if names and format_name != "safetensors":
        raise click.UsageError(f"--names works only with --format safetensors; leave it out for {format_name}")
    show_log_lines()
    with expected_errors():
        from convnext_imagenet.launch.devices import choose_target
        from convnext_imagenet.model.runtime import prepare

        prepare(choose_target(device_target).target)

        from convnext_imagenet.serve.checkpoint import load_checkpoint
        from convnext_imagenet.serve.weights.exporting import ExportOptions, export_weights

        loaded = load_checkpoint(checkpoint)
        is_new = export_weights(loaded, out, ExportOptions(format_name, preprocessing, names or "facebook", features))
        size_mib = out.stat().st_size / 2**20
        click.echo(f"{out}: {size_mib:.1f} MiB, {'written and checked' if is_new else 'there already, unchanged'}")
        click.echo(f"{loaded.path} exported.\nNext: read {out}.md to learn how to run it", err=True)
