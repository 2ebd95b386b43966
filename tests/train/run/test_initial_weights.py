"""What training starts from: which given tensors are taken, what is refused, and that a fine-tuned run is a run."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.protocol import begin
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import init_parameters
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import save_weights
from convnext_imagenet.records.reader import Records
from convnext_imagenet.train.cli import main
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.source import load_config
from convnext_imagenet.train.errors import ConfigError, TrainError
from convnext_imagenet.train.run.context import Interval
from convnext_imagenet.train.run.initial_weights import GivenWeights, initial_weights
from convnext_imagenet.train.run.plan import run_plan
from convnext_imagenet.train.run.run import RunRequest, train
from convnext_imagenet.train.step.parameters import network_config, without_frozen

from ..rank_jobs import Job, assert_close, needs_two_cores

OURS = ("n00000001", "n00000002", "n00000003")  # of the records
FROZEN = "model.frozen_stages=2"


def _card(config: Config, wnids: tuple[str, ...], transform: EvalTransform | None = None) -> ModelCard:
    network = network_config(config.model, len(wnids))
    return ModelCard(network, tuple((wnid, "") for wnid in wnids), transform or EvalTransform(32))


def _given(config: Config, wnids: tuple[str, ...], **changes: Any) -> GivenWeights:
    card = _card(config, wnids, **changes)
    return GivenWeights(Path("given.safetensors"), init_parameters(card.config, seed=7), card)


@pytest.fixture
def weights(config: Config, tmp_path: Path) -> Path:
    """A weights file of the tiny network that knows two classes, neither of them the records'."""
    path = tmp_path / "first.weights.safetensors"
    given = _given(config, ("n00000008", "n00000009"))
    save_weights(path, given.arrays, given.card)
    return path


def test_without_weights_all_is_drawn_and_nothing_is_said(config: Config) -> None:
    card = _card(config, OURS)
    first = initial_weights(config, card, None)
    drawn = init_parameters(card.config, config.train.seed)
    assert (first.origin, first.warnings) == ("", ())
    assert all(np.array_equal(first.arrays[name], value) for name, value in drawn.items())


def test_the_same_classes_keep_their_head(config: Config) -> None:
    given = _given(config, OURS)
    first = initial_weights(config, _card(config, OURS), given)
    total = len(given.arrays)
    assert first.origin == f"{total} of {total} tensors from given.safetensors; its 3 classes are the records'"
    assert first.arrays.keys() == given.arrays.keys()
    for name, value in given.arrays.items():
        np.testing.assert_array_equal(first.arrays[name], value, err_msg=name)


def test_a_head_that_nobody_has_trained_is_drawn_as_the_run_asks(config: Config) -> None:
    given = _given(config, OURS)
    untrained = dataclasses.replace(given.card, provenance={"imported": {"head": "new"}})
    first = initial_weights(config, _card(config, OURS), dataclasses.replace(given, card=untrained))
    assert first.origin.endswith("head.* new: the given head is untrained")
    drawn = init_parameters(given.card.config, config.train.seed)
    np.testing.assert_array_equal(first.arrays["head.weight"], drawn["head.weight"])


def test_a_head_that_compares_embeddings_is_replaced(config: Config) -> None:
    """A run's head is linear: the projection of a zero-shot classifier is no parameter of it."""
    linear = _given(config, OURS)
    network = dataclasses.replace(linear.card.config, head_projection=(6, 5))
    card = dataclasses.replace(linear.card, config=network)
    given = GivenWeights(Path("clip.safetensors"), init_parameters(network, seed=7), card)
    found = initial_weights(config, _card(config, OURS), given)
    drawn = init_parameters(_card(config, OURS).config, config.train.seed)
    assert found.arrays.keys() == drawn.keys()
    assert "head.* new: the given head compares embeddings" in found.origin
    assert np.array_equal(found.arrays["head.weight"], drawn["head.weight"])
    assert np.array_equal(found.arrays["norm.weight"], given.arrays["norm.weight"])


def test_the_same_classes_in_another_order_keep_their_rows(config: Config) -> None:
    given = _given(config, (OURS[2], OURS[0], OURS[1]))
    first = initial_weights(config, _card(config, OURS), given)
    for name in ("head.weight", "head.bias"):
        np.testing.assert_array_equal(first.arrays[name], given.arrays[name][[1, 2, 0]])


@pytest.mark.parametrize(
    ("wnids", "words"),
    [
        (("n00000008", "n00000009"), "2 -> 3 classes"),
        ((OURS[0], "n00000008", OURS[2]), "1 of the 3 classes differ"),
    ],
)
def test_other_classes_get_a_new_head_drawn_from_the_seed(config: Config, wnids: tuple[str, ...], words: str) -> None:
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, head_init_scale=0.001))
    given, card = _given(config, wnids), _card(config, OURS)
    first, total = initial_weights(config, card, given), len(given.arrays)
    assert first.origin == f"{total - 2} of {total} tensors from given.safetensors; head.* new: {words}"
    drawn = init_parameters(card.config, config.train.seed)
    assert 0 < np.abs(first.arrays["head.weight"]).max() < 0.001 * 0.02 * 5
    for name, value in first.arrays.items():
        expected = drawn if name.startswith("head.") else given.arrays
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"variant": "convnextv2_atto"},
            [
                "4 missing (stages.0.0.gamma, ",
                "8 extra (stages.0.0.grn.gamma, ",
                "leave out model.variant=convnext_atto:",
            ],
        ),
        ({"depths": (1, 1, 2, 1)}, ["9 extra (stages.2.1.", "and 6 more", "leave out model.depths=[1, 1, 1, 1]:"]),
        (
            {"dims": (8, 16, 24, 40)},
            [
                "of another shape (downsample_layers.3.1.weight (40, 24, 2, 2) instead of",
                "leave out model.dims=[8, 16, 24, 32]:",
            ],
        ),
    ],
)
def test_weights_of_another_network_are_refused_with_what_differs(
    config: Config, change: dict[str, Any], words: list[str]
) -> None:
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, **change))
    with pytest.raises(TrainError) as refused:
        initial_weights(config, _card(config, OURS), _given(other, OURS))
    said = str(refused.value)
    for text in ("--init-from given.safetensors: weights of ConvNeXt V", *words):
        assert text in said
    assert "\n" not in said


def test_another_normalisation_is_a_warning(config: Config) -> None:
    card = _card(config, OURS)
    halves = EvalTransform(32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    (warning,) = initial_weights(config, card, _given(config, OURS, transform=halves)).warnings
    assert "normalised by mean (0.5, 0.5, 0.5)" in warning
    larger = EvalTransform(64, crop_pct=1.0, mode="squash")
    assert initial_weights(config, card, _given(config, OURS, transform=larger)).warnings == ()


def test_freezing_what_was_only_drawn_is_refused(config: Config) -> None:
    frozen = dataclasses.replace(config, model=dataclasses.replace(config.model, frozen_stages=1))
    with pytest.raises(ConfigError, match=r"model\.frozen_stages = 1: without --init-from .*frozen_stages=0"):
        initial_weights(frozen, _card(config, OURS), None)
    assert initial_weights(frozen, _card(config, OURS), _given(config, OURS)).origin


class _Killed(BaseException):
    """What no code of ours may catch."""


@pytest.mark.slow
def test_a_fine_tuned_run_with_frozen_stages_goes_on_bit_by_bit(
    weights: Path, records_root: Path, tiny: tuple[str, ...], tmp_path: Path, recorder: Any
) -> None:
    config = load_config("paper-tiny", [*tiny, FROZEN, "optimizer.layer_decay=0.8", "train.epochs=3"])
    whole, torn = (
        RunRequest(records_root, tmp_path / name, 1, Interval(steps=5), init_from=weights) for name in ("whole", "torn")
    )
    train(config, whole, recorder)
    assert recorder.given[0].endswith("head.* new: 2 -> 3 classes")

    on_step, recorder.given = recorder.on_step, []

    def on_step_then_die(report: Any) -> None:
        on_step(report)
        if report.steps_done == 7:
            raise _Killed

    recorder.on_step = on_step_then_die
    with pytest.raises(_Killed):
        train(config, torn, recorder)
    recorder.on_step = on_step
    train(config, torn, recorder)
    assert (recorder.done.step, len(recorder.given)) == (5, 1), "a resumed run says nothing of first weights"
    expected, found = (_arrays(request.run) for request in (whole, torn))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    first, last = safetensors.numpy.load_file(weights), expected
    trained = without_frozen(first, 2)
    for name, value in first.items():
        assert np.array_equal(last[f"weights {name}"], value) != (name in trained), name
        assert np.array_equal(last[f"ema {name}"], last[f"weights {name}"]) != (name in trained), name


def _arrays(run: Path) -> dict[str, np.ndarray]:
    parts = {part: run / "checkpoints" / f"epoch-0003.{part}.safetensors" for part in ("weights", "ema", "state")}
    return {
        f"{part} {name}": array
        for part, path in parts.items()
        for name, array in safetensors.numpy.load_file(path).items()
    }


@pytest.mark.parametrize("start", ["none", "other", "gone"])
def test_a_run_goes_on_with_the_weights_that_it_began_with_alone(
    start: str, weights: Path, config: Config, records_root: Path, tmp_path: Path, recorder: Any
) -> None:
    run = tmp_path / "run"
    begin(run, "run", run_plan(config, Records.open(records_root), [weights]))
    request = RunRequest(records_root, run, 1, init_from=weights)
    if start == "none":
        request = dataclasses.replace(request, init_from=None)
    elif start == "other":
        given = _given(config, OURS)
        save_weights(weights, given.arrays, given.card)
    else:
        weights.unlink()
    differs = r"differs in: initial weights \(SHA-256\)\)"
    words = r"first\.weights\.safetensors: no such file" if start == "gone" else differs
    with pytest.raises((ArtefactError, ModelError), match=words):
        train(config, request, recorder)
    assert not (run / "config.toml").exists()


def test_weights_that_do_not_fit_are_one_line_and_write_nothing(
    weights: Path, records_root: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    overrides = [word for override in (*tiny, "model.variant=convnextv2_atto") for word in ("--set", override)]
    words = ["run", "paper-tiny", "--records", str(records_root), "--out", str(tmp_path / "run"), *overrides]
    result = CliRunner().invoke(main, [*words, "--workers", "1", "--init-from", str(weights)])
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert f"--init-from {weights}: weights of ConvNeXt V1" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_is_fine_tuned_without_a_word_about_its_network(
    finished_run: Path, records_root: Path, weights: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    """From a RUN, and from a file with other classes. With everything stated it is the same run."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "[data]\nsize_px = 32\nglobal_batch_size = 8\n[schedule]\nwarmup_epochs = 0\n[train]\nepochs = 1\n"
    )
    stated = [key for key in tiny if key.startswith(("model.variant", "model.depths", "model.dims", "data.eval_size"))]
    for start, new_head in ((finished_run, 0), (weights, 1)):
        run = tmp_path / f"run-{new_head}"
        words = ["run", str(recipe), "--records", str(records_root), "--out", str(run), "--init-from", str(start)]
        result = CliRunner().invoke(main, [*words, "--workers", "1"], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        assert result.output.count("head.* new: 2 -> 3 classes") == new_head
        assert (
            "from the weights: model.variant=convnext_atto model.depths=[1, 1, 1, 1] model.dims=[8, 1" in result.stderr
        )
        taken = load_config(str(run / "config.toml"))
        assert (taken.model.dims, taken.data.eval_size_px, taken.data.size_px) == ((8, 16, 24, 32), 32, 32)
        for overrides in ([], stated):
            again = [*words, *(word for key in overrides for word in ("--set", key))]
            assert "already finished" in CliRunner().invoke(main, again, catch_exceptions=False).stdout


@pytest.mark.faults
@needs_two_cores
def test_two_ranks_fine_tune_as_one_does(start: Callable[..., Job], weights: Path, tmp_path: Path) -> None:
    options, runs = ["--init-from", str(weights), "--set", FROZEN], {}
    for devices in (1, 2):
        runs[devices] = tmp_path / f"by-{devices}"
        code, said, _ = start(runs[devices], *options, devices=devices).wait()
        assert code == 0, said
        assert f"tensors from {weights}; head.* new: 2 -> 3 classes" in said
    assert_close(runs[2], runs[1])
