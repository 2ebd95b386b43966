"""`convnext-ingest build`, step by step: scan, verify, plan, then write, repair, or only say what would be written."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from convnext_imagenet.base.console import progress
from convnext_imagenet.base.protocol import check_begun_or_empty, marked_digest
from convnext_imagenet.base.signals import interruptible
from convnext_imagenet.base.wording import plural
from convnext_imagenet.ingest import build_report as report
from convnext_imagenet.ingest.build_options import BuildOptions
from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.labels.given import Wishes
from convnext_imagenet.ingest.make_plan import make_given_plan, make_plan
from convnext_imagenet.ingest.shards.build import BuildOutcome, RecordsBuild, open_build, refuse_stale
from convnext_imagenet.ingest.shards.forecast import forecast_build, forecast_lines
from convnext_imagenet.ingest.shards.image_policy import Conversion, ImagePolicy, Reencoding
from convnext_imagenet.ingest.shards.known import count_quarantined, newer_images, refuse_changed
from convnext_imagenet.ingest.shards.parent import Parent, open_parent
from convnext_imagenet.ingest.shards.plan import IngestPlan
from convnext_imagenet.ingest.shards.pool import LocalPool
from convnext_imagenet.ingest.shards.quarantine import allowed_number
from convnext_imagenet.ingest.shards.worker_start import sized_for
from convnext_imagenet.ingest.source.archives import check_archives
from convnext_imagenet.ingest.source.detect import scan_data, scan_more
from convnext_imagenet.ingest.source.folders import Links
from convnext_imagenet.ingest.source.layout import official_archives
from convnext_imagenet.ingest.source.samples import SampleTree
from convnext_imagenet.ingest.source.scan_types import TreeScan
from convnext_imagenet.ingest.source.sources import Request
from convnext_imagenet.ingest.source.unpack import Unpacker
from convnext_imagenet.launch.cli_cluster import RAY, on_cluster
from convnext_imagenet.launch.executor import Executor
from convnext_imagenet.records.damage import say_what_is_lost
from convnext_imagenet.records.jpeg_warnings import require_pictures

_USUAL_QUALITY = 90  # of images that --max-side shrinks
Say = Callable[[Sequence[str]], None]


def unpack_folder(out: Path) -> Path:
    """Return the folder for what has to be unpacked for RECORDS `out`."""
    return out.with_name(f".{out.name}.unpacked")


def run_build(asked: BuildOptions, begin: float, say: Say) -> dict[str, Any]:
    """Do what was asked, and return what --json prints; the command began at `begin` (`time.monotonic`).

    `say` gets the lines for the screen.

    Raises IngestError, and whatever else the steps raise; RECORDS are then as they were, or can be resumed.
    """
    data, out = asked.data, asked.out
    unpacker = Unpacker(unpack_folder(out), lambda name, size: progress(size, f"unpack {name}", unit="B"))
    was_unpacked = unpacker.folder.exists()
    with interruptible(), _executor(asked) as executor:
        if asked.is_dry_run:
            check_begun_or_empty(out, "records")
        if asked.repair and not data.is_dir():
            raise IngestError(f"{data}: no such folder; {say_what_is_lost(out)}")
        if asked.check_archives:
            _check_archives(data, say)
        plan = _plan(asked, unpacker, say)
        say(report.label_lines(plan))
        _compare_known(plan, data, say)
        if asked.is_dry_run:
            forecast = forecast_build(plan, data, asked.workers or _cores(), begin)
            say(forecast_lines(forecast))
            if not was_unpacked:  # what was there belongs to an unfinished build
                unpacker.remove()
            return forecast.to_json()
        outcome = _write(asked, plan, executor, say)
        unpacker.remove()
        return report.result(out, was_finished=outcome is None)


def _plan(asked: BuildOptions, unpacker: Unpacker, say: Say) -> IngestPlan:
    """Scan DATA, say what is there, and return the plan of its verified labels."""
    data = asked.data
    parent = open_parent(asked.onto) if asked.onto else None
    tree = _scan(asked, parent, unpacker)
    wishes = Wishes(asked.val_fraction, asked.test_fraction, asked.eval_only, asked.keep_order)
    policy, unverified = _image_policy(asked), asked.unverified
    if isinstance(tree, SampleTree):
        say(report.sample_lines(data, tree))
        plan = make_given_plan(
            tree, data, asked.classes, unverified, wishes, asked.seed, policy, parent, asked.train_shards
        )
    else:
        if wishes != Wishes() or asked.label_column or asked.group_by:
            raise IngestError(
                f"{data}: has ImageNet's layout, with splits and labels of its own; leave --val-fraction, "
                f"--test-fraction, --group-by, --label-column, --keep-order and --eval-only out"
            )
        say(report.tree_lines(data, tree, asked.devkit or tree.devkit))
        plan = make_plan(tree, asked.classes, unverified, asked.devkit, asked.seed, policy, parent, asked.train_shards)
    return _without_dropped(plan, asked.drop, data, say) if asked.drop else plan


def _scan(asked: BuildOptions, parent: Parent | None, unpacker: Unpacker) -> TreeScan | SampleTree:
    if parent is None:
        return scan_data(
            asked.data,
            unpacker,
            asked.follow_links,
            asked.unverified,
            asked.devkit,
            asked.label_column,
            asked.group_by,
        )
    links = Links(asked.data, asked.follow_links)
    request = Request(asked.data, links, unpacker, asked.label_column, asked.group_by)
    return scan_more(request, parent.has_given_labels)


def _image_policy(asked: BuildOptions) -> ImagePolicy:
    if asked.fingerprints:
        require_pictures()
    return ImagePolicy(
        timeout_seconds=asked.image_timeout,
        memory_mib=asked.image_memory,
        reencoding=Reencoding(asked.max_side, asked.quality or _USUAL_QUALITY) if asked.max_side else None,
        accept_warnings=asked.accept_warnings,
        conversion=Conversion(asked.quality) if asked.convert else None,
        has_pictures=asked.fingerprints,
    )


def _without_dropped(plan: IngestPlan, drop: Path, data: Path, say: Say) -> IngestPlan:
    from convnext_imagenet.ingest.drop import without_dropped  # these import MindSpore, which takes seconds
    from convnext_imagenet.records.audit.decisions import open_judged

    plan = without_dropped(plan, open_judged(drop), data)
    say([report.dropped_line(drop, plan)])
    return plan


def _compare_known(plan: IngestPlan, data: Path, say: Say) -> None:
    """Say how many images the records of --onto have already, and refuse those that have changed."""
    if not any(split.keys for split in plan.known):
        return
    newer = newer_images(plan)
    say(report.known_lines(plan, len(newer), count_quarantined(plan)))
    with progress(len(newer), "compare") as bar:
        refuse_changed(newer, data, plan.source["follows_links"], bar)


def _write(asked: BuildOptions, plan: IngestPlan, executor: Executor, say: Say) -> BuildOutcome | None:
    """Write what is missing of RECORDS and say what came out; None if nothing was missing."""
    out = asked.out
    before = marked_digest(out)
    with open_build(plan, asked.data, out, asked.repair) as job:
        if asked.repair:
            _find_damage(job, say)
        linked = job.inherit()
        units = job.unfinished()
        if linked:
            say([f"{out}: {plural(linked, 'shard')} of {asked.onto} linked"])
        if job.is_finished:
            refuse_stale(job)
        if job.is_finished and not units:
            say(report.nothing_to_do_lines(out))
            return None
        if job.outdated:
            say(
                [
                    f"{out}: source files have changed since these shards were written, writing them again: "
                    f"{first_few(job.outdated)}"
                ]
            )
        if len(units) < job.shards:
            say([f"{out}: resuming, finished shards: {job.shards - len(units)} of {job.shards}"])
        if units:  # only the summary is missing after a quarantine that was too large
            rows = sum(unit.rows for unit in units)
            with progress(rows, "ingest", units=f"of {plural(len(units), 'shard')}") as bar:
                sized = sized_for(executor, rows, plan.image_policy) if isinstance(executor, LocalPool) else executor
                job.write(units, sized, bar, bar.count_unit)
        outcome = job.finish(allowed_number(asked.max_quarantine, plan.source["classes"], plan.images))
    say(report.outcome_lines(out, outcome))
    if before not in (None, marked_digest(out)):
        say(["  the records are others than before: a RUN that began on them must begin again"])
    return outcome


def _find_damage(job: RecordsBuild, say: Say) -> None:
    """Say what is damaged; from then on the job's unfinished shards are those to write again."""
    with progress(job.shards, "check", unit="shard") as bar:
        damage = job.forget_damaged(bar)
    say(report.damage_lines(job.out, damage))


def _check_archives(data: Path, say: Say) -> None:
    archives = official_archives(data)
    with progress(sum(path.stat().st_size for path in archives), "md5", unit="B") as advance:
        check_archives(archives, advance)
    say([f"{data}: the MD5 is the official one: {', '.join(path.name for path in archives)}"])


@contextlib.contextmanager
def _executor(asked: BuildOptions) -> Iterator[Executor]:
    """Yield the executor that writes the shards; check a cluster first."""
    if asked.engine != RAY:
        yield LocalPool(asked.workers or _cores())
        return
    from convnext_imagenet.launch.cluster.nodes import WorkerResources  # it is for those who have the extra `ray`

    check_begun_or_empty(asked.out, "records")
    inputs = [path for path in (asked.data, asked.data / "train", asked.data / "val") if path.exists()]
    with on_cluster(asked.address, lambda nodes: WorkerResources(), asked.out, inputs, asked.workers) as executor:
        yield executor


def _cores() -> int:
    return len(os.sched_getaffinity(0))
