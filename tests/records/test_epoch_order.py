"""Order is a function of (seed, epoch) only; the golden values keep every later version to it."""

import hashlib

import numpy as np
import pytest

from convnext_imagenet.records.epoch_order import WINDOW_BLOCKS, balanced_order, epoch_order, occurrences
from convnext_imagenet.records.keyed_random import keyed_rng


def test_golden_order():
    """Regenerate only when a new order is wanted: print(epoch_order(8, seed=0, epoch=0).tolist(), ...)."""
    assert epoch_order(8, seed=0, epoch=0).tolist() == [4, 1, 2, 3, 5, 6, 7, 0]
    assert epoch_order(8, seed=0, epoch=1).tolist() == [4, 7, 3, 6, 1, 2, 5, 0]


def test_golden_block_order():
    """Two windows: 192 rows, then 8. Regenerate as above, and raise DRAWS_VERSION (train/augment/device.py)."""
    order = epoch_order(200, seed=0, epoch=1, block_rows=3)
    assert order[:8].tolist() == [185, 82, 23, 139, 58, 36, 12, 136]
    assert order[WINDOW_BLOCKS * 3 - 4 :].tolist() == [57, 9, 39, 176, 15, 47, 175, 16, 17, 45, 46, 174]
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest() == (
        "e4392b65b6d4815c8496ee33c06a015f462a21e2eea304586e18baf579171115"
    )


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_an_epoch_is_a_permutation(rows):
    assert sorted(epoch_order(rows, seed=3, epoch=5).tolist()) == list(range(rows))


def test_streams_differ_in_every_part_of_the_key():
    keys = [(0, 0, 0, "crop"), (1, 0, 0, "crop"), (0, 1, 0, "crop"), (0, 0, 1, "crop"), (0, 0, 0, "flip"), (0, "0", 0)]
    draws = {keyed_rng(*key).random() for key in keys}
    assert len(draws) == len(keys)
    assert keyed_rng(*keys[0]).random() == keyed_rng(*keys[0]).random()


def test_keys_do_not_run_into_each_other():
    assert keyed_rng(1, 23).random() != keyed_rng(12, 3).random()


def test_first_draws_are_uniform():
    draws = np.array([keyed_rng(0, 1, sample, "crop").random() for sample in range(2000)])
    assert abs(draws.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.08


@pytest.mark.parametrize(("rows", "block_rows"), [(10_000, 16), (1000, 7), (5, 100), (64, 1)])
def test_block_order_is_a_permutation_that_changes_with_seed_and_epoch(rows: int, block_rows: int) -> None:
    orders = [epoch_order(rows, seed, epoch, block_rows) for seed, epoch in ((0, 1), (0, 2), (1, 1), (0, 1))]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(rows))
    assert len({order.tobytes() for order in orders}) == 3


def test_block_order_reads_few_blocks_at_a_time_from_anywhere() -> None:
    blocks = epoch_order(100_000, 0, 1, block_rows=16) // 16
    window = WINDOW_BLOCKS * 16
    seen = [set(blocks[at : at + window]) for at in range(0, len(blocks), window)]
    assert {len(each) for each in seen[:-1]} == {WINDOW_BLOCKS}
    assert sum(map(len, seen)) == 6250  # each block is in one window only
    first = np.array(sorted(seen[0]))
    assert first.min() < 600
    assert first.max() > 5600
    assert np.mean(np.diff(blocks[:window]) == 0) < 0.05  # and rows do not come block by block


@pytest.mark.parametrize(
    ("counts", "power", "shares"),
    [
        ((80, 15, 5), 0.0, (80, 15, 5)),
        ((80, 15, 5), 1.0, (34, 33, 33)),
        ((64, 16, 4), 0.5, (48, 24, 12)),
        ((7,), 1.0, (7,)),
        ((1, 1_000), 1.0, (501, 500)),
    ],
)
def test_classes_are_drawn_as_evenly_as_asked(counts, power, shares):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    order = balanced_order(labels, seed=3, epoch=5, power=power)
    assert len(order) == len(labels)
    assert tuple(np.bincount(labels[order])) == shares
    for label, count in enumerate(counts):
        often = np.bincount(order, minlength=len(labels))[labels == label]
        assert often.sum() == shares[label]
        assert often.max() - often.min() <= 1, f"each of the {count} rows equally often, or once more"
    again = balanced_order(labels, seed=3, epoch=6, power=power)
    assert order.tolist() != again.tolist() or len(labels) == 1


def test_rows_that_come_again_are_counted():
    assert occurrences(np.array([4, 4, 1, 4, 0, 1])).tolist() == [0, 1, 0, 2, 0, 1]
    assert occurrences(np.arange(5)).tolist() == [0] * 5
