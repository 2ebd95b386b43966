"""`make bench PART=read`: rows a second from records, by `open_records` and by MindSpore's MindDataset.

The images are random bytes with the sizes of ImageNet's (a log-normal distribution, 110 KB on average), because nothing
here decodes them. Files are in the page cache: what is timed is the reader. `open` is the time to the first row.
"""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from harness import Case, interleaved_rates, is_wanted, report

from convnext_imagenet.base import protocol
from convnext_imagenet.records import open_records
from convnext_imagenet.records.build import make_manifest, mark_finished, write_summary_files
from convnext_imagenet.records.index import index_entry, shard_index_path, write_shard_index
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.page_sizes import page_layout
from convnext_imagenet.records.quarantine import table_bytes
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.receipts import shard_facts, shard_files, split_entry
from convnext_imagenet.records.schema import Row, shard_name
from convnext_imagenet.records.shards import write_shard

SHARDS, ROWS_PER_SHARD, BATCH, ROUNDS = 4, 1500, 64, 5


def main() -> None:
    """Time both readers in stored and in random order, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        root = _records(Path(folder) / "records")
        rows = SHARDS * ROWS_PER_SHARD
        orders = {"stored": np.arange(rows), "random": np.random.default_rng(0).permutation(rows)}
        Records.open(root)  # compares all files once, so that neither reader pays for it below
        cases = [
            Case(name, rows, lambda read=read, order=order: read(root, order), {"reader": name, "order": kind})
            for kind, order in orders.items()
            for name, read in READERS.items()
            if is_wanted(name)
        ]
        rates = interleaved_rates(cases, ROUNDS)
        starts = {name: _first_row_s(read, root) for name, read in READERS.items()}
        report(
            "read",
            [
                {**case.facts, "rows_per_s": round(rate), "open_s": round(starts[case.what], 3)}
                for case, rate in zip(cases, rates, strict=True)
            ],
        )


def _first_row_s(read, root: Path) -> float:
    begin = time.perf_counter()
    read(root, np.array([0]))
    return time.perf_counter() - begin


def _mind_dataset(root: Path, order: np.ndarray, workers: int) -> None:
    split = Records.open(root, check="sizes").split("train")
    dataset = split.dataset(order, ("image", "label"), workers)
    total = sum(len(image.tobytes()) for image, _ in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
    _require(total)


def _open_records(root: Path, order: np.ndarray, check) -> None:
    source = open_records(root, check=check)
    _require(sum(len(source[row].image) for row in order.tolist()))


def _in_threads(root: Path, order: np.ndarray) -> None:
    source = open_records(root)
    batches = [order[at : at + BATCH].tolist() for at in range(0, len(order), BATCH)]
    with ThreadPoolExecutor(2) as pool:
        _require(sum(len(row.image) for batch in pool.map(source.__getitems__, batches) for row in batch))


def _require(total: int) -> None:
    if not total:
        raise RuntimeError("a reader gave no bytes")


READERS = {
    "open_records, each image checked": lambda root, order: _open_records(root, order, "rows"),
    "open_records, each image checked, 2 threads": _in_threads,
    "open_records, shards checked before": lambda root, order: _open_records(root, order, "shards"),
    "MindDataset, 1 worker": lambda root, order: _mind_dataset(root, order, 1),
    "MindDataset, 2 workers": lambda root, order: _mind_dataset(root, order, 2),
}


def _records(root: Path) -> Path:
    drawn = np.random.default_rng(0)
    classes = tuple(ClassEntry(index, f"n{index:08d}", f"class {index}") for index in range(10))
    plan_id = protocol.begin(root, "records", {"rows": SHARDS * ROWS_PER_SHARD, "shards": {"train": SHARDS}})
    with protocol.exclusive(root):
        receipts = [_publish(root, index, drawn, plan_id) for index in range(SHARDS)]
        manifest = make_manifest(plan_id, classes, {"train": split_entry(receipts, len(classes))}, {"verified": False})
        mark_finished(root, write_summary_files(root, manifest, table_bytes([]), []))
    return root


def _publish(root: Path, index: int, drawn: np.random.Generator, plan_id: str) -> dict:
    sizes = np.clip(drawn.lognormal(np.log(95_000), 0.55, ROWS_PER_SHARD), 2_000, 1_000_000).astype(int)
    first = index * ROWS_PER_SHARD
    rows = [
        Row(drawn.bytes(size), (first + at) % 10, first + at, f"key_{first + at}", 375, 500)
        for at, size in enumerate(sizes.tolist())
    ]
    path = protocol.staging(root) / shard_name("train", index, SHARDS)
    write_shard(path, rows, page_layout(1_000_000, ROWS_PER_SHARD * 110_000))
    write_shard_index(shard_index_path(path), [index_entry(row, "RGB") for row in rows])
    return protocol.publish(
        shard_files(path), root / "train", path.stem, plan_id, shard_facts([row.label for row in rows])
    )


if __name__ == "__main__":
    main()
