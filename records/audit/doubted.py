"""The rows of opened RECORDS that an audit of them doubts."""

import pyarrow.compute as pc

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.records.audit.decisions import Judged
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.row_lookup import read_index


def doubted_sample_ids(judged: Judged, records: Records, split: str) -> set[int]:
    """Return the sample ids of a split that an evaluation leaves out.

    Raises ArtefactError for an audit of other records, a split or key that these lack, and if no row would remain.
    """
    judged.require_records(records.manifest_sha256, str(records.root))
    judged.require_splits(records.manifest.splits.keys())
    index = read_index(records, ("split", "key", "sample_id"))
    own = index.filter(pc.equal(index["split"], split))
    by_key = dict(zip(own["key"].to_pylist(), own["sample_id"].to_pylist(), strict=True))
    keys = judged.keys_outside_evaluation(split)
    if unknown := keys - by_key.keys():
        raise ArtefactError(f"{judged.path}: {split} has no row with the key {min(unknown)!r}; restore the file")
    if len(keys) == len(by_key):
        raise ArtefactError(f"{judged.path}: flags every row of {split}; without them there is nothing to evaluate")
    return {by_key[key] for key in keys}
