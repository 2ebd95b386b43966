"""The manifest of a RECORDS directory: what it contains, from where, and how to check it. Reads no file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.records.schema import SCHEMA_VERSION


@dataclass(frozen=True)
class ClassEntry:
    """A class: `index` 0.., its WordNet id, and a name for display only.

    `devkit_train` and `devkit_val` are the numbers of images that the devkit states, None without a devkit.
    """

    index: int
    wnid: str
    name: str
    devkit_train: int | None = None
    devkit_val: int | None = None

    def devkit_images(self, split: str) -> int | None:
        """Return the number of images that the devkit states for a split, or None."""
        return {"train": self.devkit_train, "val": self.devkit_val}.get(split)


@dataclass(frozen=True)
class ShardEntry:
    """A shard and the index file (`.db`) beside it: rows, sizes in bytes, SHA-256 of each."""

    name: str
    rows: int
    bytes: int
    sha256: str
    index_bytes: int
    index_sha256: str

    @property
    def files(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The two files in the form of a receipt."""
        return (
            {"name": self.name, "bytes": self.bytes, "sha256": self.sha256},
            {"name": f"{self.name}.db", "bytes": self.index_bytes, "sha256": self.index_sha256},
        )


@dataclass(frozen=True)
class SplitEntry:
    """A split: accepted rows (all, and by class index), the number of images in quarantine, its shards in order."""

    rows: int
    rows_per_class: tuple[int, ...]
    quarantined: int
    shards: tuple[ShardEntry, ...]


def verified_against(source: Mapping[str, Any]) -> str | None:
    """Return what the labels of a `source`, as plan and manifest have it, were verified against; None if nothing."""
    if not source.get("verified"):
        return None
    is_kaggle = source.get("kaggle_sha256") and not source.get("devkit_sha256")
    return "the official val labels, without a devkit" if is_kaggle else "the devkit"


@dataclass(frozen=True)
class Manifest:
    """A whole RECORDS directory; `source` has layout, fingerprint, class mode and whether labels were verified.

    `files` maps the names of the files beside the splits (index, report, quarantine) to their SHA-256.
    """

    schema_version: int
    plan_id: str
    classes: tuple[ClassEntry, ...]
    splits: dict[str, SplitEntry]
    source: dict[str, Any]
    seed: int
    versions: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)

    @property
    def verified_against(self) -> str | None:
        """What the labels were verified against; None when they were not."""
        return verified_against(self.source)

    @property
    def accepts_warnings(self) -> bool:
        """Whether images are stored of which the decoder warned that a part is lost."""
        return bool(self.source.get("treatment", {}).get("accept_warnings"))

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON objects, lists, numbers and strings, which share its mappings."""
        splits = {
            name: vars(split) | {"shards": [vars(shard) for shard in split.shards]}
            for name, split in self.splits.items()
        }
        return vars(self) | {"classes": [vars(entry) for entry in self.classes], "splits": splits}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Manifest":
        """Return the manifest that `to_json` wrote. Raises ArtefactError for another version and wrong counts."""
        version = value.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ArtefactError(
                f"schema version {version!r}, but this program reads {SCHEMA_VERSION}; "
                f"build the records again, or install the version that wrote them"
            )
        try:
            splits = {name: _split_from_json(split) for name, split in value["splits"].items()}
            classes = tuple(ClassEntry(**entry) for entry in value["classes"])
            manifest = cls(**{**value, "classes": classes, "splits": splits})
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(
                f"the manifest lacks a field or has an unknown one ({error}); build the records again"
            ) from None
        _check_counts(manifest)
        return manifest


def _split_from_json(value: dict[str, Any]) -> SplitEntry:
    shards = tuple(ShardEntry(**shard) for shard in value["shards"])
    return SplitEntry(**{**value, "rows_per_class": tuple(value["rows_per_class"]), "shards": shards})


def _check_counts(manifest: Manifest) -> None:
    for name, split in manifest.splits.items():
        sums = {sum(split.rows_per_class), sum(shard.rows for shard in split.shards), split.rows}
        if len(sums) != 1 or len(split.rows_per_class) != len(manifest.classes):
            raise ArtefactError(
                f"the manifest's counts of split {name!r} contradict each other ({sorted(sums)}); "
                f"build the records again"
            )
    if [entry.index for entry in manifest.classes] != list(range(len(manifest.classes))):
        raise ArtefactError("the manifest's classes are not numbered 0, 1, 2, ...; build the records again")
