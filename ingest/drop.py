"""What an audit or a person's decisions change in a plan: images that are left out, and images of another class."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.shards.plan import IngestPlan, SplitPlan
from convnext_imagenet.records.audit.decisions import FlaggedRow, Judged


def without_dropped(plan: IngestPlan, judged: Judged, data: Path) -> IngestPlan:
    """Return the plan without the images that `judged` drops, and with the classes that it decides.

    Sample ids and the raw tree's fingerprint stay. Raises ArtefactError for an audit of other data, IngestError for an
    image or class that the plan lacks, and when no image of a split would remain.
    """
    judged.require_data(plan.source["fingerprint"], data)
    judged.require_splits([split.name for split in plan.splits])
    wnids = {entry.wnid: entry.index for entry in plan.classes}
    splits = tuple(_changed(split, judged, wnids) for split in plan.splits)
    before = plan.source.get("relabelled", {})  # of the records that these images are added to
    relabelled = {
        split.name: before.get(split.name, {})
        | {row.key: row.wnid for row in judged.rows if _is_relabelled(row, split.name)}
        for split in splits
    }
    source = plan.source | {
        "drop": {"sha256": judged.sha256, "audit_sha256": judged.audit_sha256},
        "dropped": {split.name: len(split.dropped) for split in splits},
        "relabelled": relabelled,
    }
    return dataclasses.replace(plan, splits=splits, source=source)


def _changed(split: SplitPlan, judged: Judged, wnids: Mapping[str, int]) -> SplitPlan:
    numbers = {key: number for number, key in enumerate(split.keys)}
    own = [row for row in judged.rows if row.split == split.name and (row.is_dropped or row.decision == "relabel")]
    if unknown := [row.key for row in own if row.key not in numbers]:
        raise IngestError(f"{judged.path}: {split.name} of DATA has no image {unknown[0]!r}; restore the file")
    labels = np.array(split.labels)
    for row in own:
        if row.decision == "relabel":
            if row.suggested_wnid not in wnids:
                raise IngestError(
                    f"{judged.path}: {row.key} is relabelled as {row.suggested_wnid!r}, which is no class of these "
                    f"records; correct suggested_wnid"
                )
            labels[numbers[row.key]] = wnids[row.suggested_wnid]
    dropped = {numbers[row.key]: _reason(row) for row in own if row.is_dropped}
    if dropped and len(dropped) == len(split.keys):
        raise IngestError(f"{judged.path}: drops every image of {split.name}; decide to keep some, or leave --drop out")
    return dataclasses.replace(split, labels=labels, dropped=dropped)


def _is_relabelled(row: FlaggedRow, split: str) -> bool:
    return row.split == split and row.decision == "relabel"


def _reason(row: FlaggedRow) -> str:
    by = "decided" if row.decision else "proposed by the audit"
    partner = f" of {row.partner}" if row.partner else ""
    note = f": {row.note}" if row.note else ""
    return f"{row.kind}{partner}, {by}{note}"
