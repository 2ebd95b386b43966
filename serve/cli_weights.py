"""`convnext-serve weights`: checkpoints from other programs; the work is that of import_weights.py."""

from pathlib import Path
from typing import Any

import click

from convnext_imagenet.records.cli import expected_errors
from convnext_imagenet.serve import options
from convnext_imagenet.serve.cli_export import export


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
    help="Put a new classifier for --classes on the features, to be fine-tuned; the file's own, if any, is left aside.",
)
@options.evaluated_at
def import_command(
    file: Path, out: Path, scheme: str, use: str | None, classes: Path | None, fresh_head: bool, **others: Any,
) -> None:  # fmt: skip
    """Make a checkpoint of ours from FILE: a ConvNeXt of Facebook, timm, transformers, MindCV, OpenCLIP or the example.

    FILE is a .safetensors, a .ckpt or a .pth (which needs the extra torch, and from which no code is run). Variant,
    classes and evaluation transform are inferred and printed; every tensor is accounted for.
    """
    from convnext_imagenet.model.errors import ModelError

    with expected_errors(ModelError):
        from convnext_imagenet.serve.import_weights import Wishes, import_weights

        wishes = Wishes(None if scheme == "auto" else scheme, use, classes, fresh_head, options.changes(others))
        imported = import_weights(file, out, wishes)
        click.echo("\n".join(imported.lines))
        click.echo(f"Next: convnext-serve eval {out} --records RECORDS", err=True)


weights.add_command(export)
