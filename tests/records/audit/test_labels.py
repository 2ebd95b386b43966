"""Confident learning on small examples that can be counted by hand, and on planted wrong labels."""

import numpy as np
import pytest

from convnext_imagenet.records.audit.labels import class_noise, class_thresholds, find_doubts

LABELS = np.array([0, 0, 0, 1, 1, 1])
PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.45, 0.55]], np.float32)


def _parts(rows=2):
    return lambda: ((np.arange(k, min(k + rows, 6)), PROBABILITIES[k : k + rows]) for k in range(0, 6, rows))


@pytest.mark.parametrize("rows", [1, 4, 6])
def test_a_row_that_reaches_another_threshold_is_doubtful(rows):
    np.testing.assert_allclose(class_thresholds(LABELS, _parts(rows), 2), [0.6, 2.05 / 3], rtol=1e-6)
    doubts = find_doubts(LABELS, _parts(rows), 2)
    assert (doubts.numbers.tolist(), doubts.suggested.tolist()) == ([2], [1])
    assert doubts.confidences[0] == pytest.approx(0.1)
    assert doubts.joint.tolist() == [[2, 1], [0, 2]], "the last row reaches no threshold"
    np.testing.assert_allclose(class_noise(doubts.joint), [1 / 3, 0])


def test_a_row_below_chance_is_doubtful_though_it_reaches_no_threshold():
    labels = np.array([0, 0, 1, 1, 2])
    probabilities = np.array([[0.9, 0.1, 0], [0.9, 0, 0.1], [0, 0.9, 0.1], [0, 0.9, 0.1], [0.45, 0.45, 0.1]])
    probabilities[4, 2] = 0.3
    for own, expected in ((0.3, [4]), (0.35, [])):
        probabilities[4, 2] = own
        doubts = find_doubts(np.append(labels, 2), lambda: [(np.arange(6), np.vstack([probabilities, [0, 0, 1]]))], 3)
        assert doubts.numbers.tolist() == expected


def test_planted_labels_come_first_with_their_true_class():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, 2000)
    labels = truth.copy()
    planted = rng.choice(2000, 100, replace=False)
    labels[planted] = (truth[planted] + rng.integers(1, 10, 100)) % 10
    logits = rng.normal(0, 1, (2000, 10)) + 9 * np.eye(10)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    doubts = find_doubts(labels, lambda: [(np.arange(2000), probabilities)], 10)
    first = set(doubts.numbers[:100].tolist())
    assert len(first & set(planted.tolist())) >= 95
    is_planted = np.isin(doubts.numbers, planted)
    assert (doubts.suggested[is_planted] == truth[doubts.numbers[is_planted]]).mean() > 0.95


def test_a_class_without_rows_doubts_nothing():
    doubts = find_doubts(np.array([0, 0]), lambda: [(np.arange(2), np.array([[0.9, 0.1], [0.55, 0.45]]))], 2)
    assert doubts.numbers.tolist() == []
