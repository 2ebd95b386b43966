"""Scores of one batch at the positions of their samples; ranks and probabilities that can be checked by eye."""

import dataclasses

import numpy as np
import pytest

from convnext_imagenet.serve.engine import network_engine
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.samples import Sample
from convnext_imagenet.serve.scoring import (
    best_classes,
    cross_entropies,
    probabilities,
    score_samples,
    true_label_ranks,
)

from .conftest import SIZE_PX, FakeNetwork, class_table

CLASSES = class_table(4)
NAN, INF = float("nan"), float("inf")


def _samples(*values):
    """Samples whose left half has one value and whose right half is black; None has no pixels."""
    samples = []
    for number, value in enumerate(values):
        pixels = None
        if value is not None:
            pixels = np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)
            pixels[:, : SIZE_PX // 2] = value
        samples.append(Sample(number, f"{number}.jpg", pixels=pixels))
    return samples


def _network(with_features=False):
    """Logits that tell the left half from the right one."""

    def logits(pixels_NHWC):
        left_N = pixels_NHWC[:, :, : SIZE_PX // 2].mean(axis=(1, 2, 3))
        right_N = pixels_NHWC[:, :, SIZE_PX // 2 :].mean(axis=(1, 2, 3))
        return np.stack([left_N, right_N, left_N / 2, 0 * left_N], axis=1).astype(np.float32) / 100

    return FakeNetwork(logits, [], with_features)


def test_answers_stand_in_the_places_of_their_samples():
    network = _network()
    answers = score_samples(network_engine(network), _samples(100, None, 200), CLASSES, 2, batch_size=5)
    assert answers[1] is None
    for answer, left in ((answers[0], 1.0), (answers[2], 2.0)):
        exponentials = np.exp([left, 0, left / 2, 0])
        assert [guess["class_index"] for guess in answer.guesses] == [0, 2]
        assert [guess["wnid"] for guess in answer.guesses] == ["n00000000", "n00000002"]
        expected = (exponentials / exponentials.sum())[[0, 2]]
        assert [guess["score"] for guess in answer.guesses] == pytest.approx(expected, rel=1e-6)
        assert (answer.features, answer.logits) == (None, None)
    assert network.seen == [(5, SIZE_PX, SIZE_PX, 3)]


def test_extras_are_the_networks_own_numbers_at_their_places():
    answers = score_samples(
        network_engine(_network(True)), _samples(None, 100, 200), CLASSES, 1, 3, extras=("features", "logits")
    )
    assert answers[0] is None
    for answer, left in ((answers[1], 100), (answers[2], 200)):
        assert answer.logits.tolist() == pytest.approx([left / 100, 0, left / 200, 0])
        assert answer.features.tolist() == pytest.approx([left / 2] * 3)
    (only,) = score_samples(network_engine(_network()), _samples(50), CLASSES, 1, 1, extras=("logits",))
    assert only.features is None
    assert only.logits.shape == (4,)


def test_a_loss_is_asked_for_and_needs_a_label():
    labelled = [dataclasses.replace(sample, label=1) for sample in _samples(100)]
    (with_label, without) = score_samples(
        network_engine(_network()), [*labelled, *_samples(100)], CLASSES, 1, 2, extras=("loss",)
    )
    assert with_label.loss == pytest.approx(np.log(np.exp([1, 0, 0.5, 0]).sum()), rel=1e-6)
    assert without.loss is None


@pytest.mark.parametrize(
    ("logits", "label", "loss"),
    [
        ([0.0, 0.0, 0.0, 0.0], 2, np.log(4)),
        ([1000.0, 0.0], 0, 0.0),
        ([1000.0, 0.0], 1, 1000.0),
        ([3.0, 1.0], 1, 2 + np.log1p(np.exp(-2))),
        ([0.0, -INF], 1, INF),
        ([INF, 0.0], 0, NAN),
        ([NAN, 0.0], 1, NAN),
    ],
)
def test_cross_entropies_by_hand(logits, label, loss):
    found = cross_entropies(np.array([logits], np.float32), np.array([label]))
    assert found.dtype == np.float64
    assert found.tolist() == pytest.approx([loss], rel=1e-15, nan_ok=True)


def test_a_rows_cross_entropy_has_the_same_bits_in_any_batch():
    rng = np.random.default_rng(0)
    for classes in (3, 7, 1000):
        logits_NK, labels_N = rng.normal(0, 4, (37, classes)).astype(np.float32), rng.integers(0, classes, 37)
        together = cross_entropies(logits_NK, labels_N)
        alone = [cross_entropies(logits_NK[row : row + 1], labels_N[row : row + 1])[0] for row in range(37)]
        some = cross_entropies(np.asfortranarray(logits_NK[5:23]), labels_N[5:23])
        assert together.tolist() == alone
        assert together[5:23].tolist() == some.tolist()


def test_a_flip_averages_logits_and_features_over_the_mirror_image():
    network = _network(True)
    plain, _ = score_samples(network_engine(network), _samples(100, None), CLASSES, 4, 2, extras=("features", "logits"))
    flipped, none = score_samples(
        network_engine(network), _samples(100, None), CLASSES, 4, 2, True, ("features", "logits")
    )
    assert none is None
    assert plain.logits.tolist() == pytest.approx([1, 0, 0.5, 0])
    assert flipped.logits.tolist() == pytest.approx([0.5, 0.5, 0.25, 0])
    assert flipped.features.tolist() == plain.features.tolist(), "a mean over the picture does not tell left from right"
    assert [guess["class_index"] for guess in flipped.guesses] == [0, 1, 2, 3]
    exponentials = np.exp([0.5, 0.5, 0.25, 0])
    assert [guess["score"] for guess in flipped.guesses] == pytest.approx(exponentials / exponentials.sum(), rel=1e-6)
    assert len(network.seen) == 3


def test_a_batch_without_pictures_never_reaches_the_network():
    network = _network()
    assert score_samples(network_engine(network), _samples(None, None), CLASSES, 2, 4) == [None, None]
    assert network.seen == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("flip", [False, True])
def test_an_answer_that_is_no_number_names_its_input(bad, flip):
    def logits(pixels_NHWC):
        means_N = pixels_NHWC.mean(axis=(1, 2, 3))
        logits_NK = np.zeros((len(pixels_NHWC), 4), np.float32)
        logits_NK[means_N == 75, 3] = bad  # the picture of value 150
        logits_NK[means_N == 0] = bad  # black: padding and unreadable pictures, which nobody reads
        return logits_NK

    network = FakeNetwork(logits, [])
    assert (
        score_samples(network_engine(network), _samples(100, None), CLASSES, 1, 4, flip)[0].guesses[0]["class_index"]
        == 0
    )
    with pytest.raises(ServeError, match=r"^2\.jpg: the network returns NaN or infinity"):
        score_samples(network_engine(network), _samples(None, 100, 150), CLASSES, 1, 4, flip)


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
