"""What the report counts, from a table that stands for index.parquet."""

import numpy as np
import pyarrow as pa
import pytest

from convnext_imagenet.records.report.numbers import (
    INDEX_COLUMNS,
    Copy,
    Duplicate,
    count,
    count_by_splits,
    find_duplicates,
    histogram,
    histogram_step,
)


def index_table(*rows: tuple) -> pa.Table:
    """A table with INDEX_COLUMNS; an image is (split, key, wnid, bytes, width, height, mode, sha256, warnings)."""
    return pa.table(dict(zip(INDEX_COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))


SOME = index_table(
    ("train", "a_1", "a", 100, 500, 375, "RGB", "x", 0),
    ("train", "a_2", "a", 300, 500, 375, "L", "x", 3),
    ("train", "b_1", "b", 200, 80, 40, "RGB", "y", 0),
    ("train", "b_2", "b", 200, 80, 40, "RGB", "z", 0),
    ("val", "v_1", "a", 900, 5000, 56, "CMYK", "y", 0),
)


def test_each_split_is_counted_alone():
    numbers = count(SOME, ["train", "val"])
    train, val = numbers.splits["train"], numbers.splits["val"]
    assert (train.images, train.bytes, train.modes, train.warned) == (4, 800, (("RGB", 3), ("L", 1)), 1)
    assert (val.images, val.bytes, val.modes) == (1, 900, (("CMYK", 1),))
    assert (train.histograms["width"].smallest, train.histograms["width"].largest) == (80, 500)
    assert train.histograms["bytes"].median == 200


def test_histograms_of_both_splits_share_their_bins():
    splits = count(SOME, ["train", "val"]).splits
    for column in ("width", "height", "bytes"):
        assert splits["train"].histograms[column].step == splits["val"].histograms[column].step


@pytest.mark.parametrize(
    ("largest", "expected"), [(0, 1), (1, 1), (40, 1), (41, 2), (100, 5), (500, 20), (5000, 200), (400_000, 10_000)]
)
def test_bins_are_round_and_hold_nearly_all_values(largest, expected):
    assert histogram_step(np.full(1000, largest)) == expected


def test_the_last_bin_holds_what_lies_above():
    found = histogram(np.array([0, 9, 10, 399, 400, 10**9]), 10)
    assert (found.counts[0], found.counts[1], found.counts[-1]) == (2, 1, 3)
    assert sum(found.counts) == 6


def test_no_image_gives_an_empty_histogram():
    empty = np.array([], np.int64)
    assert sum(histogram(empty, histogram_step(empty)).counts) == 0


def test_copies_across_splits_and_labels_come_first():
    across, within = find_duplicates(SOME)
    assert across == Duplicate((Copy("train", "b_1", "b"), Copy("val", "v_1", "a")))
    assert (across.splits, across.has_two_labels) == ("train + val", True)
    assert (within.splits, within.has_two_labels) == ("train", False)
    assert list(count_by_splits([across, within])) == [("train", 1, 0), ("train + val", 1, 1)]
