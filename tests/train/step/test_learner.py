"""The compiled step: loss, gradients, drop path, determinism; and the network that the configuration means."""

import dataclasses
from dataclasses import asdict

import numpy as np
import pytest
from mindspore import Tensor

from convnext_imagenet.base.host import processor_flags
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import init_parameters
from convnext_imagenet.model.kernels.build import network_library
from convnext_imagenet.train.augment.device import device_draws, graph_draws
from convnext_imagenet.train.config.config import Config, config_from_mapping
from convnext_imagenet.train.config.schedule import local_positions
from convnext_imagenet.train.config.sections import ModelSection, PrecisionSection
from convnext_imagenet.train.config.source import load_config
from convnext_imagenet.train.data.pipeline import Batch
from convnext_imagenet.train.errors import ConfigError, TrainError
from convnext_imagenet.train.step.learner import Learner, read_outcome
from convnext_imagenet.train.step.parameters import evaluation_transform, network_config
from convnext_imagenet.train.step.precision import check_precision

MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
CLASSES = 3


def make_learner(config: Config, micro_batches: int = 2) -> Learner:
    classes = tuple((f"n0000000{i}", f"name {i}") for i in range(CLASSES))
    network = network_config(config.model, CLASSES)
    card = ModelCard(network, classes, evaluation_transform(config.data))
    return Learner(config, card, init_parameters(network, config.train.seed), micro_batches=micro_batches)


@pytest.fixture(scope="module")
def learner(config: Config) -> Learner:
    """One for all tests of this file, since compiling its two graphs takes seconds."""
    return make_learner(config)


def make_batches(learner: Learner, epoch: int) -> list[Batch]:
    """The micro-batches of one step over eight random images."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    batches = []
    for part in range(learner.micro_batches):
        ids = local_positions(8, part, learner.micro_batches)
        draws = device_draws(learner.config, epoch, 0, ids, learner.drop_path_rates)
        batches.append(Batch(pixels[ids], (ids % CLASSES).astype(np.int32), ids, draws))
    return batches


def _loss_by_numpy(learner: Learner, batches: list[Batch]) -> tuple[float, int]:
    """Mixed, erased and smoothed cross entropy; the pixels are those of DeviceAugment, which has its own tests."""
    losses, right = [], 0
    for batch in batches:
        draws = batch.draws
        x = learner.augment(Tensor(batch.pixels), graph_draws(draws))
        logits = learner.network(x, Tensor(draws.keep)).asnumpy().astype(np.float64)
        shifted = logits - logits.max(1, keepdims=True)
        log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        smoothing = learner.config.mix.label_smoothing
        own = np.eye(CLASSES)[batch.labels] * (1 - smoothing) + smoothing / CLASSES
        lam = draws.mix_lam[:, None]
        losses.append(-((lam * own + (1 - lam) * own[::-1]) * log_probability).sum(1).mean())
        right += int((logits.argmax(1) == batch.labels).sum())
    return float(np.mean(losses)), right


@pytest.mark.slow
def test_the_step_has_the_loss_that_numpy_finds_and_learns(learner: Learner) -> None:
    for epoch in (1, 2):  # every draw differs
        batches = make_batches(learner, epoch)
        expected, right = _loss_by_numpy(learner, batches)
        found = read_outcome(learner.learn(batches, rate=0.0, decay=0.9))
        assert found.loss == pytest.approx(expected, rel=1e-5)
        assert (found.correct, found.taken, found.loss_scale) == (right, True, 1.0)
        assert found.gradient_norm > 0
    losses = [read_outcome(learner.learn(batches, rate=3e-3, decay=0.9)).loss for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_a_restored_learner_repeats_its_steps_bit_by_bit(learner: Learner) -> None:
    saved = learner.weights(), learner.state(), learner.average()
    ends = []
    for _ in range(2):
        learner.restore(*saved)
        for epoch in (1, 2):
            learner.learn(make_batches(learner, epoch), rate=1e-3, decay=0.9)
        ends.append({**learner.weights(), **learner.state(), **_named("average", learner.average())})
    assert int(ends[0]["optimizer.step"]) == int(saved[1]["optimizer.step"]) + 2
    for name, value in ends[0].items():
        np.testing.assert_array_equal(value, ends[1][name], err_msg=name)
    before = {**saved[1], **_named("average", saved[2])}
    assert all(np.any(value != ends[0][name]) for name, value in before.items())


def _named(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}.{name}": value for name, value in arrays.items()}


@pytest.mark.slow
def test_micro_batches_give_the_step_of_the_whole_batch(config: Config, learner: Learner) -> None:
    """As far as float32 sums in another order do."""
    whole = make_learner(config, micro_batches=1)
    start = whole.weights(), whole.state(), whole.average()
    learner.restore(*start)
    for epoch in (1, 2, 3):
        one, two = (read_outcome(each.learn(make_batches(each, epoch), 1e-3, 0.9)) for each in (whole, learner))
        assert two.loss == pytest.approx(one.loss, rel=1e-5)
        assert two.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
    for name, value in whole.state().items():
        if "first_moment" in name:
            np.testing.assert_allclose(learner.state()[name], value, rtol=0, atol=2e-4 * np.abs(value).max() + 1e-9)


def test_a_state_that_does_not_fit_is_refused(learner: Learner) -> None:
    state, average = learner.state(), learner.average()
    without = {name: value for name, value in state.items() if "dwconv" not in name}
    for damaged in ((without, average), ({**state, "optimizer.step": np.zeros(2, np.int32)}, average), (state, {})):
        with pytest.raises(TrainError, match="do not fit this network"):
            learner.restore(learner.weights(), *damaged)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["O2", "auto"])
def test_mixed_precision_learns_and_keeps_float32_weights(config: Config, level: str) -> None:
    precision = PrecisionSection(level, loss_scale="dynamic", scale_init=2.0**14)
    mixed = make_learner(dataclasses.replace(config, precision=precision))
    batches = make_batches(mixed, 1)
    found = [read_outcome(mixed.learn(batches, 1e-3, 0.9)) for _ in range(12)]
    taken = [each.loss for each in found if each.taken]
    assert taken[-1] < taken[0]
    assert {value.dtype for value in mixed.weights().values()} == {np.dtype(np.float32)}
    assert "loss_scale.value" in mixed.state()
    mixed.show_to_evaluation(mixed.weights())  # by the names of a network that computes in float32
    mixed.restore(mixed.weights(), mixed.state(), mixed.average())


def test_on_the_cpu_bfloat16_is_for_products_and_for_processors_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, levels in ({"avx2"}, ()), ({"avx512_bf16"}, ("O1",)), ({"amx_bf16", "avx2"}, ("O1",)):
        monkeypatch.setattr("convnext_imagenet.train.config.fit.processor_flags", lambda flags=flags: frozenset(flags))
        for level in ("O1", "O2", "O3", "auto"):
            section = PrecisionSection(level, dtype="bfloat16")  # type: ignore[arg-type]
            check_precision(section, "Ascend")
            if level in levels:
                check_precision(section, "CPU")
                continue
            expected = r"precision\.level=O1" if levels else r"neither AMX nor AVX512-BF16; .*precision\.dtype=float16"
            with pytest.raises(ConfigError, match=expected):
                check_precision(section, "CPU")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["convnext_atto", "convnextv2_atto"])
def test_bfloat16_products_learn_as_float32_does(config: Config, variant: str) -> None:
    if not processor_flags() & {"avx512_bf16", "amx_bf16"} or network_library() is None:
        pytest.skip("this processor has no bfloat16 products")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, variant=variant))
    low = dataclasses.replace(config, precision=PrecisionSection("O1", "bfloat16"))
    exact, learner = make_learner(config, 1), make_learner(low, 1)
    batches, start = make_batches(learner, 1), (learner.weights(), learner.state(), learner.average())

    def losses_of(one: Learner) -> list[float]:
        return [read_outcome(one.learn(batches, 1e-3, 0.9)).loss for _ in range(4)]

    losses, ends = losses_of(learner), learner.weights()
    assert losses[-1] < losses[0]
    expected = losses_of(exact)
    np.testing.assert_allclose(losses, expected, rtol=0.02)
    assert losses != expected
    learner.restore(*start)
    assert losses_of(learner) == losses
    for name, value in learner.weights().items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, ends[name], err_msg=name)


@pytest.mark.parametrize("loss_scale", ["static", "dynamic"])
def test_a_loss_scale_is_refused_where_an_overflow_saturates(loss_scale: str) -> None:
    section = PrecisionSection("O1", "float16", loss_scale)  # type: ignore[arg-type]
    check_precision(section, "Ascend", "Ascend910B1")
    with pytest.raises(
        ConfigError, match=rf'loss_scale = "{loss_scale}": Ascend910A turns an overflow .*loss_scale=none'
    ):
        check_precision(section, "Ascend", "Ascend910A")


@pytest.mark.parametrize(
    "draws",
    [
        pytest.param((), id="no draw"),
        pytest.param(("flip",), marks=pytest.mark.slow),
        pytest.param(("op_ids", "op_arguments"), marks=pytest.mark.slow),
        pytest.param(("erase_boxes", "erase_fill"), marks=pytest.mark.slow),
        pytest.param(("mix_boxes", "mix_blend", "mix_lam"), marks=pytest.mark.slow),
        pytest.param(("keep",), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_the_step_takes_any_selection_of_draws(config: Config, draws: tuple[str, ...]) -> None:
    only = make_learner(
        config_from_mapping(
            {
                "model": asdict(config.model) | {"drop_path_rate": 0.2 if "keep" in draws else 0.0},
                "data": asdict(config.data),
                "augment": {
                    "device": "all",
                    "flip_prob": 0.5 if "flip" in draws else 0.0,
                    "auto_augment": "rand-m9-n1" if "op_ids" in draws else "",
                    "erase_prob": 1.0 if "erase_boxes" in draws else 0.0,
                },
                "mix": {"prob": 1.0 if "mix_lam" in draws else 0.0},
                "schedule": {"warmup_epochs": 0},
            }
        ),
        micro_batches=1,
    )
    batches = make_batches(only, epoch=1)
    assert {name for name, drawn in batches[0].draws._asdict().items() if drawn is not None} == set(draws)
    losses = [read_outcome(only.learn(batches, rate=3e-3, decay=0.9)).loss for _ in range(5)]
    assert losses[-1] < losses[0]


def test_no_value_compiles_the_step_again(learner: Learner) -> None:
    learner.learn(make_batches(learner, 1), 1e-3, 0.9)
    compiled = set(learner.accumulate.compile_cache), set(learner.step.compile_cache)
    learner.learn(make_batches(learner, 7), 2e-3, 0.8)
    assert (set(learner.accumulate.compile_cache), set(learner.step.compile_cache)) == compiled


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


def test_a_batch_with_other_draws_than_the_configurations_is_refused(learner: Learner) -> None:
    batches = make_batches(learner, 1)
    other = dataclasses.replace(batches[0], draws=batches[0].draws._replace(keep=None))
    with pytest.raises(ValueError, match="the step was compiled for"):
        learner.learn([other, *batches[1:]], 1e-3, 0.9)
