"""Verification reads everything again: rows that contradict themselves are named."""

import dataclasses

import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.verify import refuse_problems, row_problems, verify_records

from .conftest import WNIDS, build_records, jpeg, make_rows

CLASSES = tuple(ClassEntry(index, wnid, "") for index, wnid in enumerate(WNIDS))


def test_a_whole_directory_has_no_problems(records_root):
    seen = []
    result = verify_records(records_root, on_progress=seen.append)
    assert (result.rows, result.problems, sum(seen)) == (7, (), 7)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"label": 1}, "label 1 is n00000002"),
        ({"label": 2}, "outside 0..1"),
        ({"height": 13}, "20 x 12 px, the row says 20 x 13"),
        ({"image": jpeg(0)[:-9]}, "truncated"),
    ],
)
def test_rows_are_checked_against_themselves(change, problem):
    problems = row_problems(dataclasses.replace(make_rows(1)[0], **change), CLASSES, verified=True)
    assert len(problems) == (problem is not None)
    assert problem is None or problem in problems[0]


def test_labels_of_unverified_sets_are_not_read_from_names():
    row = dataclasses.replace(make_rows(1)[0], label=1)
    assert row_problems(row, CLASSES, verified=False) == []


def test_a_wrong_label_inside_an_intact_shard_is_found(tmp_path):
    rows = make_rows(6)
    swapped = [dataclasses.replace(rows[0], label=1), dataclasses.replace(rows[1], label=0), *rows[2:]]
    root = build_records(tmp_path / "records", swapped)
    with pytest.raises(
        ArtefactError, match=r"2 problems.*row 0, n00000001_0: label 1 is n00000002.*into another directory"
    ):
        refuse_problems(root, verify_records(root))


def test_equal_sample_ids_are_found(tmp_path):
    rows = [dataclasses.replace(row, sample_id=0) for row in make_rows(4)]
    assert "1 different sample ids for 4 rows" in verify_records(build_records(tmp_path / "r", rows)).problems[0]


def test_changed_files_are_found(records_root):
    verify_records(records_root)
    path = next((records_root / "train").glob("*.db"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    found = verify_records(records_root)
    assert len(found.problems) == 1
    with pytest.raises(ArtefactError, match="--repair"):
        refuse_problems(records_root, found)


def test_missing_receipts_are_refused(records_root):
    next((records_root / "train").glob("*.json")).unlink()
    with pytest.raises(ArtefactError, match=r"00000-of-00002\.json: the receipt is missing"):
        verify_records(records_root)
