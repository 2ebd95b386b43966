"""Frozen stages, which a step leaves as they are; layer-wise rates against the groups of Facebook's own code."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import VARIANTS, drop_path_rates, init_parameters, parameter_shapes
from convnext_imagenet.train.augment.device import device_draws
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.sections import EmaSection, OptimizerSection, PrecisionSection
from convnext_imagenet.train.data.pipeline import Batch
from convnext_imagenet.train.step.learner import Learner, read_outcome
from convnext_imagenet.train.step.parameters import (
    evaluation_transform,
    layer_factors,
    network_config,
    trained_drop_path_rates,
    without_frozen,
)

CLASSES, ROWS, RATE, STAGES = 3, 8, 0.25, 2
SHAPES = parameter_shapes(VARIANTS["convnext_tiny"])


def _learner(config: Config, stages: int, **changes: object) -> Learner:
    model = dataclasses.replace(config.model, frozen_stages=stages)
    plain: dict[str, object] = {
        "model": model,
        "optimizer": OptimizerSection(name="sgd", momentum=0.0, weight_decay=0.0),
    }
    config = dataclasses.replace(config, **{**plain, **changes})
    network = network_config(config.model, CLASSES)
    card = ModelCard(network, tuple((f"n{i}", "") for i in range(CLASSES)), evaluation_transform(config.data))
    return Learner(config, card, init_parameters(network, seed=1))


def _batch(learner: Learner, rates: tuple[float, ...]) -> Batch:
    ids = np.arange(ROWS)
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS, 32, 32, 3), dtype=np.uint8)
    return Batch(pixels, (ids % CLASSES).astype(np.int32), ids, device_draws(learner.config, 1, 0, ids, rates))


def _norm(arrays: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(array.astype(np.float64)).sum() for array in arrays.values())))


def _moves(learner: Learner, before: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value - before[name] for name, value in learner.weights().items()}


@pytest.mark.parametrize(
    ("stages", "left", "first"),
    [
        (0, len(SHAPES), "downsample_layers.0.0.weight"),
        (1, len(SHAPES) - 4 - 3 * 9, "downsample_layers.1.0.weight"),
        (3, 4 + 3 * 9 + 4, "downsample_layers.3.0.weight"),
        (4, 4, "norm.weight"),
    ],
)
def test_frozen_are_the_stem_and_the_first_stages_with_their_down_samplers(stages: int, left: int, first: str) -> None:
    trained = without_frozen(SHAPES, stages)
    assert (len(trained), next(iter(trained))) == (left, first)
    assert {"norm.weight", "norm.bias", "head.weight", "head.bias"} <= trained.keys()


def test_drop_path_is_off_in_frozen_stages_and_as_it_was_after_them() -> None:
    network = dataclasses.replace(VARIANTS["convnext_tiny"], drop_path_rate=0.4)
    rates = drop_path_rates(network)
    assert trained_drop_path_rates(network, 0) == rates
    assert trained_drop_path_rates(network, 2) == (0.0,) * 6 + rates[6:]
    assert trained_drop_path_rates(network, 4) == (0.0,) * 18


@pytest.fixture(scope="module")
def stepped(config: Config) -> tuple[Learner, dict[str, np.ndarray], float]:
    """A learner after one step of AdamW with decay and clipping, its weights before, and the norm it reported."""
    section = OptimizerSection(weight_decay=0.5, clip_norm=0.01)
    learner = _learner(config, STAGES, optimizer=section, ema=EmaSection(decay=0.5))
    before = learner.weights()
    return (
        learner,
        before,
        read_outcome(learner.learn([_batch(learner, learner.drop_path_rates)], RATE, 0.5)).gradient_norm,
    )


def test_a_step_moves_all_but_the_frozen_parameters(stepped: tuple[Learner, dict[str, np.ndarray], float]) -> None:
    learner, before, _ = stepped
    moves = _moves(learner, before)
    trained = without_frozen(moves, STAGES)
    for name, move in moves.items():
        assert np.any(move != 0) == (name in trained), name
    assert {name.rpartition("moment.")[2] for name in learner.state() if "moment" in name} == trained.keys()


def test_the_average_of_what_is_frozen_is_itself_and_the_rest_follows(
    stepped: tuple[Learner, dict[str, np.ndarray], float],
) -> None:
    learner, before, _ = stepped
    average, weights = learner.average(), learner.weights()
    assert average.keys() == weights.keys()
    trained = without_frozen(weights, STAGES)
    for name, value in weights.items():
        expected = (value + before[name]) / 2 if name in trained else before[name]
        np.testing.assert_allclose(average[name], expected, rtol=1e-6, atol=1e-7, err_msg=name)


def test_frozen_stages_compute_as_in_evaluation(stepped: tuple[Learner, dict[str, np.ndarray], float]) -> None:
    network = stepped[0].network
    assert [stage.training for stage in network.stages] == [False, False, True, True]
    assert [layer.training for layer in network.downsample_layers] == [False, False, True, True]
    assert not network.stages[0][0].training
    assert network.head.training


def test_a_restored_learner_takes_the_frozen_part_too(stepped: tuple[Learner, dict[str, np.ndarray], float]) -> None:
    learner, before, _ = stepped
    state, average = learner.state(), learner.average()
    name = "stages.0.0.gamma"
    learner.restore({**before, name: before[name] + 1}, state, average)
    np.testing.assert_array_equal(learner.weights()[name], before[name] + 1)
    learner.restore(before, state, average)


@pytest.mark.slow
def test_the_rest_gets_the_gradients_of_the_whole_network_clipped_by_their_own_norm(config: Config) -> None:
    """By plain SGD a move is rate * gradient, and clipped all moves together are rate * clip_norm long."""
    clip = OptimizerSection(name="sgd", momentum=0.0, weight_decay=0.0, clip_norm=0.01)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, drop_path_rate=0.0))
    whole, part = _learner(config, 0), _learner(config, STAGES, optimizer=clip)
    before, batch, rate = whole.weights(), _batch(whole, ()), 64.0  # so that moves are many times float32's spacing
    found = [read_outcome(each.learn([batch], rate, 0.0)) for each in (whole, part)]
    unclipped, moves = without_frozen(_moves(whole, before), STAGES), _moves(part, before)
    assert found[1].loss == pytest.approx(found[0].loss, rel=1e-5)
    assert found[0].gradient_norm > found[1].gradient_norm == pytest.approx(_norm(unclipped) / rate, rel=1e-3)
    assert _norm(moves) == pytest.approx(rate * 0.01, rel=1e-3)
    for name, move in unclipped.items():
        expected = move * 0.01 / found[1].gradient_norm
        margin = 2e-3 * np.abs(expected).max() + 1e-7
        np.testing.assert_allclose(moves[name], expected, rtol=0, atol=margin, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "level"), [("convnextv2_atto", "O0"), ("convnext_atto", "O1")])
def test_with_all_stages_frozen_norm_and_head_learn(config: Config, variant: str, level: str) -> None:
    model = dataclasses.replace(config.model, variant=variant, frozen_stages=4)
    learner = _learner(config, 4, model=model, precision=PrecisionSection(level))
    before = learner.weights()
    assert read_outcome(learner.learn([_batch(learner, learner.drop_path_rates)], RATE, 0.9)).taken
    moved = {name for name, move in _moves(learner, before).items() if np.any(move != 0)}
    assert moved == {"norm.weight", "norm.bias", "head.weight", "head.bias"}


TINY, BASE = VARIANTS["convnext_tiny"], VARIANTS["convnext_base"]

# Facebook's name, group of twelve (ConvNeXt-B), group by block (ConvNeXt-T).
GROUPS = [
    ("downsample_layers.0.0.weight", 0, 1),
    ("downsample_layers.1.0.bias", 2, 4),
    ("downsample_layers.2.1.weight", 3, 7),
    ("downsample_layers.3.1.bias", 12, 16),
    ("stages.0.2.gamma", 1, 3),
    ("stages.1.0.dwconv.weight", 2, 4),
    ("stages.2.0.pwconv1.weight", 3, 7),
    ("stages.2.8.norm.weight", 5, 15),
    ("stages.3.1.pwconv2.bias", 12, 17),
    ("norm.weight", 13, 19),
    ("head.bias", 13, 19),
]


@pytest.mark.parametrize(("name", "twelve", "block"), GROUPS)
def test_groups_are_facebooks(name: str, twelve: int, block: int) -> None:
    assert layer_factors([name], 0.7, "twelve", BASE.depths)[name] == pytest.approx(0.7 ** (13 - twelve))
    assert layer_factors([name], 0.9, "blocks", TINY.depths)[name] == pytest.approx(0.9 ** (19 - block))


# The twelve groups as optim_factory states them: of stems and down-samplers, and of each stage's blocks.
DOWNSAMPLERS = {"downsample_layers.0": 0, "downsample_layers.1": 2, "downsample_layers.2": 3, "downsample_layers.3": 12}
GROUP_OF_BLOCK = {
    "stages.0": lambda k: 1,
    "stages.1": lambda k: 2,
    "stages.2": lambda k: 3 + k // 3,
    "stages.3": lambda k: 12,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_of_every_variant_has_the_rate_of_its_group(variant: str) -> None:
    network = VARIANTS[variant]
    factors = layer_factors(parameter_shapes(network), 0.5, "twelve", network.depths)
    assert len(factors) == len(parameter_shapes(network))
    for name, factor in factors.items():
        words, start = name.split("."), ".".join(name.split(".")[:2])
        group = GROUP_OF_BLOCK[start](int(words[2])) if start in GROUP_OF_BLOCK else DOWNSAMPLERS.get(start, 13)
        assert factor == 0.5 ** (13 - group), name


def test_the_third_stage_of_a_deep_network_has_groups_of_three_blocks() -> None:
    name = "stages.2.26.gamma"
    assert layer_factors([name], 0.5, "twelve", BASE.depths)[name] == 0.5 ** (13 - 11)


@pytest.mark.parametrize("variant", ["convnext_tiny", "convnext_base", "convnextv2_atto"])
@pytest.mark.parametrize("groups", ["twelve", "blocks"])
def test_every_parameter_has_a_factor_and_no_decay_changes_nothing(variant: str, groups: str) -> None:
    network = VARIANTS[variant]
    names = list(parameter_shapes(network))
    factors = layer_factors(names, 0.8, groups, network.depths)
    assert list(factors) == names
    assert all(0 < factor <= 1 for factor in factors.values())
    assert factors["head.weight"] == 1
    assert set(layer_factors(names, 1.0, groups, network.depths).values()) == {1.0}


def test_a_strange_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fc1\.weight"):
        layer_factors(["fc1.weight"], 0.8, "twelve", TINY.depths)
