"""The step's gradients and sums, with a network small enough to write down in NumPy."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.train.augment.device import DeviceAugment, DeviceDraws, drawn_names, drawn_tensors
from convnext_imagenet.train.augment.mix import SoftTargets
from convnext_imagenet.train.config.sections import AugmentSection
from convnext_imagenet.train.step.step import Gradients

ROWS, SIZE_PX, CLASSES, SMOOTHING = 4, 4, 3, 0.1
TRANSFORM = EvalTransform(32)
LABELS = np.array([2, 0, 1, 1], np.int32)


class MeanColour(nn.Cell):
    """Logits of an image: its mean colour times `w`, times what drop path keeps."""

    def __init__(self, w: np.ndarray) -> None:
        super().__init__()
        self.w = Parameter(Tensor(w), name="w")

    def construct(self, x_NHWC: Tensor, keep_NB: Tensor | None) -> Tensor:
        logits_NK = ops.matmul(ops.mean(x_NHWC, (1, 2)), self.w)
        return logits_NK if keep_NB is None else logits_NK * keep_NB


def _draws() -> DeviceDraws:
    """Every field is another number, so that no two can be taken for each other."""
    return DeviceDraws(
        flip=np.array([True, False, False, True]),
        mix_boxes=np.array([[0, 0, 2, 3], [0, 0, 0, 0], [1, 0, 3, 4], [0, 0, 0, 0]], np.int32),
        mix_blend=np.array([0.1, 0.4, 0.0, 0.7], np.float32),
        mix_lam=np.array([0.8, 0.25, 0.6, 0.35], np.float32),
        keep=np.array([[0.0], [1.5], [1.25], [2.0]], np.float32),
    )


def _by_numpy(pixels: np.ndarray, w: np.ndarray, draws: DeviceDraws) -> tuple[float, int, np.ndarray]:
    """Loss, rows right and the gradient of `w`."""
    x = np.where(draws.flip[:, None, None, None], pixels[:, :, ::-1], pixels) / 255.0
    x = (x - TRANSFORM.mean) / TRANSFORM.std
    weight = np.broadcast_to(draws.mix_blend[:, None, None, None], x.shape).copy()
    for n, (top, left, bottom, right) in enumerate(draws.mix_boxes):
        weight[n, top:bottom, left:right] = 1.0
    colours = (x * (1 - weight) + x[::-1] * weight).mean((1, 2))
    logits = (colours @ w) * draws.keep
    own = np.eye(CLASSES)[LABELS] * (1 - SMOOTHING) + SMOOTHING / CLASSES
    lam = draws.mix_lam[:, None]
    targets = lam * own + (1 - lam) * own[::-1]
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = -(targets * np.log(share)).sum(1).mean()
    gradient = colours.T @ ((share * targets.sum(1, keepdims=True) - targets) * draws.keep) / ROWS
    return float(loss), int((logits.argmax(1) == LABELS).sum()), gradient


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_loss_count_and_gradients_are_numpys(scale: float) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (ROWS, SIZE_PX, SIZE_PX, 3), np.uint8)
    w = rng.standard_normal((3, CLASSES), np.float32)
    network = MeanColour(w)
    augment = DeviceAugment(AugmentSection(erase_prob=0.0), TRANSFORM, seed=0)
    draws = _draws()
    cell = Gradients(network, {"w": network.w}, augment, SoftTargets(CLASSES, SMOOTHING), drawn_names(draws))
    inputs = Tensor(scale, ms.float32), Tensor(pixels), Tensor(LABELS)
    loss, correct, (gradient,) = cell(*inputs, *drawn_tensors(draws))
    expected = _by_numpy(pixels, w.astype(np.float64), _draws())
    assert float(loss.asnumpy()) == pytest.approx(expected[0], rel=1e-5)
    assert int(correct.asnumpy()) == expected[1]
    np.testing.assert_allclose(gradient.asnumpy() / scale, expected[2], rtol=1e-4, atol=1e-6)
