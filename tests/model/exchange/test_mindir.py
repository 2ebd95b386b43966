"""MindIR files hold the network for any number of images, without our kernels and without this program."""

import stat

import numpy as np
import pytest

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.exchange.mindir import open_mindir, variables_folder, write_mindir
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


@pytest.mark.slow
@pytest.mark.parametrize("config", ["v1"], indirect=True)
def test_weights_that_mindspore_splits_lie_beside_the_graph_and_may_be_moved(
    tmp_path, monkeypatch, config, make_arrays, reference
):
    from mindspore.train import serialization

    monkeypatch.setattr(serialization, "TOTAL_SAVE", 1)  # KiB: as if these weights took more than 1 GiB
    arrays, path = make_arrays(config), tmp_path / "made" / "m.v2.mindir"
    path.parent.mkdir()
    files = write_mindir(_card(config), arrays, path)
    assert files == [variables_folder(path) / "data_0", path]
    assert sorted(made.name for made in path.parent.iterdir()) == ["m.v2.mindir", "m.v2_variables"]
    path.parent.rename(tmp_path / "moved")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    expected = reference.logits((pixels / 255 - TRANSFORM.mean) / TRANSFORM.std, arrays, config.depths)
    answers = open_mindir(tmp_path / "moved" / path.name)(pixels)
    assert np.abs(answers - expected).max() < 1e-5 * np.abs(expected).max()
