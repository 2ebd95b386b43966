"""The flip's draws: independent of the batch, and with the configured probability."""

import numpy as np
import pytest

from convnext_imagenet.train.augment.flip import flips


def test_flips_do_not_depend_on_the_batch() -> None:
    ids, half = np.arange(40), slice(13, 29)
    assert np.array_equal(flips(3, 1, ids, 0.5)[half], flips(3, 1, ids[half], 0.5))


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0.0), (1.0, 1.0), (0.3, 0.3)])
def test_flips_have_their_probability(probability: float, expected: float) -> None:
    drawn = flips(0, 1, np.arange(4000), probability)
    assert drawn.dtype == bool
    assert drawn.mean() == pytest.approx(expected, abs=0.03)
