"""The policy's grammar, and what is drawn from it against timm's rules."""

from collections import Counter

import numpy as np
import pytest

from convnext_imagenet.train.augment.randaugment import Op, Policy, as_arrays, draw_ops
from convnext_imagenet.train.config.policy import parse_policy
from convnext_imagenet.train.errors import ConfigError

PAPER = "rand-m9-mstd0.5-inc1"
COUNT = 6000


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        (PAPER, Policy(9.0, 0.5, 2, True)),
        ("rand", Policy(10.0, 0.0, 2, False)),
        ("rand-inc0-n3-m4.5", Policy(4.5, 0.0, 3, False)),
        ("rand-mstd10-m0-n8-inc1", Policy(0.0, 10.0, 8, True)),
    ],
)
def test_the_grammar(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    "text",
    ["", "augmix-m3", "rand-m11", "rand-m9-m9", "rand-n0", "rand-n2.5", "rand-inc2", "rand-x3", "rand-", "rand-mstd-1"],
)
def test_anything_else_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ConfigError, match="must be rand-mM-mstdS-nN-incI"):
        parse_policy(text)


def _drawn(text: str) -> list[tuple[Op, float]]:
    return [pair for sample in range(COUNT) for pair in draw_ops(parse_policy(text), 0, 1, sample)]


def test_half_of_the_operations_are_left_out_and_the_others_are_equally_frequent() -> None:
    counts = Counter(op for op, _ in _drawn(PAPER))
    assert counts[Op.NONE] == pytest.approx(COUNT, rel=0.03)
    for op in Op:
        if op != Op.NONE:
            assert counts[op] == pytest.approx(COUNT / 15, rel=0.2), op.name


# Of each operation at magnitude 9: the arguments of the increasing set, and of the plain one.
AT_NINE: dict[Op, tuple[set[float], set[float]]] = {
    Op.AUTO_CONTRAST: ({0.0}, {0.0}),
    Op.EQUALIZE: ({0.0}, {0.0}),
    Op.INVERT: ({0.0}, {0.0}),
    Op.ROTATE: ({-27.0, 27.0}, {-27.0, 27.0}),
    Op.POSTERIZE: ({1}, {3}),
    Op.SOLARIZE: ({26}, {230}),
    Op.SOLARIZE_ADD: ({99}, {99}),
    Op.COLOR: ({0.19, 1.81}, {1.72}),
    Op.CONTRAST: ({0.19, 1.81}, {1.72}),
    Op.BRIGHTNESS: ({0.19, 1.81}, {1.72}),
    Op.SHARPNESS: ({0.19, 1.81}, {1.72}),
    Op.SHEAR_X: ({-0.27, 0.27}, {-0.27, 0.27}),
    Op.SHEAR_Y: ({-0.27, 0.27}, {-0.27, 0.27}),
    Op.TRANSLATE_X: ({-0.405, 0.405}, {-0.405, 0.405}),
    Op.TRANSLATE_Y: ({-0.405, 0.405}, {-0.405, 0.405}),
}


@pytest.mark.parametrize(("text", "which"), [("rand-m9-inc1", 0), ("rand-m9-inc0", 1)])
def test_arguments_are_timms_and_signs_are_even(text: str, which: int) -> None:
    drawn = _drawn(text)
    for op, sets in AT_NINE.items():
        found = [round(argument, 6) for each, argument in drawn if each == op]
        assert set(found) == sets[which], op.name
        if len(sets[which]) == 2:
            assert np.mean([value == max(found) for value in found]) == pytest.approx(0.5, abs=0.08)


def test_magnitudes_are_normal_and_clipped() -> None:
    angles = np.abs([argument for op, argument in _drawn("rand-m9-mstd0.5") if op == Op.ROTATE]) / 3
    assert angles.max() == 10.0
    assert angles.mean() == pytest.approx(9 - 0.004, abs=0.1)
    assert np.mean(angles < 9) == pytest.approx(0.5, abs=0.08)
    wide = np.abs([argument for op, argument in _drawn("rand-m5-mstd10") if op == Op.ROTATE]) / 3
    assert {wide.min(), wide.max()} == {0.0, 10.0}


def test_draws_depend_on_seed_epoch_and_sample_alone() -> None:
    policy = parse_policy("rand-m9-mstd0.5-n8")
    assert len({draw_ops(policy, *key) for key in ((0, 1, 5), (1, 1, 5), (0, 2, 5), (0, 1, 6), (0, 1, 5))}) == 4


def test_golden() -> None:
    """To regenerate: print the draws. They change only with the format of a run."""
    drawn = [draw_ops(parse_policy(PAPER), 0, 1, sample) for sample in range(4)]
    ids, arguments = as_arrays(drawn)
    assert (ids.dtype, arguments.dtype) == (np.int32, np.float32)
    assert ids.tolist() == GOLDEN_IDS
    np.testing.assert_allclose(arguments, GOLDEN_ARGUMENTS, atol=1e-5)


GOLDEN_IDS = [[5, 15], [0, 13], [5, 0], [0, 0]]
GOLDEN_ARGUMENTS = [[1.0, 0.39449], [0.0, 0.2663], [1.0, 0.0], [0.0, 0.0]]
