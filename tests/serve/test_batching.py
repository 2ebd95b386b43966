"""Padding keeps the shape of a batch and the positions of its pictures."""

from types import SimpleNamespace

import numpy as np
import pytest

from convnext_imagenet.serve.batching import batches, network_outputs, padded_logits
from convnext_imagenet.serve.engine import network_engine


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (4, [4]), (9, [4, 4, 1])])
def test_batches(count, sizes):
    assert [len(batch) for batch in batches(range(count), 4)] == sizes


def test_a_short_batch_is_padded_with_black_and_cut_again():
    shapes = []

    def network(pixels_NHWC):
        shapes.append(pixels_NHWC.shape)
        return SimpleNamespace(asnumpy=lambda: pixels_NHWC.asnumpy().sum(axis=(1, 2, 3), keepdims=True)[:, 0, 0])

    white = np.full((2, 2, 3), 255, np.uint8)
    sums_NK = padded_logits(network, [white, None, white // 5], batch_size=8)
    assert shapes == [(8, 2, 2, 3)]
    assert sums_NK.ravel().tolist() == [12 * 255, 0, 12 * 51]


def test_a_network_may_give_several_outputs_each_cut_to_the_pictures():
    def network(pixels_NHWC):
        sums_N = pixels_NHWC.asnumpy().sum(axis=(1, 2, 3))
        return tuple(SimpleNamespace(asnumpy=lambda factor=factor: factor * sums_N) for factor in (1, 2))

    one = np.ones((2, 2, 3), np.uint8)
    first, second = network_outputs(network_engine(network), [one, None, one], batch_size=4)
    assert first.tolist() == [12, 0, 12]
    assert second.tolist() == [24, 0, 24]
    assert padded_logits(network, [one], batch_size=2).tolist() == [12]
