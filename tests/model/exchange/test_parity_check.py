"""An export is published only when its answers are the network's."""

import numpy as np
import pytest

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.parity_check import check_parity, pixel_values, probe_pixels
from convnext_imagenet.model.transform import EvalTransform

LOGITS = np.array([[4.0, -8.0], [1.0, 2.0]], np.float32)


def test_the_difference_is_a_share_of_the_largest_logit():
    assert check_parity(LOGITS + np.float32(0.5), LOGITS, 0.1, "it") == 0.0625
    assert check_parity(0 * LOGITS, 0 * LOGITS, 1e-5, "it") == 0


@pytest.mark.parametrize(
    ("found", "expected", "message"),
    [
        (LOGITS + 1, LOGITS, r"the file differs from the network by 1.2e-01 .*more than 1e-04"),
        (LOGITS * np.nan, LOGITS, r"the file differs from the network by nan"),
        (LOGITS[:1], LOGITS, r"the file returns shape \(1, 2\) instead of \(2, 2\)"),
        (LOGITS, LOGITS * np.inf, r"the network returns NaN or infinity"),
    ],
)
def test_other_answers_are_refused(found, expected, message):
    with pytest.raises(ModelError, match=message):
        check_parity(found, expected, 1e-4, "the file")


def test_probes_are_pixels_of_the_transform_and_values_are_normalised_with_channels_first():
    transform = EvalTransform(size_px=40, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    pixels = probe_pixels(transform)
    assert (pixels.shape, pixels.dtype) == ((3, 40, 40, 3), np.uint8)
    assert pixels.tobytes() == probe_pixels(transform).tobytes()
    values = pixel_values(np.full((1, 2, 2, 3), 51, np.uint8), transform)
    assert values.dtype == np.float32
    assert values[0, :, 0, 0].tolist() == pytest.approx([0.2, -0.6, -3.2])
