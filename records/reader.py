"""RECORDS opened for reading: all files are checked before MindSpore opens one, and rows come in the asked order.

Knows nothing of how records are made (`build.py`), nor of what is done with their images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mindspore.dataset as ds
import numpy as np

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import require_utf8, sha256_file
from convnext_imagenet.base.host import allow_open_files
from convnext_imagenet.base.protocol import bookkeeping_name, read_finished
from convnext_imagenet.records.checked import find_damage
from convnext_imagenet.records.held import held_part
from convnext_imagenet.records.index import read_columns, shard_index_path
from convnext_imagenet.records.manifest import ClassEntry, Manifest, SplitEntry
from convnext_imagenet.records.schema import HOW_TO_REPAIR
from convnext_imagenet.records.shards import python_value


@dataclass(frozen=True)
class Split:
    """One split of an opened RECORDS directory."""

    name: str
    entry: SplitEntry
    folder: Path

    @property
    def rows(self) -> int:
        """Accepted images in the split."""
        return self.entry.rows

    def labels(self) -> np.ndarray:
        """Return the label of each row, int32 (rows,), from the tables of the shards.

        Raises ArtefactError when a table is missing or damaged, or has other labels than the manifest counts.
        """
        tables = [read_columns(shard_index_path(self.folder / shard.name), ["label"]) for shard in self.entry.shards]
        labels = np.concatenate([table["label"].to_numpy() for table in tables])
        if tuple(np.bincount(labels, minlength=len(self.entry.rows_per_class)).tolist()) != self.entry.rows_per_class:
            raise ArtefactError(
                f"{self.folder}: the tables of the shards have other labels than the manifest; build the records again"
            )
        return labels

    def dataset(
        self,
        order: Sequence[int] | np.ndarray,
        columns: Sequence[str] = ("image", "label", "sample_id"),
        workers: int = 1,
    ) -> ds.MindDataset:
        """Return a MindSpore data set of exactly the rows `order` (0..rows-1, repeats allowed), in that order.

        Raises ValueError for a row outside the split, ArtefactError when the limit of open files is too low.
        """
        indices = np.asarray(order, dtype=np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= self.rows):
            raise ValueError(f"row {indices.min()} or {indices.max()} is outside 0..{self.rows - 1} of {self.name}")
        files = [str(self.folder / shard.name) for shard in self.entry.shards]
        # MindRecord opens every shard once for itself and once for each worker.
        allow_open_files(len(files) * (1 + workers))
        return ds.MindDataset(
            files,
            columns_list=list(columns),
            sampler=ds.SubsetSampler(indices.tolist()),
            num_parallel_workers=workers,
        )

    def read(
        self, order: Sequence[int] | np.ndarray, columns: Sequence[str] = ("image", "label", "sample_id")
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows `order` as dicts of bytes, str and int. Raises ValueError and ArtefactError as `dataset`."""
        if not len(order):
            return
        dataset = self.dataset(order, columns)
        for fields in dataset.create_dict_iterator(num_epochs=1, output_numpy=True):
            yield {name: python_value(value) for name, value in fields.items()}


@dataclass(frozen=True)
class Records:
    """An opened RECORDS directory: finished, of a version that this program reads, every file as the manifest says.

    `manifest_sha256` identifies what is stored, because the manifest has the SHA-256 of every shard and table. The id
    of the plan identifies only what was requested (DECISIONS, 2026-11-28).
    """

    root: Path
    manifest: Manifest
    manifest_sha256: str

    @classmethod
    def open(cls, root: Path, check: Literal["hashes", "sizes"] = "hashes") -> "Records":
        """Return `root` opened, after checks that keep MindSpore from files that would crash it.

        `hashes` compares the SHA-256 of every file once; files that have not changed since (same inode, size and
        times) are not read again. `sizes` compares only sizes. Of a copy in the cache, the splits that it holds are
        checked. Raises ArtefactError when a file is missing, damaged or of another version.
        """
        require_utf8(root)
        try:
            manifest = Manifest.from_json(read_finished(root, "records"))
        except ArtefactError as error:
            raise ArtefactError(str(error) if str(root) in str(error) else f"{root}: {error}") from None
        damage = find_damage(root, held_part(root, manifest), deep=check == "hashes")
        if damage:
            raise ArtefactError(f"{damage[0]} ({len(damage)} damaged in total); {HOW_TO_REPAIR}")
        manifest_path = root / bookkeeping_name("records", "manifest.json")
        return cls(root=root, manifest=manifest, manifest_sha256=sha256_file(manifest_path))

    @property
    def classes(self) -> tuple[ClassEntry, ...]:
        """The classes by index."""
        return self.manifest.classes

    def split(self, name: str) -> Split:
        """Return a split that has rows. Raises ArtefactError for one that is unknown, empty or not in this copy."""
        held = held_part(self.root, self.manifest).splits
        entry = held.get(name)
        if entry is None or not entry.rows:
            known = ", ".join(sorted(split for split, entry in held.items() if entry.rows))
            raise ArtefactError(f"{self.root}: no rows in split {name!r}; splits with rows: {known or 'none'}")
        return Split(name=name, entry=entry, folder=self.root / name)
