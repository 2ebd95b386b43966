"""Buckets: the same step as without them, whatever they join and in whatever precision the network computes."""

from collections.abc import Mapping

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.sections import EmaSection, OptimizerSection
from convnext_imagenet.train.step.buckets import Bucket, Buckets, plan_buckets
from convnext_imagenet.train.step.update import Update, make_buckets

DEPTHS = (1, 1, 1, 1)
SHAPES = {
    "stages.0.0.dwconv.weight": (4, 1, 7, 7),
    "stages.0.0.dwconv.bias": (4,),
    "stages.0.0.norm.weight": (4,),
    "stages.0.0.pwconv1.weight": (16, 4),
    "stages.0.0.pwconv1.bias": (16,),
    "norm.weight": (4,),
    "head.weight": (3, 4),
    "head.bias": (3,),
}
RATE, STEPS = 1e-2, 3


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_a_plan_holds_every_parameter_once_and_one_kind_a_bucket(most: int) -> None:
    kinds = {name: name.endswith(".bias") for name in SHAPES}
    plan = plan_buckets(SHAPES, kinds, most)
    assert sorted(name for bucket in plan for name in bucket.names) == sorted(SHAPES)
    assert all(len(bucket.names) <= most for bucket in plan)
    assert all(len({kinds[name] for name in bucket.names}) == 1 for bucket in plan)
    assert len({bucket.name for bucket in plan}) == len(plan)
    if most == 1:
        assert [bucket.name for bucket in plan] == list(SHAPES)


def test_a_bucket_splits_what_it_joins() -> None:
    bucket = Bucket(tuple(SHAPES), tuple(SHAPES.values()))
    values = _values(0)
    split = bucket.split(bucket.join(values))
    assert split.keys() == values.keys()
    assert all(np.array_equal(split[name], values[name]) for name in values)


def test_without_joining_a_parameter_is_its_own_bucket() -> None:
    parameters = _parameters()
    buckets = make_buckets(parameters, Config(), DEPTHS)
    assert all(own is buffer for own, buffer in zip(parameters.values(), buckets.buffers, strict=True))
    assert buckets.has_no_copies, "so they add nothing to the compiled step"


def test_buckets_that_join_lower_or_reorder_are_not_left_out_of_the_step() -> None:
    names = list(SHAPES)
    assert not make_buckets(_parameters(), Config(), DEPTHS, 3).has_no_copies
    assert not make_buckets(_parameters(), Config(), DEPTHS, 1, {names[0]: ms.float16}).has_no_copies
    reordered = [Bucket((name,), (SHAPES[name],)) for name in reversed(names)]
    assert not Buckets(_parameters(), reordered).has_no_copies


@pytest.mark.parametrize(
    "section",
    [
        OptimizerSection(),
        OptimizerSection(layer_decay=0.7),
        OptimizerSection(name="sgd", clip_norm=0.5),
        OptimizerSection(name="muon", clip_norm=0.5),
        pytest.param(OptimizerSection(name="lamb"), marks=pytest.mark.slow),
    ],
    ids=lambda section: f"{section.name}-{section.layer_decay}-{section.clip_norm}",
)
def test_joined_parameters_take_the_same_steps(section: OptimizerSection) -> None:
    config = Config(optimizer=section, ema=EmaSection(decay=0.5))
    ends = [_end(*_run(config, joined)) for joined in (None, 3)]
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        np.testing.assert_allclose(ends[1][name], value, rtol=2e-6, atol=1e-9, err_msg=name)


def test_copies_of_lower_precision_follow_the_values() -> None:
    lowered = {name: ms.float16 for name in SHAPES if "norm" not in name}
    update, parameters = _run(Config(), 3, lowered)
    plain, _ = _run(Config(), None)
    exact = plain.buckets.arrays(plain.buckets.buffers)
    values = update.buckets.arrays(update.buckets.buffers)
    for name, parameter in parameters.items():
        assert parameter.dtype == lowered.get(name, ms.float32)
        assert values[name].dtype == np.float32
        np.testing.assert_allclose(values[name], exact[name], rtol=2e-6)
        np.testing.assert_array_equal(parameter.asnumpy(), values[name].astype(parameter.asnumpy().dtype))


@pytest.mark.parametrize("section", [OptimizerSection(), OptimizerSection(name="muon")], ids=lambda each: each.name)
def test_a_saved_state_resumes_with_other_buckets(section: OptimizerSection) -> None:
    """What a run with buckets saves, a run without them continues, bit for bit, and the other way around."""
    config = Config(optimizer=section, ema=EmaSection(decay=0.5))
    for first, then in ((3, None), (None, 3)):
        saved, _ = _run(config, first)
        resumed, parameters = _new(config, then)
        resumed.buckets.fill(resumed.buckets.buffers, saved.buckets.arrays(saved.buckets.buffers))
        resumed.buckets.refresh()
        resumed.restore(saved.state(), saved.average())
        before = _end(saved, {})
        assert all(np.array_equal(value, before[name]) for name, value in _end(resumed, {}).items())
        for name, parameter in parameters.items():
            np.testing.assert_array_equal(parameter.asnumpy(), before[f"weights/{name}"])
        _step(saved, STEPS)
        _step(resumed, STEPS)
        after = _end(saved, {})
        assert all(np.array_equal(value, after[name]) for name, value in _end(resumed, {}).items())


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_a_sum_of_few_summands_at_a_time_is_the_sum(count: int) -> None:
    update, _ = _new(Config(), 3)
    values = tuple(Tensor(np.float32(value)) for value in range(count))
    assert float(update.sum(values).asnumpy()) == sum(range(count))


class Step(nn.Cell):
    """Buckets and update as a training step of one rank calls them."""

    def __init__(self, update: Update) -> None:
        super().__init__(auto_prefix=False)
        self.update = update
        self.join = update.buckets

    def construct(self, gradients: tuple[Tensor, ...], rate: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
        joined = self.update.unscaled(self.join(gradients))
        return self.update(joined, self.update.half_squares(joined), rate, decay)


def _values(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}


def _parameters() -> dict[str, Parameter]:
    return {name: Parameter(Tensor(value), name=name) for name, value in _values(1).items()}


def _new(
    config: Config, joined: int | None, lowered: Mapping[str, ms.Type] | None = None
) -> tuple[Update, dict[str, Parameter]]:
    parameters = _parameters()
    buckets = make_buckets(parameters, config, DEPTHS, joined or 1, lowered or {})
    return Update(buckets, config, DEPTHS, joined), parameters


def _run(
    config: Config, joined: int | None, lowered: Mapping[str, ms.Type] | None = None
) -> tuple[Update, dict[str, Parameter]]:
    update, parameters = _new(config, joined, lowered)
    for step in range(STEPS):
        _step(update, step)
    return update, parameters


def _step(update: Update, step: int) -> None:
    gradients = tuple(Tensor(value) for value in _values(10 + step, 1e-2).values())
    norm, _ = Step(update)(gradients, Tensor(RATE, ms.float32), Tensor(0.5, ms.float32))
    norm.asnumpy()


def _end(update: Update, _: Mapping[str, Parameter]) -> dict[str, np.ndarray]:
    weights = update.buckets.arrays(update.buckets.buffers, "weights/")
    averages = {f"average/{name}": value for name, value in update.average().items()}
    return weights | averages | update.state()
