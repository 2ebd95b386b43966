"""`convnext-ingest`: turns a raw ImageNet tree into verified records. Only options and output are here."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from convnext_imagenet.base.cli_output import json_option, progress_option, result_on_stdout
from convnext_imagenet.base.console import FiniteRange, LocalPath, Program, expected_errors
from convnext_imagenet.base.errors import ExpectedError
from convnext_imagenet.base.own_process import command_began
from convnext_imagenet.ingest.build_options import BuildOptions
from convnext_imagenet.launch.cli_cluster import RAY, address_option, engine_option, is_given, refuse_unused


@click.group(cls=Program)
@click.version_option(package_name="convnext_imagenet")
def main() -> None:
    """Turn a raw ImageNet tree into verified MindRecord shards."""


@main.command()
@click.argument("data", type=LocalPath())
@click.option("--out", required=True, type=LocalPath(), help="RECORDS directory to create or resume.")
@click.option(
    "--classes",
    default="all",
    show_default=True,
    metavar="all|found|FILE",
    help="all: the official 1000 classes, complete. found: every class that has a folder in train/. "
    "FILE: the classes listed in a text file, one wnid per line.",
)
@click.option(
    "--onto",
    type=LocalPath(),
    metavar="RECORDS",
    help="Add the images that these records do not have: their shards are linked, new images get shards of their own.",
)
@click.option(
    "--unverified", is_flag=True, help="Use folder names as labels without any check, for trees without devkit."
)
@click.option("--devkit", type=LocalPath(), help="Devkit (tar.gz or folder), if it is not in DATA.")
@click.option(
    "--val-fraction",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Share of images that become val, if DATA has no val: by a hash of each image's name.  [default: 0.1]",
)
@click.option(
    "--test-fraction",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Share of images that become test, a third split.",
)
@click.option(
    "--group-by",
    default="",
    metavar="COLUMN|folder",
    help="Keep images with the same value in one split: a column of the table, or CLASS/GROUP/IMAGE folders.",
)
@click.option("--label-column", default="", metavar="COLUMN", help="Column of the table that holds the class.")
@click.option("--keep-order", is_flag=True, help="Number the classes as the file of --classes lists them.")
@click.option("--eval-only", is_flag=True, help="Make every image val, for sets that networks are only evaluated on.")
@click.option("--check-archives", is_flag=True, help="First check the archives' MD5 against the official values.")
@click.option("--follow-links", is_flag=True, help="Follow symbolic links out of DATA, and links to images.")
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes on all nodes.  [default: one per core]")
@engine_option
@address_option
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the order of training images."
)
@click.option(
    "--train-shards",
    type=click.IntRange(1, 99_999),
    help="Number of train shards, for clusters; a reader opens each of them once and once more for each worker.  "
    "[default: one for each 2 GiB, 64 at most]",
)
@click.option(
    "--max-side",
    type=click.IntRange(min=16, max=30_000),
    metavar="PIXELS",
    help="Shrink images with a longer side to this size, as JPEG.  [default: keep every file unchanged]",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="JPEG quality of images that --max-side shrinks (default 90), or --convert converts (default: PNG).",
)
@click.option(
    "--convert",
    is_flag=True,
    help="Store BMP, GIF (first frame), TIFF and AVIF, too: as PNG, or as JPEG with --quality.",
)
@click.option(
    "--image-timeout",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Quarantine an image that takes longer to decode.",
)
@click.option(
    "--image-memory",
    type=click.IntRange(min=128),
    default=1024,
    show_default=True,
    metavar="MIB",
    help="Quarantine an image that needs more memory to decode.",
)
@click.option(
    "--accept-warnings",
    is_flag=True,
    help="Store images of which the decoder warns that a part is lost, instead of putting them into quarantine.",
)
@click.option(
    "--fingerprints",
    is_flag=True,
    help="Also store a small gray picture of each JPEG beside the shards, about 2 kB, so that `convnext-records audit` "
    "decodes few images.",
)
@click.option(
    "--repair", is_flag=True, help="Check every byte of RECORDS, and write again what is damaged or outdated."
)
@click.option(
    "--drop",
    type=LocalPath(),
    metavar="AUDIT|FILE",
    help="Leave out, or give another class to, what this audit or file of decisions says.",
)
@click.option(
    "--max-quarantine",
    type=click.IntRange(min=0),
    help="Number of bad images to allow.  [default: 0 with --classes all, else 1 %, at least 1]",
)
@click.option(
    "--dry-run",
    "is_dry_run",
    is_flag=True,
    help="Write nothing: check the labels, store a sample of the images elsewhere, and print counts, bytes and time.",
)
@json_option()
@progress_option
def build(data: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Verify the labels and images of DATA and write them to RECORDS.

    DATA is ImageNet as train/WNID/, val/ (flat or in class folders) and the devkit, as the official tars, which are not
    unpacked, or as Kaggle's ILSVRC/ and LOC_*; or your own images as class folders, with or without splits, a CSV or
    metadata.jsonl, Hugging Face's Parquet or save_to_disk, zips or tars. DATA is never changed. To resume a stopped
    ingest, run the same command again; if RECORDS were damaged later, with --repair.
    """
    begin = command_began()
    asked = BuildOptions(data, out, **options)
    _refuse_contradictions(asked)
    with expected_errors(), result_on_stdout(as_json) as print_result:
        from convnext_imagenet.ingest.build_command import run_build, unpack_folder

        with _saying_what_stays(unpack_folder(out)):
            print_result(run_build(asked, begin, _say))


def _say(lines: Sequence[str]) -> None:
    if lines:
        click.echo("\n".join(lines))


@contextlib.contextmanager
def _saying_what_stays(folder: Path) -> Iterator[None]:
    """Name the folder of unpacked images if a command is refused that would have removed it."""
    try:
        yield
    except ExpectedError:
        if folder.exists():
            click.echo(
                f"{folder}: has unpacked images, which the next build uses; delete it if there is none", err=True
            )
        raise


def _refuse_contradictions(asked: BuildOptions) -> None:
    """Raise click.UsageError for options that have no effect beside others, or cannot be had together."""
    if asked.quality is not None and asked.max_side is None and not asked.convert:
        raise click.UsageError(
            "--quality has no effect without --max-side or --convert; pass one of them too, or leave --quality out"
        )
    if asked.is_dry_run and (asked.repair or asked.engine == RAY):
        raise click.UsageError("--dry-run is for a build on this machine, without --repair or --engine ray")
    if asked.onto is not None:
        if is_given("classes"):
            raise click.UsageError("--classes has no effect with --onto, whose classes stay; leave --classes out")
        if asked.train_shards is not None:
            raise click.UsageError("--train-shards has no effect with --onto, whose shards stay; leave it out")
        if asked.keep_order:
            raise click.UsageError("--keep-order has no effect with --onto, whose classes stay; leave it out")
    refuse_unused(asked.engine, address=asked.address)
