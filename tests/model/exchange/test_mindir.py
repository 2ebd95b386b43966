"""MindIR files hold the network for any number of images, without our kernels and without this program."""

import stat

import numpy as np
import pytest

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import VARIANTS
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.mindir import open_mindir, write_mindir
from convnext_imagenet.model.transform import EvalTransform

TRANSFORM = EvalTransform(size_px=64, mean=(0.4, 0.5, 0.6))


def _card(config):
    return ModelCard(config, tuple((f"n{index:08d}", "") for index in range(config.num_classes)), TRANSFORM)


@pytest.mark.slow
def test_a_file_answers_as_the_network_for_any_number_of_images(tmp_path, config, make_arrays, reference):
    arrays = make_arrays(config)
    write_mindir(_card(config), arrays, tmp_path / "m.mindir")
    assert [path.name for path in tmp_path.iterdir()] == ["m.mindir"]
    assert stat.S_ISREG((tmp_path / "m.mindir").stat().st_mode)
    run = open_mindir(tmp_path / "m.mindir")
    for count in (1, 3):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 64, 64, 3), np.uint8)
        values = (pixels / 255 - TRANSFORM.mean) / TRANSFORM.std
        expected = reference.logits(values, arrays, config.depths)
        assert np.abs(run(pixels) - expected).max() < 1e-5 * np.abs(expected).max()


def test_weights_above_a_gibibyte_are_refused_before_any_work(tmp_path):
    with pytest.raises(ModelError, match=r"convnextv2_huge has 2.5 GiB of weights.* use --format onnx or safetensors"):
        write_mindir(_card(VARIANTS["convnextv2_huge"]), {}, tmp_path / "m.mindir")
    assert not list(tmp_path.iterdir())
