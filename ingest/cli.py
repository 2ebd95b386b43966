"""`convnext-ingest`: turns a raw ImageNet tree into verified records. Only options and output are here."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from convnext_imagenet.base.cli_output import json_option, progress_option, result_on_stdout
from convnext_imagenet.base.console import LocalPath, Program, expected_errors, progress
from convnext_imagenet.base.errors import ExpectedError
from convnext_imagenet.base.own_process import command_began
from convnext_imagenet.base.wording import as_word, plural, to_type
from convnext_imagenet.launch.cli_cluster import RAY, address_option, engine_option, on_cluster, refuse_unused

if TYPE_CHECKING:
    from convnext_imagenet.ingest.shards.build import BuildOutcome, RecordsBuild
    from convnext_imagenet.ingest.shards.plan import IngestPlan
    from convnext_imagenet.ingest.source.samples import SampleTree
    from convnext_imagenet.ingest.source.scan_types import TreeScan
    from convnext_imagenet.launch.executor import Executor

_MOST_CASES = 10  # lines of quarantine on the screen; the Parquet file lists all

_LONGEST_DETAIL = 100  # characters on the screen
_MOST_NAMES = 5  # of junk on the screen; the manifest has all


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
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Share of images that become val, if DATA has no val: by a hash of each image's name.  [default: 0.1]",
)
@click.option(
    "--test-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
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
def build(
    data: Path,
    out: Path,
    classes: str,
    onto: Path | None,
    unverified: bool,
    devkit: Path | None,
    val_fraction: float | None,
    test_fraction: float | None,
    group_by: str,
    label_column: str,
    keep_order: bool,
    eval_only: bool,
    check_archives: bool,
    follow_links: bool,
    workers: int | None,
    engine: str,
    address: str,
    seed: int,
    train_shards: int | None,
    max_side: int | None,
    quality: int | None,
    convert: bool,
    image_timeout: int,
    image_memory: int,
    accept_warnings: bool,
    fingerprints: bool,
    repair: bool,
    drop: Path | None,
    max_quarantine: int | None,
    is_dry_run: bool,
    as_json: bool,
) -> None:
    """Verify the labels and images of DATA and write them to RECORDS.

    DATA is ImageNet as train/WNID/, val/ (flat or in class folders) and the devkit, as the official tars, which are not
    unpacked, or as Kaggle's ILSVRC/ and LOC_*; or your own images as class folders, with or without splits, a CSV or
    metadata.jsonl, Hugging Face's Parquet or save_to_disk, zips or tars. DATA is never changed. To resume a stopped
    ingest, run the same command again; if RECORDS were damaged later, with --repair.
    """
    begin = command_began()
    if quality is not None and max_side is None and not convert:
        raise click.UsageError(
            "--quality has no effect without --max-side or --convert; pass one of them too, or leave --quality out"
        )
    if is_dry_run and (repair or engine == RAY):
        raise click.UsageError("--dry-run is for a build on this machine, without --repair or --engine ray")
    if onto is not None and click.get_current_context().get_parameter_source("classes") != ParameterSource.DEFAULT:
        raise click.UsageError("--classes has no effect with --onto, whose classes stay; leave --classes out")
    if onto is not None and train_shards is not None:
        raise click.UsageError("--train-shards has no effect with --onto, whose shards stay; leave it out")
    if onto is not None and keep_order:
        raise click.UsageError("--keep-order has no effect with --onto, whose classes stay; leave it out")
    refuse_unused(engine, address=address)
    with expected_errors(), result_on_stdout(as_json) as report:
        from convnext_imagenet.base.protocol import check_begun_or_empty, marked_digest
        from convnext_imagenet.base.signals import interruptible
        from convnext_imagenet.ingest.errors import first_few
        from convnext_imagenet.ingest.labels.given import Wishes
        from convnext_imagenet.ingest.make_plan import make_given_plan, make_plan
        from convnext_imagenet.ingest.shards.build import open_build, refuse_stale
        from convnext_imagenet.ingest.shards.image_policy import Conversion, ImagePolicy, Reencoding
        from convnext_imagenet.ingest.shards.parent import open_parent
        from convnext_imagenet.ingest.shards.pool import LocalPool
        from convnext_imagenet.ingest.shards.quarantine import allowed_number
        from convnext_imagenet.ingest.shards.worker_start import sized_for
        from convnext_imagenet.ingest.source.detect import scan_data, scan_more
        from convnext_imagenet.ingest.source.folders import Links
        from convnext_imagenet.ingest.source.samples import SampleTree
        from convnext_imagenet.ingest.source.sources import Request
        from convnext_imagenet.ingest.source.unpack import Unpacker

        unpacker = Unpacker(
            out.with_name(f".{out.name}.unpacked"), lambda name, size: progress(size, f"unpack {name}", unit="B")
        )
        was_unpacked, stays = unpacker.folder.exists(), _saying_what_stays(unpacker.folder)
        with interruptible(), _executor(engine, address, workers, data, out) as executor, stays:
            if is_dry_run:
                check_begun_or_empty(out, "records")
            if repair and not data.is_dir():
                _refuse_repair(data, out)
            if check_archives:
                _check_archives(data)
            parent = open_parent(onto) if onto else None
            tree = (
                scan_more(
                    Request(data, Links(data, follow_links), unpacker, label_column, group_by), parent.has_given_labels
                )
                if parent
                else scan_data(data, unpacker, follow_links, unverified, devkit, label_column, group_by)
            )
            reencoding = Reencoding(max_side, quality or 90) if max_side else None
            if fingerprints:
                from convnext_imagenet.records.jpeg_warnings import require_pictures  # it imports OpenCV

                require_pictures()
            conversion = Conversion(quality) if convert else None
            policy = ImagePolicy(
                image_timeout, image_memory, reencoding, accept_warnings, conversion, has_pictures=fingerprints
            )
            wishes = Wishes(val_fraction, test_fraction, eval_only, keep_order)
            if isinstance(tree, SampleTree):
                _print_samples(data, tree)
                plan = make_given_plan(tree, data, classes, unverified, wishes, seed, policy, parent, train_shards)
            else:
                _refuse_wishes(data, wishes != Wishes() or bool(label_column or group_by))
                _print_tree(data, tree, devkit or tree.devkit)
                plan = make_plan(tree, classes, unverified, devkit, seed, policy, parent, train_shards)
            if drop:
                plan = _without_dropped(plan, drop, data)
            _print_labels(plan)
            _compare_known(plan, data)
            if is_dry_run:
                report(_print_forecast(plan, data, workers, begin))
                if not was_unpacked:  # what was there belongs to an unfinished build
                    unpacker.remove()
                return
            before = marked_digest(out)
            with open_build(plan, data, out, repair) as job:
                if repair:
                    _find_damage(job)
                linked = job.inherit()
                units = job.unfinished()
                if linked:
                    click.echo(f"{out}: {plural(linked, 'shard')} of {onto} linked")
                if job.is_finished:
                    refuse_stale(job)
                if job.is_finished and not units:
                    click.echo(f"{out}: already finished from this source, nothing to do")
                    click.echo(f"  {_how_to_check(out)}")
                    report(_result(out, was_finished=True))
                    unpacker.remove()
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
                        sized = sized_for(executor, rows, policy) if isinstance(executor, LocalPool) else executor
                        job.write(units, sized, bar, bar.count_unit)
                outcome = job.finish(allowed_number(max_quarantine, plan.source["classes"], plan.images))
            unpacker.remove()
            _print_outcome(out, outcome)
            if before not in (None, marked_digest(out)):
                click.echo("  the records are others than before: a RUN that began on them must begin again")
            report(_result(out, was_finished=False))


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


def _result(out: Path, was_finished: bool) -> dict[str, Any]:
    """Return what --json prints of finished records."""
    from convnext_imagenet.base.protocol import read_finished
    from convnext_imagenet.records.manifest import Manifest

    manifest = Manifest.from_json(read_finished(out, "records"))
    splits = manifest.splits.items()
    return {
        "records": out,
        "was_finished": was_finished,
        "plan_id": manifest.plan_id,
        "classes": len(manifest.classes),
        "verified": bool(manifest.source.get("verified")),
        "rows": {name: split.rows for name, split in splits},
        "quarantined": {name: split.quarantined for name, split in splits},
        "shards": {name: len(split.shards) for name, split in splits},
        "bytes": {name: sum(shard.bytes + shard.index_bytes for shard in split.shards) for name, split in splits},
    }


def _print_forecast(plan: "IngestPlan", data: Path, workers: int | None, begin: float) -> dict[str, Any]:
    """Print what a build would do, and return it for --json; this command began at `begin` (`time.monotonic`)."""
    from convnext_imagenet.ingest.shards.forecast import forecast_build, forecast_lines

    found = forecast_build(plan, data, workers or len(os.sched_getaffinity(0)), begin)
    click.echo("\n".join(forecast_lines(found)))
    return found.to_json()


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


def _without_dropped(plan: "IngestPlan", drop: Path, data: Path) -> "IngestPlan":
    from convnext_imagenet.ingest.drop import without_dropped
    from convnext_imagenet.records.audit.decisions import open_judged

    plan = without_dropped(plan, open_judged(drop), data)
    dropped = ", ".join(f"{count:,} {split}" for split, count in plan.source["dropped"].items())
    relabelled = sum(len(keys) for keys in plan.source["relabelled"].values())
    click.echo(f"{drop}: {dropped} images left out, {plural(relabelled, 'image')} of another class")
    return plan


def _compare_known(plan: "IngestPlan", data: Path) -> None:
    """Say how many images the records of --onto have already, and refuse those that have changed."""
    from convnext_imagenet.ingest.shards.known import count_quarantined, newer_images, refuse_changed

    if not (known := sum(len(split.keys) for split in plan.known)):
        return
    newer = newer_images(plan)
    how = f"by key and size; {len(newer):,} newer than their shards, to be compared by SHA-256"
    if not plan.image_policy.keeps_bytes:
        how = "by key alone, because images are encoded again"
    click.echo(f"already there: {plural(known, 'image')}, {how}")
    if bad := count_quarantined(plan):
        click.echo(f"  {bad:,} of them in quarantine there; to store these, build all images again, without --onto")
    with progress(len(newer), "compare") as bar:
        refuse_changed(newer, data, plan.source["follows_links"], bar)


def _check_archives(data: Path) -> None:
    from convnext_imagenet.ingest.source.archives import check_archives
    from convnext_imagenet.ingest.source.layout import official_archives

    archives = official_archives(data)
    with progress(sum(path.stat().st_size for path in archives), "md5", unit="B") as advance:
        check_archives(archives, advance)
    click.echo(f"{data}: the MD5 is the official one: {', '.join(path.name for path in archives)}")


def _refuse_wishes(data: Path, has_any: bool) -> None:
    """Raise IngestError for options about splits and columns, which ImageNet's own layouts leave nothing to do."""
    from convnext_imagenet.ingest.errors import IngestError

    if has_any:
        raise IngestError(
            f"{data}: has ImageNet's layout, with splits and labels of its own; leave --val-fraction, --test-fraction, "
            f"--group-by, --label-column, --keep-order and --eval-only out"
        )


def _print_samples(data: Path, tree: "SampleTree") -> None:
    splits = ", ".join(f"{split} {sum(sample.split == split for sample in tree.samples):,}" for split in tree.splits)
    size = sum(sample.size for sample in tree.samples) / 2**20
    click.echo(f"{data}: {tree.kind}")
    click.echo(f"  {plural(len(tree.samples), 'image')}, {size:,.1f} MiB; splits: {splits or 'none'}")
    for what, entries in (("no images", tree.ignored), ("images without a label", tree.unlabelled)):
        if entries.count:
            click.echo(f"  left aside, {what}: {entries.count:,}, such as {entries.first!r}")


def _print_tree(data: Path, tree: "TreeScan", devkit: Path | None) -> None:
    from convnext_imagenet.ingest.source.samples import split_of_word

    click.echo(f"{data}:")
    for split in (tree.train, tree.val):
        shape = split.shape if split.is_flat else f"{len(split.folders):,} {split.shape}"
        shape = "1 class folder" if shape == "1 class folders" else shape
        click.echo(f"  {split.name}: {shape}, {plural(split.files, 'image')}, {_size(split.bytes)}")
    for name in sorted(path.name for path in data.iterdir() if path.is_dir()):
        if split_of_word(name) == "test":
            click.echo(f"  {name}/: left out; of this layout, train and val are stored")
    click.echo(f"  devkit: {devkit.name if devkit else 'none'}")
    if tree.kaggle:
        click.echo("  Kaggle's layout")
    if (ignored := tree.notes.ignored).count:
        names = ", ".join(f"{name} ({count:,})" for name, count in list(ignored.by_name().items())[:_MOST_NAMES])
        more = ", ..." if len(ignored.by_name()) > _MOST_NAMES else ""
        click.echo(f"  left aside, no images: {ignored.count:,}: {names}{more}")
    if (not_plain := tree.notes.not_plain).count:
        click.echo(f"  to be quarantined (links, pipes or devices): {not_plain.count:,}, such as {not_plain.first!r}")
        if not tree.follows_links:
            click.echo("    to read what links lead to, pass --follow-links from the beginning")


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def _print_labels(plan: "IngestPlan") -> None:
    from convnext_imagenet.ingest.doubts import doubts
    from convnext_imagenet.records.manifest import verified_against

    source = plan.source
    against = verified_against(source)
    state = f"verified against {against}" if against else "NOT verified: the folder names are the labels"
    if source.get("labels"):
        state = source["labels"]
    click.echo(f"{plural(len(plan.classes), 'class')}, {plural(plan.images, 'image')}; labels {state}")
    if source.get("labels"):
        counts = ", ".join(f"{name} {count:,}" for name, count in source["images"].items())
        click.echo(f"  splits: {source['split']}: {counts}")
        first, last = plan.classes[0], plan.classes[-1]
        ends = f"class 0 is {first.name}" + (f", class {last.index} {last.name}" if last.index else "")
        click.echo(f"  {ends}: {source['class_index']}")
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
    for line in doubts(plan):
        click.echo(f"  {line}")


def _print_outcome(out: Path, outcome: "BuildOutcome") -> None:
    rows = ", ".join(f"{count:,} {split}" for split, count in outcome.rows.items())
    if outcome.quarantined:
        click.echo(f"in quarantine: {len(outcome.quarantined):,}, listed in {out / 'quarantine.parquet'}")
    for entry in outcome.quarantined[:_MOST_CASES]:
        click.echo(f"  {entry.path}  {entry.reason}: {entry.detail[:_LONGEST_DETAIL]}")
    if outcome.warned:
        click.echo(f"libjpeg warned of {plural(outcome.warned, 'stored image')}: column warnings of index.parquet")
    if outcome.shared:
        sets = plural(outcome.shared, "set")
        click.echo(f"train and val share images: {sets} of exact copies, listed in {out / 'report.html'}")
    click.echo(f"{out}: finished, {rows} images")
    click.echo("  every stored image was decoded and read back")
    click.echo(f"  {_how_to_check(out)}")
    if "train" not in outcome.rows:
        click.echo(f"  to evaluate a network on them: convnext-serve eval CHECKPOINT --records {as_word(out)}")
        return
    command = f"convnext-train run CONFIG --records {as_word(out)} --out RUN"
    click.echo(f"  to train: {to_type(f'train RECORDS={as_word(out)}', command)}")


def _how_to_check(out: Path) -> str:
    word = to_type(f"verify RECORDS={as_word(out)}", f"convnext-records verify {as_word(out)}")
    return f"to check every byte: {word}"
