"""Ranks, orders and probabilities on tables small enough to check by eye."""

import numpy as np
import pytest

from convnext_imagenet.serve.scoring import best_classes, probabilities, true_label_ranks

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("logits", "label", "rank"),
    [
        ([3, 2, 1], 0, 0),
        ([3, 2, 1], 2, 2),
        ([1, 1, 1], 0, 0),  # equal logits: the lower index comes first
        ([1, 1, 1], 1, 1),
        ([1, 1, 1], 2, 2),
        ([2, 1, 2], 2, 1),
        ([1, 2, 2], 1, 0),
        ([INF, 0, INF], 0, 0),
        ([INF, 0, INF], 2, 1),
        ([-INF, -INF, 0], 1, 2),
        ([NAN, 0, 1], 2, 3),  # a NaN anywhere: never correct, not even within the last place
        ([NAN, 0, 1], 0, 3),
        ([NAN, NAN, NAN], 1, 3),
    ],
)
def test_rank_of_the_true_label(logits, label, rank):
    assert true_label_ranks(np.array([logits], np.float32), np.array([label])).tolist() == [rank]


def test_rank_is_the_place_in_the_order_of_best_classes():
    rng = np.random.default_rng(0)
    logits_NK = rng.integers(0, 4, (200, 9)).astype(np.float32)  # many ties
    labels_N = rng.integers(0, 9, 200)
    order_NK = best_classes(logits_NK, 9)
    places_N = (order_NK == labels_N[:, None]).argmax(axis=1)
    assert true_label_ranks(logits_NK, labels_N).tolist() == places_N.tolist()


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_the_network_does_not_know_are_refused(label):
    with pytest.raises(ValueError, match=r"0\.\.2"):
        true_label_ranks(np.zeros((1, 3), np.float32), np.array([label]))


def test_best_classes_are_cut_at_k():
    assert best_classes(np.array([[0, 5, 5, 9]], np.float32), 3).tolist() == [[3, 1, 2]]


def test_probabilities_sum_to_one_and_do_not_overflow():
    scores_NK = probabilities(np.array([[1000, 1000, -1000], [0, np.log(3), -INF]], np.float32))
    assert scores_NK.dtype == np.float32
    np.testing.assert_allclose(scores_NK, [[0.5, 0.5, 0], [0.25, 0.75, 0]], atol=1e-7)
