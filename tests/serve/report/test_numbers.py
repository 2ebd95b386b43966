"""Counts by hand: classes, pairs, bins; nothing that is empty, equal or never named breaks them."""

import numpy as np
import pytest

from convnext_imagenet.serve.report.numbers import (
    Bin,
    ClassNumbers,
    Confusion,
    ScoredRows,
    calibration_error,
    count_bins,
    count_classes,
    count_confusions,
    worst_first,
    worst_mistakes,
)


def scored(labels, guesses, confidences):
    return ScoredRows(
        labels=np.array(labels, np.int32),
        guesses=np.array(guesses, np.int32),
        confidences=np.array(confidences, np.float32),
        keys=tuple(f"key {place}" for place in range(len(labels))),
        losses=np.zeros(len(labels)),
    )


# Five classes: 3 has no images, 4 has some and is never named.
SOME = scored(
    labels=[0, 0, 0, 1, 1, 2, 4, 4],
    guesses=[[0, 1], [1, 0], [2, 1], [1, 2], [0, 2], [2, 0], [1, 4], [1, 0]],
    confidences=[0.5, 0.75, 0.25, 1.0, 0.5, 0.75, 0.5, 0.25],
)


def test_each_class_by_hand():
    assert count_classes(SOME, 5) == (
        ClassNumbers(0, rows=3, top1_correct=1, top5_correct=2, named=2, confidence_sum=1.5),
        ClassNumbers(1, rows=2, top1_correct=1, top5_correct=1, named=4, confidence_sum=1.5),
        ClassNumbers(2, rows=1, top1_correct=1, top5_correct=1, named=2, confidence_sum=0.75),
        ClassNumbers(3, rows=0, top1_correct=0, top5_correct=0, named=0, confidence_sum=0.0),
        ClassNumbers(4, rows=2, top1_correct=0, top5_correct=1, named=0, confidence_sum=0.75),
    )


def test_fractions_of_a_class_and_of_nothing():
    first, *_, empty, unnamed = count_classes(SOME, 5)
    assert (first.top1, first.top5, first.precision, first.mean_confidence) == (1 / 3, 2 / 3, 1 / 2, 0.5)
    assert (empty.top1, empty.top5, empty.precision, empty.mean_confidence) == (None, None, None, None)
    assert (unnamed.top1, unnamed.precision) == (0.0, None)


def test_only_the_first_five_guesses_are_a_top5():
    seven = scored([5, 4, 0], [[0, 1, 2, 3, 4, 5, 6]] * 3, [0.5] * 3)
    assert seven.is_top5.tolist() == [False, True, True]
    assert seven.is_top1.tolist() == [False, False, True]


def test_the_worst_class_comes_first_and_one_without_images_never():
    assert [each.index for each in worst_first(count_classes(SOME, 5))] == [4, 0, 1, 2]


def test_of_equally_bad_classes_the_one_with_more_mistakes_comes_first_then_the_lower_index():
    classes = tuple(ClassNumbers(index, rows, rows // 2, 0, 0, 0.0) for index, rows in enumerate([2, 4, 4, 2]))
    assert [each.index for each in worst_first(classes)] == [1, 2, 0, 3]


def test_pairs_are_counted_without_the_right_answers_and_ties_go_by_index():
    assert count_confusions(SOME, 5) == (
        Confusion(true=4, named=1, count=2),
        Confusion(true=0, named=1, count=1),
        Confusion(true=0, named=2, count=1),
        Confusion(true=1, named=0, count=1),
    )


def test_pairs_of_many_classes_do_not_run_into_each_other():
    """1000 * 60000 + 999 is beyond what int32 labels could hold if they were squared."""
    many = scored([59_999, 0], [[999], [59_999]], [0.5, 0.5])
    assert count_confusions(many, 60_000) == (Confusion(0, 59_999, 1), Confusion(59_999, 999, 1))


def test_no_mistakes_no_pairs():
    assert count_confusions(scored([0, 1], [[0], [1]], [0.5, 0.5]), 2) == ()


def test_the_calibration_error_by_hand():
    """Two bins up to 0.5 and to 1: (|1 - 0.75| + |2 - 2.5|) / 5 = 0.15."""
    five = scored([0, 1, 0, 0, 0], [[0], [0], [0], [0], [1]], [0.5, 0.25, 1.0, 0.75, 0.75])
    bins = count_bins(five, bins=2)
    assert bins == (Bin(0.0, 0.5, 2, 1, 0.75), Bin(0.5, 1.0, 3, 2, 2.5))
    assert calibration_error(bins) == pytest.approx(0.15, rel=1e-12)
    assert (bins[0].accuracy, bins[0].mean_confidence) == (0.5, 0.375)


@pytest.mark.parametrize(
    ("confidence", "place"),
    [(0.0, 0), (1e-30, 0), (0.0666, 0), (0.0667, 1), (0.5, 7), (0.99, 14), (1.0, 14), (np.nextafter(1, 2), 14)],
)
def test_a_probability_has_its_place_in_fifteen_bins(confidence, place):
    bins = count_bins(scored([0], [[0]], [confidence]))
    assert len(bins) == 15
    assert [each.rows for each in bins].index(1) == place
    assert sum(each.rows for each in bins) == 1


def test_a_bin_is_closed_above_and_open_below():
    bins = count_bins(scored([0, 0], [[0], [0]], [0.25, np.nextafter(np.float32(0.25), np.float32(1))]), bins=4)
    assert [each.rows for each in bins] == [1, 1, 0, 0]


def test_empty_bins_have_no_fractions_and_add_nothing():
    bins = count_bins(scored([0], [[0]], [1.0]))
    assert (bins[3].accuracy, bins[3].mean_confidence) == (None, None)
    assert calibration_error(bins) == 0.0


def test_a_network_that_is_sure_and_always_wrong_has_the_worst_error():
    assert calibration_error(count_bins(scored([1, 1], [[0], [0]], [1.0, 1.0]))) == 1.0


def test_the_surest_mistakes_come_first_and_right_answers_never():
    assert worst_mistakes(SOME, 0, most=5) == [1, 2]
    assert worst_mistakes(SOME, 0, most=1) == [1]
    assert worst_mistakes(SOME, 2, most=5) == []
    equal = scored([0, 0, 0], [[1], [2], [1]], [0.5, 0.5, 0.75])
    assert worst_mistakes(equal, 0, most=5) == [2, 0, 1]
