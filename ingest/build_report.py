"""What `convnext-ingest build` says: lines for the screen, and the object of --json. Writes nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convnext_imagenet.base.protocol import read_finished
from convnext_imagenet.base.wording import as_word, plural, to_type
from convnext_imagenet.ingest.doubts import doubts
from convnext_imagenet.ingest.shards.build import BuildOutcome
from convnext_imagenet.ingest.shards.plan import IngestPlan
from convnext_imagenet.ingest.source.samples import SampleTree, split_of_word
from convnext_imagenet.ingest.source.scan_types import ScanNotes, SplitScan, TreeScan
from convnext_imagenet.records.manifest import Manifest, verified_against

_MOST_CASES = 10  # lines of quarantine or damage; the Parquet file lists all
_LONGEST_DETAIL = 100  # characters
_MOST_NAMES = 5  # of junk; the manifest has all


def sample_lines(data: Path, tree: SampleTree) -> list[str]:
    """Return what was found of a source of somebody's own images."""
    splits = ", ".join(f"{split} {sum(sample.split == split for sample in tree.samples):,}" for split in tree.splits)
    size = sum(sample.size for sample in tree.samples) / 2**20
    lines = [
        f"{data}: {tree.kind}",
        f"  {plural(len(tree.samples), 'image')}, {size:,.1f} MiB; splits: {splits or 'none'}",
    ]
    for what, entries in (("no images", tree.ignored), ("images without a label", tree.unlabelled)):
        if entries.count:
            lines.append(f"  left aside, {what}: {entries.count:,}, such as {entries.first!r}")
    return lines


def tree_lines(data: Path, tree: TreeScan, devkit: Path | None) -> list[str]:
    """Return what was found of a tree with ImageNet's layout."""
    lines = [f"{data}:", *(_split_line(split) for split in (tree.train, tree.val))]
    for name in sorted(path.name for path in data.iterdir() if path.is_dir()):
        if split_of_word(name) == "test":
            lines.append(f"  {name}/: left out; of this layout, train and val are stored")
    lines.append(f"  devkit: {devkit.name if devkit else 'none'}")
    if tree.kaggle:
        lines.append("  Kaggle's layout")
    return lines + _note_lines(tree.notes, tree.follows_links)


def _split_line(split: SplitScan) -> str:
    shape = split.shape if split.is_flat else f"{len(split.folders):,} {split.shape}"
    shape = "1 class folder" if shape == "1 class folders" else shape
    return f"  {split.name}: {shape}, {plural(split.files, 'image')}, {_size(split.bytes)}"


def _note_lines(notes: ScanNotes, follows_links: bool) -> list[str]:
    lines = []
    if (ignored := notes.ignored).count:
        names = ", ".join(f"{name} ({count:,})" for name, count in list(ignored.by_name().items())[:_MOST_NAMES])
        more = ", ..." if len(ignored.by_name()) > _MOST_NAMES else ""
        lines.append(f"  left aside, no images: {ignored.count:,}: {names}{more}")
    if (not_plain := notes.not_plain).count:
        lines.append(f"  to be quarantined (links, pipes or devices): {not_plain.count:,}, such as {not_plain.first!r}")
        if not follows_links:
            lines.append("    to read what links lead to, pass --follow-links from the beginning")
    return lines


def label_lines(plan: IngestPlan) -> list[str]:
    """Return what the labels are, how they were verified, and what of them is doubtful."""
    source = plan.source
    against = verified_against(source)
    state = f"verified against {against}" if against else "NOT verified: the folder names are the labels"
    state = source.get("labels") or state
    lines = [f"{plural(len(plan.classes), 'class')}, {plural(plan.images, 'image')}; labels {state}"]
    if source.get("labels"):
        counts = ", ".join(f"{name} {count:,}" for name, count in source["images"].items())
        first, last = plan.classes[0], plan.classes[-1]
        ends = f"class 0 is {first.name}" + (f", class {last.index} {last.name}" if last.index else "")
        lines += [f"  splits: {source['split']}: {counts}", f"  {ends}: {source['class_index']}"]
    if plan.parent is not None:
        new = ", ".join(f"{len(split.keys):,} {split.name}" for split in plan.splits)
        lines.append(f"new: {new} images; the others are in {plan.parent.root}")
        present = {label for split in plan.splits for label in split.labels.tolist()}
        if absent := len(plan.classes) - len(present):
            lines.append(f"  {plural(absent, 'class')} without a new image")
    for split, count in source["left_out"].items():
        if count:
            lines.append(f"  {split}: {plural(count, 'image')} of other classes left out")
    if source["verified"] and not source["devkit_sha256"]:
        checked = "only their total was checked" if source["classes"] == "all" else "their number was not checked"
        lines.append(f"  train images: {checked}; only the devkit states the number for each class")
    if source["incomplete_classes"]:
        incomplete = plural(source["incomplete_classes"], "class")
        lines.append(f"  train: in {incomplete}, fewer images than the devkit states")
    return lines + [f"  {line}" for line in doubts(plan)]


def dropped_line(drop: Path, plan: IngestPlan) -> str:
    """Return how many images an audit or a file of decisions left out of `plan`, or gave another class."""
    dropped = ", ".join(f"{count:,} {split}" for split, count in plan.source["dropped"].items())
    relabelled = sum(len(keys) for keys in plan.source["relabelled"].values())
    return f"{drop}: {dropped} images left out, {plural(relabelled, 'image')} of another class"


def known_lines(plan: IngestPlan, newer: int, quarantined: int) -> list[str]:
    """Return how many images of `plan` the records of --onto have already, and how they are compared.

    The files of `newer` images are newer than their shards; `quarantined` images are in quarantine there.
    """
    how = f"by key and size; {newer:,} newer than their shards, to be compared by SHA-256"
    if not plan.image_policy.keeps_bytes:
        how = "by key alone, because images are encoded again"
    known = sum(len(split.keys) for split in plan.known)
    lines = [f"already there: {plural(known, 'image')}, {how}"]
    if quarantined:
        lines.append(
            f"  {quarantined:,} of them in quarantine there; to store these, build all images again, without --onto"
        )
    return lines


def damage_lines(out: Path, damage: Sequence[str]) -> list[str]:
    """Return the first problems that a repair found, and their number."""
    way_out = ", writing again what is damaged" if damage else ""
    return [
        *(f"  {line}" for line in damage[:_MOST_CASES]),
        f"{out}: {plural(len(damage), 'problem')} found{way_out}",
    ]


def nothing_to_do_lines(out: Path) -> list[str]:
    """Return what is said of RECORDS that were finished before."""
    return [f"{out}: already finished from this source, nothing to do", f"  {_how_to_check(out)}"]


def outcome_lines(out: Path, outcome: BuildOutcome) -> list[str]:
    """Return what was stored and what was not, where it is, and what to run next."""
    rows = ", ".join(f"{count:,} {split}" for split, count in outcome.rows.items())
    lines = []
    if outcome.quarantined:
        lines.append(f"in quarantine: {len(outcome.quarantined):,}, listed in {out / 'quarantine.parquet'}")
    for entry in outcome.quarantined[:_MOST_CASES]:
        lines.append(f"  {entry.path}  {entry.reason}: {entry.detail[:_LONGEST_DETAIL]}")
    if outcome.warned:
        lines.append(f"libjpeg warned of {plural(outcome.warned, 'stored image')}: column warnings of index.parquet")
    if outcome.shared:
        sets = plural(outcome.shared, "set")
        lines.append(f"train and val share images: {sets} of exact copies, listed in {out / 'report.html'}")
    lines += [
        f"{out}: finished, {rows} images",
        "  every stored image was decoded and read back",
        f"  {_how_to_check(out)}",
    ]
    if "train" not in outcome.rows:
        command = f"convnext-serve eval CHECKPOINT --records {as_word(out)}"
        return [*lines, f"  to evaluate a network on them: {command}"]
    command = f"convnext-train run CONFIG --records {as_word(out)} --out RUN"
    return [*lines, f"  to train: {to_type(f'train RECORDS={as_word(out)}', command)}"]


def result(out: Path, was_finished: bool) -> dict[str, Any]:
    """Return what --json prints of finished records."""
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


def _how_to_check(out: Path) -> str:
    word = to_type(f"verify RECORDS={as_word(out)}", f"convnext-records verify {as_word(out)}")
    return f"to check every byte: {word}"


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"
