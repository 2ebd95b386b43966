"""Mixup's and cutmix's draws: distributions, keys, and the meaning of each mode."""

import numpy as np
import pytest

from convnext_imagenet.train.augment.mix import Mix, mix_draws
from convnext_imagenet.train.config.sections import MixSection

SIZE_PX = 224


def _draws(section: MixSection, count: int) -> Mix:
    return mix_draws(section, 0, 1, 0, np.arange(count), SIZE_PX)


def _areas(mix: Mix) -> np.ndarray:
    top, left, bottom, right = mix.boxes.T
    return (bottom - top) * (right - left)


def test_mixup_blends_by_a_beta_draw() -> None:
    mix = _draws(MixSection(mode="elem", cutmix_alpha=0.0), 4000)
    assert not mix.boxes.any()
    np.testing.assert_allclose(mix.blend + mix.lam, 1, atol=1e-6)
    assert mix.lam.mean() == pytest.approx(0.5, abs=0.02)
    assert mix.lam.var() == pytest.approx(0.25 / (2 * 0.8 + 1), rel=0.06)  # of Beta(a, a)


def test_cutmix_cuts_a_box_and_lam_is_what_it_leaves() -> None:
    mix = _draws(MixSection(mode="elem", mixup_alpha=0.0), 4000)
    assert not mix.blend.any()
    assert mix.boxes.min() >= 0
    assert mix.boxes.max() <= SIZE_PX
    np.testing.assert_allclose(mix.lam, 1 - _areas(mix) / SIZE_PX**2, atol=1e-6)
    # E[lam] for a share u ~ U(0, 1) around a uniform centre, cut at the border: side s = sqrt(u) keeps s - s^2 / 4 in
    # the mean, so the area is E[(s - s^2 / 4)^2] = 1/2 - 1/5 + 1/48.
    assert 1 - mix.lam.mean() == pytest.approx(0.5 - 0.2 + 1 / 48, abs=0.01)


def test_minmax_draws_the_sides_uniformly() -> None:
    mix = _draws(MixSection(mode="elem", mixup_alpha=0.0, cutmix_alpha=0.0, cutmix_minmax=(0.25, 0.5)), 3000)
    top, left, bottom, right = mix.boxes.T
    for side in (bottom - top, right - left):
        assert (side.min(), side.max()) == (56, 111)
        assert side.mean() == pytest.approx(83.5, abs=1)
    assert (left.min(), right.max()) == (0, SIZE_PX)


@pytest.mark.parametrize(
    ("prob", "switch", "mixed", "cut"), [(1.0, 0.5, 1.0, 0.5), (0.4, 0.25, 0.4, 0.1), (0.0, 1, 0, 0)]
)
def test_probabilities(prob: float, switch: float, mixed: float, cut: float) -> None:
    mix = _draws(MixSection(mode="elem", prob=prob, switch_prob=switch), 4000)
    is_cut = _areas(mix) > 0
    assert is_cut.mean() == pytest.approx(cut, abs=0.03)
    assert (is_cut | (mix.blend > 0)).mean() == pytest.approx(mixed, abs=0.03)


def test_batch_draws_once_pair_once_a_pair_elem_once_a_row() -> None:
    batch, pair, elem = (_draws(MixSection(mode=mode), 16) for mode in ("batch", "pair", "elem"))
    assert len(set(batch.lam)) == 1
    np.testing.assert_array_equal(pair.lam, pair.lam[::-1])
    np.testing.assert_array_equal(pair.boxes, pair.boxes[::-1])
    assert len(set(pair.lam)) == 8
    assert len(set(elem.lam)) == 16


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_global_batch_draw_what_the_whole_draws(mode: str, parts: int) -> None:
    ids = np.random.default_rng(0).permutation(1000)[:32]
    section = MixSection(mode=mode)
    whole = mix_draws(section, 3, 2, 5, ids, SIZE_PX)
    half = 32 // (2 * parts)
    for part in range(parts):
        place = np.r_[part * half : (part + 1) * half, 32 - (part + 1) * half : 32 - part * half]
        found = mix_draws(section, 3, 2, 5, ids[place], SIZE_PX)
        for one, other in zip(found, whole, strict=True):
            np.testing.assert_array_equal(one, other[place])


def test_draws_change_with_seed_epoch_and_step_and_nothing_else() -> None:
    section, ids = MixSection(), np.arange(4)
    lams = {
        mix_draws(section, seed, epoch, step, ids, SIZE_PX).lam[0]
        for seed, epoch, step in ((0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1), (0, 1, 0))
    }
    assert len(lams) == 4
