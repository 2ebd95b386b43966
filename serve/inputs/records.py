"""A split of RECORDS as inputs: its stored images, in their order, with labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from convnext_imagenet.base.files import sha256_json
from convnext_imagenet.records.reader import Records, Split
from convnext_imagenet.serve.inputs.inputs import Item


@dataclass(frozen=True)
class RecordsInputs:
    """The rows of a split; `indices` maps the records' classes to the network's, None for a class that it lacks."""

    split: Split
    indices: tuple[int | None, ...]
    sha256: str

    @property
    def count(self) -> int:
        """Return the number of rows of the split."""
        return self.split.rows

    def items(self, numbers: range) -> Iterator[Item]:
        """Yield the rows with these numbers."""
        for row in self.split.read(numbers, ("image", "label", "key")):
            yield Item(row["key"], partial(bytes, row["image"]), self.indices[row["label"]])

    def is_inside(self, path: Path) -> bool:
        """Return whether `path` lies in the records."""
        return path.resolve().is_relative_to(self.split.folder.parent.resolve())


def open_split(root: Path, split: str, wnids: Sequence[str]) -> RecordsInputs:
    """Return a split of finished RECORDS, with labels as indices into `wnids`, or the records' own without wnids.

    Raises ArtefactError without one.
    """
    records = Records.open(root)
    known = {wnid: index for index, wnid in enumerate(wnids or [entry.wnid for entry in records.classes])}
    indices = tuple(known.get(entry.wnid) for entry in records.classes)
    identity = {"manifest_sha256": records.manifest_sha256, "split": split}
    return RecordsInputs(records.split(split), indices, sha256_json(identity))
