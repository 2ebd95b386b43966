"""`convnext-ingest`: from a raw ImageNet tree to verified records."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convnext_imagenet.base.console import expected_errors, progress
from convnext_imagenet.launch.cli_cluster import RAY, address_option, engine_option, on_cluster, refuse_unused

if TYPE_CHECKING:
    from convnext_imagenet.ingest.shards.build import BuildOutcome
    from convnext_imagenet.ingest.shards.plan import IngestPlan
    from convnext_imagenet.ingest.source.scan_types import TreeScan
    from convnext_imagenet.launch.executor import Executor

_MOST_CASES = 10


@click.group()
@click.version_option(package_name="convnext_imagenet")
def main() -> None:
    """Turn a raw ImageNet tree into verified MindRecord shards."""


@main.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="RECORDS directory to create or resume.")
@click.option(
    "--classes",
    default="all",
    show_default=True,
    metavar="all|found|FILE",
    help="all: the official 1000, complete. found: the class folders of train/, however many. "
    "FILE: those that a text file names, one wnid a line.",
)
@click.option("--unverified", is_flag=True, help="Take folder names as labels; for trees without a devkit.")
@click.option("--devkit", type=click.Path(path_type=Path), help="The devkit (tar.gz or folder) if not in DATA.")
@click.option("--check-archives", is_flag=True, help="First check the archives' MD5 against the official values.")
@click.option("--follow-links", is_flag=True, help="Follow symbolic links that lead out of DATA, and links to images.")
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes, over all nodes.  [default: one a core]")
@engine_option
@address_option
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Shuffles train over its shards."
)
@click.option(
    "--max-side",
    type=click.IntRange(min=16, max=30_000),
    metavar="PIXELS",
    help="Make images with a longer side smaller, and encode them again as JPEG.  [default: every file as it is]",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="The JPEG quality of images that --max-side makes smaller.  [default: 90]",
)
@click.option(
    "--image-timeout",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="An image that takes longer to decode goes to quarantine.",
)
@click.option(
    "--image-memory",
    type=click.IntRange(min=128),
    default=1024,
    show_default=True,
    metavar="MIB",
    help="An image that takes more memory to decode goes to quarantine.",
)
@click.option(
    "--max-quarantine",
    type=click.IntRange(min=0),
    help="How many bad images are tolerated.  [default: 0 with --classes all, else 1 %, at least 1]",
)
def build(
    data: Path,
    out: Path,
    classes: str,
    unverified: bool,
    devkit: Path | None,
    check_archives: bool,
    follow_links: bool,
    workers: int | None,
    engine: str,
    address: str,
    seed: int,
    max_side: int | None,
    quality: int | None,
    image_timeout: int,
    image_memory: int,
    max_quarantine: int | None,
) -> None:
    """Verify the labels and images of DATA and write them to RECORDS.

    DATA holds train/WNID/, val/ (flat or in class folders), and the devkit; or the official tars, which are read in
    place; or Kaggle's ILSVRC/ and LOC_*. It is only read. Run the same command again to resume an ingest that was
    stopped.
    """
    if quality is not None and max_side is None:
        raise click.UsageError("--quality: only images that are made smaller are encoded again; pass --max-side too")
    refuse_unused(engine, address=address)
    with expected_errors():
        from convnext_imagenet.base.signals import interruptible
        from convnext_imagenet.ingest.make_plan import make_plan
        from convnext_imagenet.ingest.shards.build import open_build
        from convnext_imagenet.ingest.shards.image_policy import ImagePolicy, Reencoding
        from convnext_imagenet.ingest.shards.quarantine import allowed_number
        from convnext_imagenet.ingest.source.layout import scan_tree

        with interruptible(), _executor(engine, address, workers, data, out) as executor:
            if check_archives:
                _check_archives(data)
            tree = scan_tree(data, follow_links)
            _print_tree(data, tree)
            reencoding = Reencoding(max_side, quality or 90) if max_side else None
            policy = ImagePolicy(image_timeout, image_memory, reencoding)
            plan = make_plan(tree, classes, unverified, devkit, seed, policy)
            _print_labels(plan)
            with open_build(plan, data, out) as job:
                units = job.unfinished()
                if job.is_finished and not units:
                    click.echo(f"{out}: finished already from this source, nothing to do; {_how_to_check(out)}")
                    return
                if job.outdated:
                    click.echo(
                        f"{out}: source files have changed since {', '.join(job.outdated)} was written; written again"
                    )
                if len(units) < job.shards:
                    click.echo(f"{out}: {job.shards - len(units)} of {job.shards} shards are there already")
                rows, shards = sum(unit.rows for unit in units), f"of {len(units)} shards"
                with progress(rows, "ingest", units=shards) as bar:
                    job.write(units, executor, bar, bar.count_unit)
                outcome = job.finish(allowed_number(max_quarantine, plan.source["classes"], plan.images))
            _print_outcome(out, outcome)


@contextlib.contextmanager
def _executor(engine: str, address: str, workers: int | None, data: Path, out: Path) -> "Iterator[Executor]":
    """Where shards are written; a cluster is examined first."""
    if engine == RAY:
        from convnext_imagenet.base.protocol import check_begun_or_empty
        from convnext_imagenet.launch.cluster.nodes import WorkerResources

        check_begun_or_empty(out, "records")
        inputs = [path for path in (data, data / "train", data / "val") if path.exists()]
        with on_cluster(address, lambda nodes: WorkerResources(), out, inputs, workers) as executor:
            yield executor
    else:
        from convnext_imagenet.ingest.shards.pool import LocalPool

        yield LocalPool(workers or len(os.sched_getaffinity(0)))


def _check_archives(data: Path) -> None:
    from convnext_imagenet.ingest.source.archives import check_archives
    from convnext_imagenet.ingest.source.layout import find_archives

    archives = find_archives(data)
    with progress(sum(path.stat().st_size for path in archives), "md5", unit="B") as advance:
        check_archives(archives, advance)
    click.echo(f"{data}: {', '.join(path.name for path in archives)}: the md5 is the official one")


def _print_tree(data: Path, tree: "TreeScan") -> None:
    click.echo(f"{data}:")
    for split in (tree.train, tree.val):
        count = "" if split.is_flat else f"{len(split.folders):,} "
        click.echo(f"  {split.name}: {count}{split.shape}, {split.files:,} images, {split.bytes / 2**20:,.1f} MiB")
    click.echo(f"  devkit: {tree.devkit.name if tree.devkit else 'none'}")
    if tree.kaggle:
        click.echo("  Kaggle's layout")
    if (ignored := tree.notes.ignored).count:
        click.echo(f"  ignored: {ignored.count:,} hidden or other files, such as {ignored.first!r}")
    if (not_plain := tree.notes.not_plain).count:
        click.echo(
            f"  no plain files, so they end in quarantine: {not_plain.count:,} links, pipes or devices, "
            f"such as {not_plain.first!r}"
        )


def _print_labels(plan: "IngestPlan") -> None:
    source = plan.source
    state = "NOT verified: the folder names are the labels"
    if source["verified"]:
        against = "the devkit" if source["devkit_sha256"] else "the official val labels, without a devkit"
        state = f"verified against {against}"
    click.echo(f"{len(plan.classes):,} classes, {plan.images:,} images; labels {state}")
    for split, count in source["left_out"].items():
        if count:
            click.echo(f"  {split}: left out, since of other classes: {count:,} images")
    if source["verified"] and not source["devkit_sha256"]:
        click.echo(f"  train: images counted: {source['train_counts']}; only the devkit tells the number in each class")
    if source["incomplete_classes"]:
        click.echo(f"  train: {source['incomplete_classes']:,} classes have fewer images than the devkit counts")


def _print_outcome(out: Path, outcome: "BuildOutcome") -> None:
    rows = ", ".join(f"{count:,} {split}" for split, count in outcome.rows.items())
    click.echo(f"{out}: finished, {rows} images; each was decoded, stored and read back")
    if outcome.quarantined:
        click.echo(f"  left out as bad: {len(outcome.quarantined):,}, listed in {out / 'quarantine.parquet'}")
    for entry in outcome.quarantined[:_MOST_CASES]:
        click.echo(f"    {entry.path}  {entry.reason}: {entry.detail}")
    click.echo(f"  {_how_to_check(out)}")
    click.echo(f"  to train: make train RECORDS={out}, or convnext-train run CONFIG --records {out} --out RUN")


def _how_to_check(out: Path) -> str:
    return f"to check every byte: convnext-records verify {out}"
