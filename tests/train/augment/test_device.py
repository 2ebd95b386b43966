"""The device cells against NumPy, on random input."""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.train.augment.device import (
    DeviceAugment,
    DeviceDraws,
    device_draws,
    drop_path_keep,
    graph_draws,
)
from convnext_imagenet.train.augment.erase import NOISE_VALUES, noise_bank
from convnext_imagenet.train.augment.mix import SoftTargets
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.sections import AugmentSection, DataSection, MixSection
from convnext_imagenet.train.step.class_weights import class_weights

SIZE_PX, ROWS = 32, 8
TRANSFORM = EvalTransform(SIZE_PX)
IDS = np.arange(100, 100 + ROWS)


def _config(augment: AugmentSection, mix: MixSection) -> Config:
    augment = dataclasses.replace(augment, auto_augment="")
    return Config(augment=augment, mix=mix, data=DataSection(size_px=SIZE_PX, global_batch_size=ROWS))


def oracle(pixels: np.ndarray, draws: DeviceDraws, mode: str, seed: int) -> np.ndarray:
    """What the cells should give, one image after the other, in float64."""
    out = np.empty(pixels.shape)
    for n, image in enumerate(pixels):
        mirrored = image[:, ::-1] if draws.flip is not None and draws.flip[n] else image
        out[n] = (mirrored / 255.0 - TRANSFORM.mean) / TRANSFORM.std
        for k, (top, left, bottom, right) in enumerate([] if draws.erase_boxes is None else draws.erase_boxes[n]):
            out[n, top:bottom, left:right] = _fill(draws, mode, seed, n, k, image.shape)[top:bottom, left:right]
    if draws.mix_boxes is None:
        return out
    mixed = np.empty_like(out)
    for n, (top, left, bottom, right) in enumerate(draws.mix_boxes):
        partner = out[-1 - n]
        mixed[n] = out[n] * (1.0 - draws.mix_blend[n]) + partner * draws.mix_blend[n]
        mixed[n, top:bottom, left:right] = partner[top:bottom, left:right]
    return mixed


def _fill(draws: DeviceDraws, mode: str, seed: int, n: int, k: int, shape: tuple[int, ...]) -> np.ndarray:
    if mode == "const":
        return np.zeros(shape)
    if mode == "rand":
        return np.broadcast_to(draws.erase_fill[n, k], shape)
    places = (draws.erase_fill[n] + np.arange(np.prod(shape))) % NOISE_VALUES
    return noise_bank(seed)[places].reshape(shape)


@pytest.mark.parametrize(
    ("augment", "mix"),
    [
        (AugmentSection(flip_prob=0.0, erase_prob=0.0), MixSection(prob=0.0)),
        (AugmentSection(erase_prob=0.0), MixSection(prob=0.0)),
        (AugmentSection(erase_prob=1.0, erase_mode="const"), MixSection(prob=0.0)),
        (AugmentSection(erase_prob=0.7, erase_mode="rand", erase_count=3), MixSection(mode="elem")),
        (AugmentSection(erase_prob=0.7, erase_mode="pixel", erase_count=2), MixSection(mode="pair")),
        (AugmentSection(), MixSection(cutmix_alpha=0.0)),
        (AugmentSection(), MixSection(mixup_alpha=0.0)),
        (AugmentSection(), MixSection(mixup_alpha=0.0, cutmix_minmax=(0.2, 0.8), mode="elem")),
    ],
    ids=["nothing", "flip", "const", "rand+elem", "pixel+pair", "mixup", "cutmix", "minmax"],
)
def test_the_graph_equals_numpy(augment: AugmentSection, mix: MixSection) -> None:
    config = _config(augment, mix)
    cell = DeviceAugment(config.augment, TRANSFORM, seed=0)
    rng = np.random.default_rng(0)
    for step in range(3):
        pixels = rng.integers(0, 256, (ROWS, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
        draws = device_draws(config, 1 + step, step, IDS, ())
        result = cell(Tensor(pixels), graph_draws(draws))
        assert result.dtype == ms.float32
        expected = oracle(pixels, draws, config.augment.erase_mode, 0)
        np.testing.assert_allclose(result.asnumpy(), expected, rtol=0, atol=5e-6)


def _one_hot(labels: np.ndarray, classes: int, smoothing: float) -> np.ndarray:
    targets = np.full((len(labels), classes), smoothing / classes)
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("lam", [None, (1.0, 0.25, 0.6, 0.0)])
def test_targets_are_smoothed_and_mixed_as_in_timm(smoothing: float, lam: tuple[float, ...] | None) -> None:
    labels = np.array([3, 0, 4, 3], np.int32)
    given = None if lam is None else Tensor(np.array(lam, np.float32))
    result = SoftTargets(5, smoothing)(Tensor(labels), given).asnumpy()
    own, partner = _one_hot(labels, 5, smoothing), _one_hot(labels[::-1], 5, smoothing)
    share = np.ones((4, 1)) if lam is None else np.array(lam)[:, None]
    np.testing.assert_allclose(result, share * own + (1 - share) * partner, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(result.sum(1), 1, rtol=1e-6)


def test_class_weights_multiply_the_targets_and_are_one_on_average() -> None:
    weights = class_weights([90, 9, 1, 0], power=1.0)
    np.testing.assert_allclose(weights, np.array([1 / 90, 1 / 9, 1, 1]) * 101 / 4, rtol=1e-6)  # no row counts as one
    assert class_weights([90, 9, 1], power=0.0).tolist() == [1, 1, 1]
    labels, lam = np.array([0, 1, 2, 2], np.int32), np.array([0.25, 1.0, 0.5, 0.5], np.float32)
    plain, weighted = SoftTargets(4, 0.1), SoftTargets(4, 0.1, weights)
    expected = plain(Tensor(labels), Tensor(lam)).asnumpy() * weights
    np.testing.assert_allclose(weighted(Tensor(labels), Tensor(lam)).asnumpy(), expected, rtol=1e-6)


def test_keeps_do_not_depend_on_the_batch() -> None:
    ids, rates, half = np.arange(40), (0.0, 0.25, 0.5), slice(13, 29)
    assert np.array_equal(drop_path_keep(3, 1, ids, rates)[half], drop_path_keep(3, 1, ids[half], rates))


def test_keep_is_zero_or_the_inverse_of_its_probability_and_one_on_average() -> None:
    keep_NB = drop_path_keep(0, 1, np.arange(4000), (0.0, 0.2, 0.5))
    assert keep_NB.dtype == np.float32
    assert [sorted(set(column.tolist())) for column in keep_NB.T] == [[1.0], [0.0, 1.25], [0.0, 2.0]]
    assert keep_NB.mean(0) == pytest.approx([1, 1, 1], abs=0.05)
