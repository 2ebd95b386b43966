"""RECORDS with copies in them, and PREDICTIONS of them, as the tests of audits need them."""

import numpy as np

from convnext_imagenet.base import protocol
from convnext_imagenet.base.files import sha256_json
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.schema import Row
from convnext_imagenet.serve.predict.schema import part_schema, rows_table, write_part

from ...records_of import finished_records
from .conftest import jpeg, picture, planted_copies

WNIDS = ("n00000001", "n00000002")


def records_of_copies(root, seed=0):
    """12 train and 6 val images: val 0 is a mirrored copy of train 0, val 1 one of train 1 with the other label."""
    rng = np.random.default_rng(seed)
    train = [jpeg(picture(seed * 100 + k)) for k in range(12)]
    val = [jpeg(picture(seed * 100 + 50 + k)) for k in range(6)]
    val[0] = planted_copies.KINDS["mirrored"](picture(seed * 100), rng)
    val[1] = planted_copies.KINDS["re-encoded"](picture(seed * 100 + 1), rng)
    train[3] = train[2]
    splits = {
        "train": [Row(image, k % 2, k, f"train_{k}", 120, 160) for k, image in enumerate(train)],
        "val": [Row(image, 0, k, f"val_{k}", 120, 160) for k, image in enumerate(val)],
    }
    classes = [ClassEntry(k, wnid, f"name {k}") for k, wnid in enumerate(WNIDS)]
    return finished_records(root, splits, classes, {"seed": seed}, shards=2)


def finished_predictions(root, records, split, wnids=WNIDS, extras=("logits",), inputs=None, sure_of=0):
    """PREDICTIONS of a split in which the network is sure of class `sure_of` for every image."""
    rows = records.split(split).rows
    identity = sha256_json({"manifest_sha256": records.manifest_sha256, "split": split})
    plan = {
        "inputs": {"count": rows, "sha256": inputs or identity},
        "classes": {"count": len(wnids)},
        "extras": list(extras),
    }
    plan_id = protocol.begin(root, "predictions", plan)
    logits = [6.0 * (index == sure_of) for index in range(len(wnids))]
    values = {"logits": [logits] * rows, "features": np.random.default_rng(rows).standard_normal((rows, 5)).tolist()}
    entries = [
        {"sample_id": k, "source": str(k), "status": "ok", "top1_index": sure_of, "top1_wnid": wnids[sure_of]}
        | {name: values[name][k] for name in extras}
        for k in range(rows)
    ]
    staged = protocol.staging(root) / f"part-00000.parquet{protocol.STAGED}"
    write_part(staged, [rows_table(entries, part_schema(extras))], plan)
    receipt = protocol.publish([staged], root, "_part-00000", plan_id, {})
    protocol.finish(root, "predictions", {"plan_id": plan_id, "provenance": plan, "parts": receipt["files"]})
    return root
