"""The compiled step: loss, gradients, drop path, determinism; and the network that the configuration means."""

import dataclasses

import numpy as np
import pytest
from mindspore import Tensor

from convnext_imagenet.model.weights import ModelCard
from convnext_imagenet.train.config import Config, ModelSection
from convnext_imagenet.train.config_source import load_config
from convnext_imagenet.train.draws import drop_path_keep
from convnext_imagenet.train.errors import ConfigError, TrainError
from convnext_imagenet.train.learner import Learner, evaluation_transform, network_config
from convnext_imagenet.train.pipeline import Batch

MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
CLASSES = 3


@pytest.fixture(scope="module")
def learner(config: Config) -> Learner:
    """One for all tests of this file, since compiling its step takes seconds."""
    classes = tuple((f"n0000000{i}", f"name {i}") for i in range(CLASSES))
    return Learner(config, ModelCard(network_config(config.model, CLASSES), classes, evaluation_transform(config.data)))


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    labels = (np.arange(8) % CLASSES).astype(np.int32)
    pixels = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    return Batch(pixels, labels, np.arange(8), rng.random(8) < 0.5)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    true = log_probability[np.arange(len(labels)), labels]
    return float(np.mean(-(1 - smoothing) * true - smoothing * log_probability.mean(1)))


def _loss_by_numpy(learner: Learner, batch: Batch, epoch: int) -> tuple[float, int]:
    mirrored = np.where(batch.flip[:, None, None, None], batch.pixels[:, :, ::-1], batch.pixels)
    x = ((mirrored / 255.0 - MEAN) / STD).astype(np.float32)
    keep = drop_path_keep(learner.config.train.seed, epoch, batch.sample_ids, learner.rates)
    logits = learner.network(Tensor(x), Tensor(keep)).asnumpy().astype(np.float64)
    loss = _cross_entropy(logits, batch.labels, learner.config.augment.label_smoothing)
    return loss, int((logits.argmax(1) == batch.labels).sum())


@pytest.mark.slow
def test_the_step_has_the_loss_that_numpy_finds_and_learns(learner: Learner, batch: Batch) -> None:
    for epoch in (1, 2):  # the draws of drop path differ
        expected, right = _loss_by_numpy(learner, batch, epoch)
        loss, correct = learner.learn(batch, epoch, rate=0.0)
        assert float(loss.asnumpy()) == pytest.approx(expected, rel=1e-5)
        assert int(correct.asnumpy()) == right
    losses = [float(learner.learn(batch, 1, rate=3e-3)[0].asnumpy()) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_restored_learner_repeats_its_steps_bit_by_bit(learner: Learner, batch: Batch) -> None:
    saved = learner.weights(), learner.state()
    ends = []
    for _ in range(2):
        learner.restore(*saved)
        for epoch in (1, 2):
            learner.learn(batch, epoch, rate=1e-3)
        ends.append({**learner.weights(), **learner.state()})
    assert int(ends[0]["optimizer.step"]) == int(saved[1]["optimizer.step"]) + 2
    for name, value in ends[0].items():
        np.testing.assert_array_equal(value, ends[1][name], err_msg=name)
    assert all(np.any(value != ends[0][name]) for name, value in saved[1].items())


def test_a_state_that_does_not_fit_is_refused(learner: Learner) -> None:
    state = learner.state()
    for damaged in (
        {name: value for name, value in state.items() if "dwconv" not in name},
        {**state, "optimizer.step": np.zeros(2, np.int32)},
    ):
        with pytest.raises(TrainError, match="does not fit this network"):
            learner.restore(learner.weights(), damaged)


def test_no_value_compiles_the_step_again(learner: Learner, batch: Batch) -> None:
    learner.learn(batch, 1, rate=1e-3)
    compiled = set(learner.step.compile_cache)
    learner.learn(batch, 7, rate=2e-3)
    assert set(learner.step.compile_cache) == compiled


def test_the_network_is_the_variant_with_the_sections_values() -> None:
    network = network_config(ModelSection(variant="convnext_small", drop_path_rate=0.25, head_init_scale=0.5), 10)
    assert (network.depths, network.num_classes) == ((3, 3, 27, 3), 10)
    assert (network.drop_path_rate, network.head_init_scale) == (0.25, 0.5)
    narrow = network_config(ModelSection(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=10), 10)
    assert (narrow.depths, narrow.dims) == ((1, 1, 1, 1), (8, 8, 8, 8))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (ModelSection(variant="convnext_tny"), "unknown variant convnext_tny; did you mean convnext_tiny?"),
        (ModelSection(num_classes=1000), "model.num_classes = 1000: the records hold 10 classes"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(section: ModelSection, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        network_config(section, 10)
    assert words in str(refused.value)


def test_the_evaluation_transform_is_the_configurations() -> None:
    config = load_config("paper-tiny", ["data.eval_size_px=384", "data.eval_mode=squash"])
    transform = evaluation_transform(config.data)
    assert (transform.size_px, transform.mode, transform.crop_pct) == (384, "squash", 0.875)
    assert dataclasses.astuple(transform)[-2:] == (tuple(MEAN), tuple(STD))
