"""The manifest: a round trip, and no contradiction is taken for a count."""

import copy
import json

import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.records.manifest import Manifest


@pytest.fixture
def value(records_root):
    return json.loads((records_root / "manifest.json").read_text())


def test_round_trip(value):
    assert json.loads(json.dumps(Manifest.from_json(value).to_json())) == value


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"verified": False, "devkit_sha256": None}, None),
        ({"verified": True}, "the devkit"),
        ({"verified": True, "devkit_sha256": "0", "kaggle_sha256": "1"}, "the devkit"),
        ({"verified": True, "devkit_sha256": None, "kaggle_sha256": "1"}, "the official val labels, without a devkit"),
    ],
)
def test_manifest_names_what_the_labels_were_checked_against(value, source, expected):
    assert Manifest.from_json({**value, "source": source}).verified_against == expected


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        (("splits", "train", "rows"), 8, "contradict"),
        (("splits", "train", "shards", 0, "rows"), 1, "contradict"),
        (("splits", "train", "rows_per_class"), [7], "contradict"),
        (("classes", 0, "index"), 1, "not numbered"),
        (("schema_version",), 99, "schema version 99"),
        (("classes", 0, "colour"), "red", "lacks a field or has an unknown one"),
        (("splits",), None, "lacks a field or has an unknown one"),
    ],
)
def test_contradictions_are_refused(value, path, new, message):
    changed = copy.deepcopy(value)
    target = changed
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = new
    with pytest.raises(ArtefactError, match=message):
        Manifest.from_json(changed)
