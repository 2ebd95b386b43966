"""Threads keep the order and the bound; padding keeps the shape and the places."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from convnext_imagenet.serve.overlap import batches, map_ahead, padded_logits


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(workers):
    def slower_for_even(number):
        time.sleep(0.004 * (number % 2 == 0))
        return number * number

    assert list(map_ahead(slower_for_even, range(20), workers, ahead=7)) == [number**2 for number in range(20)]


def test_no_more_than_the_stated_number_is_made_in_advance():
    taken = []
    results = map_ahead(lambda number: number, (taken.append(number) or number for number in range(100)), 2, ahead=5)
    for consumed in range(1, 11):
        next(results)
        assert len(taken) <= consumed + 5
    results.close()
    assert len(taken) <= 15


def test_an_exception_comes_at_its_place_and_ends_the_threads():
    def fail_at_three(number):
        if number == 3:
            raise LookupError(number)
        return number

    results = map_ahead(fail_at_three, range(10), 2, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LookupError):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


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
