"""`convnext-ingest`: turns a raw ImageNet tree into verified records. Only options and output are here."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from convnext_imagenet.base.console import expected_errors, progress
from convnext_imagenet.base.html import plural
from convnext_imagenet.launch.cli_cluster import RAY, address_option, engine_option, on_cluster, refuse_unused

if TYPE_CHECKING:
    from convnext_imagenet.ingest.shards.build import BuildOutcome, RecordsBuild
    from convnext_imagenet.ingest.shards.plan import IngestPlan
    from convnext_imagenet.ingest.source.scan_types import TreeScan
    from convnext_imagenet.launch.executor import Executor

_MOST_CASES = 10  # lines of quarantine on the screen; the Parquet file lists all

_MOST_NAMES = 5  # of junk on the screen; the manifest has all


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
    help="all: the official 1000 classes, complete. found: every class that has a folder in train/. "
    "FILE: the classes listed in a text file, one wnid per line.",
)
@click.option(
    "--onto",
    type=click.Path(path_type=Path),
    metavar="RECORDS",
    help="Add the images that these records do not have: their shards are linked, new images get shards of their own.",
)
@click.option(
    "--unverified", is_flag=True, help="Use folder names as labels without any check, for trees without devkit."
)
@click.option("--devkit", type=click.Path(path_type=Path), help="Devkit (tar.gz or folder), if it is not in DATA.")
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
    help="JPEG quality of images that --max-side shrinks.  [default: 90]",
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
    "--repair", is_flag=True, help="Check every byte of RECORDS, and write again what is damaged or outdated."
)
@click.option(
    "--max-quarantine",
    type=click.IntRange(min=0),
    help="Number of bad images to allow.  [default: 0 with --classes all, else 1 %, at least 1]",
)
def build(
    data: Path,
    out: Path,
    classes: str,
    onto: Path | None,
    unverified: bool,
    devkit: Path | None,
    check_archives: bool,
    follow_links: bool,
    workers: int | None,
    engine: str,
    address: str,
    seed: int,
    train_shards: int | None,
    max_side: int | None,
    quality: int | None,
    image_timeout: int,
    image_memory: int,
    accept_warnings: bool,
    repair: bool,
    max_quarantine: int | None,
) -> None:
    """Verify the labels and images of DATA and write them to RECORDS.

    DATA has one of three layouts: train/WNID/, val/ (flat or in class folders) and the devkit; the official tars, which
    are not unpacked; or Kaggle's ILSVRC/ and LOC_*. DATA is never changed. To resume a stopped ingest, run the same
    command again; if RECORDS were damaged later, with --repair.
    """
    if quality is not None and max_side is None:
        raise click.UsageError(
            "--quality has no effect without --max-side; pass --max-side too, or leave --quality out"
        )
    if onto is not None and click.get_current_context().get_parameter_source("classes") != ParameterSource.DEFAULT:
        raise click.UsageError("--classes has no effect with --onto, whose classes stay; leave --classes out")
    if onto is not None and train_shards is not None:
        raise click.UsageError("--train-shards has no effect with --onto, whose shards stay; leave it out")
    refuse_unused(engine, address=address)
    with expected_errors():
        from convnext_imagenet.base.protocol import marked_digest
        from convnext_imagenet.base.signals import interruptible
        from convnext_imagenet.ingest.errors import first_few
        from convnext_imagenet.ingest.make_plan import make_plan
        from convnext_imagenet.ingest.shards.build import open_build, refuse_stale
        from convnext_imagenet.ingest.shards.image_policy import ImagePolicy, Reencoding
        from convnext_imagenet.ingest.shards.parent import open_parent
        from convnext_imagenet.ingest.shards.quarantine import allowed_number
        from convnext_imagenet.ingest.source.layout import scan_tree

        with interruptible(), _executor(engine, address, workers, data, out) as executor:
            if repair and not data.is_dir():
                _refuse_repair(data, out)
            if check_archives:
                _check_archives(data)
            parent = open_parent(onto) if onto else None
            tree = scan_tree(data, follow_links, is_increment=parent is not None)
            _print_tree(data, tree)
            reencoding = Reencoding(max_side, quality or 90) if max_side else None
            policy = ImagePolicy(image_timeout, image_memory, reencoding, accept_warnings)
            plan = make_plan(tree, classes, unverified, devkit, seed, policy, parent, train_shards)
            _print_labels(plan)
            before = marked_digest(out)
            with open_build(plan, data, out, repair) as job:
                if repair:
                    _find_damage(job)
                linked = job.inherit()
                units = job.unfinished()
                if linked:
                    click.echo(f"{out}: {plural(linked, 'shard')} of {onto} linked")
                if job.is_finished and not units:
                    refuse_stale(job)
                    click.echo(f"{out}: already finished from this source, nothing to do")
                    click.echo(f"  {_how_to_check(out)}")
                    return
                if job.outdated:
                    click.echo(
                        f"{out}: source files have changed since these shards were written, writing them again: "
                        f"{first_few(job.outdated)}"
                    )
                if len(units) < job.shards:
                    click.echo(f"{out}: resuming, finished shards: {job.shards - len(units)} of {job.shards}")
                rows, shards = sum(unit.rows for unit in units), f"of {plural(len(units), 'shard')}"
                if units:  # only the summary is missing after a quarantine that was too large
                    with progress(rows, "ingest", units=shards) as bar:
                        job.write(units, executor, bar, bar.count_unit)
                outcome = job.finish(allowed_number(max_quarantine, plan.source["classes"], plan.images))
            _print_outcome(out, outcome)
            if before not in (None, marked_digest(out)):
                click.echo("  the records are others than before: a RUN that began on them must begin again")


def _find_damage(job: "RecordsBuild") -> None:
    """Print what is damaged; from then on the job's unfinished shards are those to write again."""
    with progress(job.shards, "check", unit="shard") as bar:
        damage = job.forget_damaged(bar)
    for line in damage[:_MOST_CASES]:
        click.echo(f"  {line}")
    way_out = ", writing again what is damaged" if damage else ""
    click.echo(f"{job.out}: {plural(len(damage), 'problem')} found{way_out}")


def _refuse_repair(data: Path, out: Path) -> None:
    """Raise IngestError: there is no source to repair from; the message says what is lost without it."""
    from convnext_imagenet.ingest.errors import IngestError
    from convnext_imagenet.records.damage import say_what_is_lost

    raise IngestError(f"{data}: no such folder; {say_what_is_lost(out)}")


@contextlib.contextmanager
def _executor(engine: str, address: str, workers: int | None, data: Path, out: Path) -> "Iterator[Executor]":
    """Yield the executor that writes the shards; check a cluster first."""
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
    click.echo(f"{data}: the MD5 is the official one: {', '.join(path.name for path in archives)}")


def _print_tree(data: Path, tree: "TreeScan") -> None:
    click.echo(f"{data}:")
    for split in (tree.train, tree.val):
        count = "" if split.is_flat else f"{len(split.folders):,} "
        images = plural(split.files, "image")
        click.echo(f"  {split.name}: {count}{split.shape}, {images}, {split.bytes / 2**20:,.1f} MiB")
    click.echo(f"  devkit: {tree.devkit.name if tree.devkit else 'none'}")
    if tree.kaggle:
        click.echo("  Kaggle's layout")
    if (ignored := tree.notes.ignored).count:
        names = ", ".join(f"{name} ({count:,})" for name, count in list(ignored.by_name().items())[:_MOST_NAMES])
        more = ", ..." if len(ignored.by_name()) > _MOST_NAMES else ""
        click.echo(f"  left aside, no images: {ignored.count:,}: {names}{more}")
    if (not_plain := tree.notes.not_plain).count:
        click.echo(f"  to be quarantined (links, pipes or devices): {not_plain.count:,}, such as {not_plain.first!r}")


def _print_labels(plan: "IngestPlan") -> None:
    from convnext_imagenet.records.manifest import verified_against

    source = plan.source
    against = verified_against(source)
    state = f"verified against {against}" if against else "NOT verified: the folder names are the labels"
    click.echo(f"{plural(len(plan.classes), 'class')}, {plural(plan.images, 'image')}; labels {state}")
    if plan.parent is not None:
        new = ", ".join(f"{len(split.keys):,} {split.name}" for split in plan.splits)
        click.echo(f"new: {new} images; the others are in {plan.parent.root}")
        present = {label for split in plan.splits for label in split.labels.tolist()}
        if absent := len(plan.classes) - len(present):
            click.echo(f"  {plural(absent, 'class')} without a new image")
    for split, count in source["left_out"].items():
        if count:
            click.echo(f"  {split}: {plural(count, 'image')} of other classes left out")
    if source["verified"] and not source["devkit_sha256"]:
        checked = "only their total was checked" if source["classes"] == "all" else "their number was not checked"
        click.echo(f"  train images: {checked}; only the devkit states the number for each class")
    if source["incomplete_classes"]:
        incomplete = plural(source["incomplete_classes"], "class")
        click.echo(f"  train: in {incomplete}, fewer images than the devkit states")


def _print_outcome(out: Path, outcome: "BuildOutcome") -> None:
    rows = ", ".join(f"{count:,} {split}" for split, count in outcome.rows.items())
    if outcome.quarantined:
        click.echo(f"in quarantine: {len(outcome.quarantined):,}, listed in {out / 'quarantine.parquet'}")
    for entry in outcome.quarantined[:_MOST_CASES]:
        click.echo(f"  {entry.path}  {entry.reason}: {entry.detail}")
    if outcome.warned:
        click.echo(f"libjpeg warned of {plural(outcome.warned, 'stored image')}: column warnings of index.parquet")
    click.echo(f"{out}: finished, {rows} images")
    click.echo("  every stored image was decoded and read back")
    click.echo(f"  {_how_to_check(out)}")
    click.echo(f"  to train: make train RECORDS={out}")
    click.echo(f"        or: convnext-train run CONFIG --records {out} --out RUN")


def _how_to_check(out: Path) -> str:
    return f"to check every byte: convnext-records verify {out}"
