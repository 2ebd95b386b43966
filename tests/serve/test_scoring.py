"""Answers of one batch: in the places of their samples, averaged over mirror images, and never NaN."""

import numpy as np
import pytest

from convnext_imagenet.serve.engine import network_engine
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.samples import Sample
from convnext_imagenet.serve.scoring import score_samples

from .conftest import SIZE_PX, FakeNetwork, class_table

CLASSES = class_table(4)


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
    with pytest.raises(ServeError, match=r"^2\.jpg: the network answers with NaN or infinity"):
        score_samples(network_engine(network), _samples(None, 100, 150), CLASSES, 1, 4, flip)
