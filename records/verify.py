"""Proof that a RECORDS directory is what its manifest says: all of it is read again. Changes nothing."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.protocol import file_damage, read_receipt
from convnext_imagenet.base.wording import plural
from convnext_imagenet.records.damage import summary_file_problems
from convnext_imagenet.records.held import held_part
from convnext_imagenet.records.image_headers import BadImage
from convnext_imagenet.records.images import check_image
from convnext_imagenet.records.manifest import ClassEntry, Manifest, ShardEntry
from convnext_imagenet.records.reader import Records, find_damage
from convnext_imagenet.records.schema import HOW_TO_BUILD_ANEW, HOW_TO_REPAIR, Row
from convnext_imagenet.records.shards import read_back


@dataclass(frozen=True)
class RecordsVerification:
    """What was read: the number of rows in all splits, and every contradiction that was found."""

    rows: int
    problems: tuple[str, ...]


def verify_records(root: Path, on_progress: Callable[[int], None] | None = None) -> RecordsVerification:
    """Compare files, receipts, counts, labels, keys and every image with the manifest; return what contradicts it.

    Hashes are computed again, and no shard is opened unless all bytes are the recorded ones: MindSpore can crash on a
    damaged shard. Of a copy in the cache, what it holds is compared. `on_progress` gets the number of rows read. Raises
    ArtefactError for an unfinished directory.
    """
    return verify_content(root, held_part(root, Records.open(root, check="sizes").manifest), on_progress)


def verify_content(
    root: Path, manifest: Manifest, on_progress: Callable[[int], None] | None = None
) -> RecordsVerification:
    """Return what contradicts `manifest` in a directory that need not be marked as finished; else `verify_records`."""
    problems = summary_file_problems(root, manifest) + find_damage(root, manifest, deep=True, remembered=False)
    for name, split in manifest.splits.items():
        problems += [damage for shard in split.shards for damage in _table_problems(root / name, shard, manifest)]
    if problems:
        return RecordsVerification(rows=0, problems=tuple(problems))
    rows, is_verified = 0, bool(manifest.source.get("verified"))
    for name, split in manifest.splits.items():
        per_class: Counter[int] = Counter()
        ids: set[int] = set()
        for shard in split.shards:
            shard_rows = 0
            for row in read_back(root / name / shard.name):
                found = row_problems(row, manifest.classes, is_verified, manifest.accepts_warnings)
                problems += [f"{name}/{shard.name}: row {shard_rows}, {problem}" for problem in found]
                per_class[row.label] += 1
                ids.add(row.sample_id)
                shard_rows += 1
                if on_progress:
                    on_progress(1)
            if shard_rows != shard.rows:
                problems.append(f"{name}/{shard.name}: {shard_rows} rows, the manifest says {shard.rows}")
            rows += shard_rows
        if len(ids) != split.rows:
            problems.append(f"{name}: {len(ids)} different sample ids for {split.rows} rows")
        counts = tuple(per_class[index] for index in range(len(manifest.classes)))
        if counts != split.rows_per_class:
            wrong = next(index for index, count in enumerate(counts) if count != split.rows_per_class[index])
            problems.append(
                f"{name}: class {wrong} has {counts[wrong]} rows, the manifest says {split.rows_per_class[wrong]}"
            )
    return RecordsVerification(rows=rows, problems=tuple(problems))


def row_problems(
    row: Row, classes: tuple[ClassEntry, ...], verified: bool, accepts_warnings: bool = False
) -> list[str]:
    """Return the contradictions within one row: label range, wnid in the key, image content and sides."""
    problems = []
    if not 0 <= row.label < len(classes):
        problems.append(f"{row.key}: label {row.label} is outside 0..{len(classes) - 1}")
    elif verified and row.key.startswith("n") and row.key.split("_")[0] != classes[row.label].wnid:
        problems.append(f"{row.key}: label {row.label} is {classes[row.label].wnid}")
    try:
        info = check_image(row.image, accepts_warnings)
    except BadImage as error:
        return [*problems, f"{row.key}: {error}"]
    if (info.width, info.height) != (row.width, row.height):
        problems.append(f"{row.key}: {info.width} x {info.height} px, the row says {row.width} x {row.height}")
    return problems


def _table_problems(folder: Path, shard: ShardEntry, manifest: Manifest) -> list[str]:
    """Return what is wrong with the shard's table, which the receipt names and the manifest does not."""
    receipt = read_receipt(folder, Path(shard.name).stem, manifest.plan_id)
    others = receipt["files"][len(shard.files) :] if receipt else []
    return [damage for file in others if (damage := file_damage(folder, file, deep=True))]


def refuse_problems(root: Path, verification: RecordsVerification) -> None:
    """Raise ArtefactError, with the first three problems, when anything contradicts the manifest."""
    if verification.problems:
        first = "; ".join(verification.problems[:3])
        # Rows are read only when every byte is as it was written: then a repair would write the same bytes again.
        way_out = HOW_TO_BUILD_ANEW if verification.rows else HOW_TO_REPAIR
        raise ArtefactError(f"{root}: {plural(len(verification.problems), 'problem')}: {first}; {way_out}")
