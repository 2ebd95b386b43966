"""Folds: every image in one of them, equal bytes in the same, and a text that says which."""

import hashlib

import numpy as np
import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.records.folds import (
    assign_folds,
    group_copies,
    is_copies_file,
    parse_fold,
    read_copies,
    write_copies,
)


@pytest.mark.parametrize(
    ("text", "fold"),
    [
        ("1/2", (1, 2)), ("5/5", (5, 5)), ("", None), ("0/5", None), ("6/5", None), ("1/1", None), ("1", None),
        ("1/2/3", None), ("-1/5", None), ("1 / 5", None), ("1/5\n", None), ("01/5", None),
    ],
)  # fmt: skip
def test_a_text_names_a_fold(text, fold):
    assert parse_fold(text) == fold


def test_folds_follow_from_the_bytes_alone():
    names = [hashlib.sha256(bytes([k % 250, k // 250])).hexdigest() for k in range(2000)]
    folds = assign_folds(names, 4)
    counts = np.bincount(folds, minlength=5)
    assert counts[0] == 0
    assert counts[1:].min() > 400, "about equal parts"
    assert (assign_folds(names[500:], 4) == folds[500:]).all(), "whatever else is stored"
    assert len(set(assign_folds([names[0]] * 9, 4).tolist())) == 1
    assert assign_folds(names[:6], 5).tolist() == [2, 5, 3, 3, 3, 2], "other values move the images of a begun audit"
    assert assign_folds([], 4).tolist() == []


def test_images_that_pairs_connect_are_one_group():
    assert group_copies([("d", "c"), ("a", "b"), ("c", "b"), ("x", "y"), ("e", "e")]) == {
        "b": "a", "c": "a", "d": "a", "y": "x",
    }  # fmt: skip
    assert group_copies([]) == {}


def test_copies_share_the_fold_of_one_of_them_and_nothing_else_moves(tmp_path):
    names = [hashlib.sha256(bytes([k])).hexdigest() for k in range(60)]
    copy_of = group_copies([(names[k], names[k + 1]) for k in range(0, 20, 2)])
    alone, together = assign_folds(names, 4), assign_folds(names, 4, copy_of)
    assert (together[0:20:2] == together[1:20:2]).all()
    assert (alone[0:20:2] != alone[1:20:2]).any()
    unmoved = [k for k, name in enumerate(names) if name not in copy_of]
    assert len(unmoved) == 50
    assert (alone[unmoved] == together[unmoved]).all()
    path = write_copies(tmp_path / "folds", copy_of)
    assert is_copies_file(str(path))
    assert read_copies(path) == copy_of
    assert write_copies(tmp_path / "folds", copy_of) == path


def test_a_file_of_copies_is_what_its_name_says(tmp_path):
    path = write_copies(tmp_path, {"b": "a"})
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(ArtefactError, match="other content than its name says"):
        read_copies(path)
    path.unlink()
    with pytest.raises(ArtefactError, match=r"data\.copies .*: No such file or directory; run the audit"):
        read_copies(path)
    assert not is_copies_file("copies.csv")
