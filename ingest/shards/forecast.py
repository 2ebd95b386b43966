"""What a build would write and how long it would take, from the plan and a sample of images; keeps nothing."""

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convnext_imagenet.base.wording import duration, plural
from convnext_imagenet.ingest.shards.plan import IngestPlan, SplitPlan
from convnext_imagenet.ingest.shards.pool import LocalPool
from convnext_imagenet.ingest.shards.shard_writer import ShardTask, write_unit
from convnext_imagenet.ingest.shards.worker_start import sized_for
from convnext_imagenet.records.page_sizes import PageLayout, expected_shard_bytes, page_layout

_SAMPLE, _SAMPLE_BYTES = 200, 16 << 20  # images, and bytes of them if they are small: two seconds of a core
_FEW = 8  # images of the small shard that a worker also writes, to tell what a shard costs from what an image costs
_is_warm = False  # in a worker: whether it has done so


@dataclass(frozen=True)
class BuildForecast:
    """What a build would do: images, shards and bytes by split, and the seconds of `workers` processes.

    `bytes` has the size of the shards with their .db, `stored_bytes` that of the images in them.

    `sampled` images were checked and stored for it; `not_stored` names those of them that were not, with the reason.
    """

    classes: int
    images: dict[str, int]
    shards: dict[str, int]
    source_bytes: int
    stored_bytes: int
    bytes: dict[str, int]
    workers: int
    start_s: float
    seconds: float
    sampled: int
    not_stored: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the forecast as JSON values."""
        return dataclasses.asdict(self)


def forecast_build(plan: IngestPlan, data: Path, workers: int, begin: float) -> BuildForecast:
    """Return what a build of `plan` in up to `workers` processes would do; a sample is stored in a temporary folder.

    Images are taken evenly from all splits. `begin` is the time (`time.monotonic`) at which the command began to plan.
    Raises FailedIngestError as a build does.
    """
    pool = sized_for(LocalPool(workers), plan.images, plan.image_policy)
    used = min(pool.workers, sum(split.shard_count for split in plan.splits))
    source_bytes = sum(int(split.sizes.sum()) for split in plan.splits)
    share = sample_share(plan.images, source_bytes)
    samples = [_sample(split, share, used) for split in plan.splits if split.keys]
    with tempfile.TemporaryDirectory(prefix="convnext-forecast-") as name:
        tasks = list(_tasks(plan, samples, data.resolve(), Path(name)))
        planned = time.monotonic()
        pool.run(write_timed, iter(tasks), len(tasks), lambda count: None)
        elapsed_s = time.monotonic() - planned
        timings = [json.loads(path.read_text()) for path in sorted(Path(name).glob("*.timing"))]
    counted_s = sum(timing["few_s"] + timing["seconds"] for timing in timings)
    sample_bytes = sum(int(split.sizes[split.order].sum()) for split in samples)
    stored = sum(timing["bytes"] for timing in timings)
    growth = stored / sample_bytes if sample_bytes else 1.0
    start_s = planned - begin + max(0.0, elapsed_s - counted_s / used)
    shard_s, image_s = fit_costs(timings)
    work_s = shard_s * sum(split.shard_count for split in plan.splits) + image_s * plan.images
    return BuildForecast(
        classes=len(plan.classes),
        images={split.name: len(split.keys) - len(split.dropped) for split in plan.splits},
        shards={split.name: split.shard_count for split in plan.splits},
        source_bytes=source_bytes,
        stored_bytes=round(source_bytes * growth),
        bytes={split.name: _split_bytes(plan, split, growth) for split in plan.splits},
        workers=used,
        start_s=start_s,
        seconds=start_s + work_s / used,
        sampled=sum(len(split.order) for split in samples),
        not_stored=[line for timing in timings for line in timing["not_stored"]],
    )


def _split_bytes(plan: IngestPlan, split: SplitPlan, growth: float) -> int:
    """Return about how large the shards of a split become, if each image is stored with `growth` times its bytes."""
    if not split.keys:
        return 0
    largest = plan.image_policy.largest_row_bytes(split.largest_row_bytes)
    inherited = _layout(plan, split)
    layout = PageLayout(*inherited) if inherited else page_layout(largest, split.largest_shard_bytes)
    is_stored = np.ones(len(split.keys), bool)
    is_stored[list(split.dropped)] = False
    shards = (split.sample_ids(index) for index in range(split.shard_count))
    return sum(
        expected_shard_bytes(layout, (split.sizes[ids[is_stored[ids]]] * growth).astype(np.int64).tolist())
        for ids in shards
    )


def _layout(plan: IngestPlan, split: SplitPlan) -> tuple[int, int] | None:
    """Return the sizes of header and pages that the records have to which images are added, if there are any."""
    return plan.parent.layouts[split.name] if plan.parent else None


def fit_costs(timings: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the seconds that a shard costs, and those that an image costs beside that.

    Each timing has the seconds of a small shard of `few` images and of one of `rows` images.
    """
    more = sum(timing["rows"] - timing["few"] for timing in timings)
    more_s = sum(timing["seconds"] - timing["few_s"] for timing in timings)
    image_s = max(0.0, more_s / more) if more else 0.0
    shards = max(1, len(timings))
    return max(0.0, sum(timing["few_s"] - image_s * timing["few"] for timing in timings) / shards), image_s


def forecast_lines(found: BuildForecast) -> list[str]:
    """Return a forecast as lines of text."""
    shards = ", ".join(f"{count} {name}" for name, count in found.shards.items())
    lines = [
        f"would write {plural(sum(found.images.values()), 'image')} in shards: {shards}; about "
        f"{sum(found.bytes.values()) / 2**20:,.1f} MiB from {found.source_bytes / 2**20:,.1f} MiB of images",
        f"would take about {duration(found.seconds)} with {plural(found.workers, 'worker')}, from a sample of "
        f"{plural(found.sampled, 'image')}",
    ]
    if found.not_stored:
        share = len(found.not_stored) / found.sampled
        lines.append(f"not stored of the sample: {len(found.not_stored)} ({share:.1%})")
        lines += [f"  {line}" for line in found.not_stored[:10]]
    return [*lines, "nothing was written"]


def write_timed(task: ShardTask, on_progress: Callable[[int], None]) -> None:
    """Write one shard of a sample as a build does, before it a small one, and note how long both took.

    A worker's first shard is not counted: MindSpore is loaded and the decoder started meanwhile.
    """
    global _is_warm
    few = dataclasses.replace(task, rows=task.rows[:_FEW], shard=f"few-{task.shard}")
    if not _is_warm:
        _seconds_of(dataclasses.replace(few, shard=f"first-{task.shard}"))
        _is_warm = True
    few_s, seconds = _seconds_of(few), _seconds_of(task)
    on_progress(len(task.rows))
    receipt = json.loads((task.folder / f"{Path(task.shard).stem}.json").read_text())
    images = task.folder / f"{Path(task.shard).stem}.parquet"
    note = {
        "few": len(few.rows),
        "few_s": few_s,
        "rows": len(task.rows),
        "seconds": seconds,
        "bytes": _stored_bytes(images),
        "not_stored": [f"{bad['path']}  {bad['reason']}: {bad['detail']}" for bad in receipt["facts"]["quarantined"]],
    }
    (task.folder / f"{Path(task.shard).stem}.timing").write_text(json.dumps(note))


def _seconds_of(task: ShardTask) -> float:
    begin = time.monotonic()
    write_unit(task, lambda count: None)
    return time.monotonic() - begin


def _stored_bytes(table: Path) -> int:
    """Return the bytes of the images that a shard stores, from the table beside it; none without one."""
    from convnext_imagenet.base.parquet import read_table

    return int(np.sum(read_table(table, ["bytes"])["bytes"].to_numpy())) if table.is_file() else 0


def sample_share(images: int, source_bytes: int) -> float:
    """Return the share of the images to sample, 0 to 1: 200, and of small images as many as have 16 MiB.

    A hundred images of 4 KB take a worker less time than its turns differ.
    """
    return min(1.0, max(_SAMPLE / max(1, images), _SAMPLE_BYTES / max(1, source_bytes)))


def _sample(split: SplitPlan, share: float, shards: int) -> SplitPlan:
    """Return the split with only this share of its images, evenly taken from its order, in `shards` shards."""
    count = max(1, min(len(split.order), round(share * len(split.order))))
    places = np.linspace(0, len(split.order) - 1, count).round().astype(np.int64)
    return dataclasses.replace(split, order=split.order[places], shard_count=min(shards, count))


def _tasks(plan: IngestPlan, samples: list[SplitPlan], data: Path, folder: Path) -> Iterator[ShardTask]:
    policy = plan.image_policy
    for split in samples:
        for index, shard in enumerate(split.shard_names):
            yield ShardTask(
                data=data,
                folder=folder,
                staging=folder / f"{Path(shard).stem}.staging",
                plan_id="",
                split=split.name,
                shard=shard,
                rows=split.shard_rows(index),
                largest_row_bytes=policy.largest_row_bytes(split.largest_row_bytes),
                largest_shard_bytes=split.largest_shard_bytes,
                follow_links=plan.source["follows_links"],
                image_policy=policy,
                pictured=plan.pictured(split.name),
                dropped=split.dropped,
                layout=_layout(plan, split),
            )
