"""Folds: every image in one of them, equal bytes in the same, and a text that says which."""

import hashlib

import numpy as np
import pytest

from convnext_imagenet.records.folds import assign_folds, parse_fold


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
