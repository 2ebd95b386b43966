"""ONNX files: one or two, the same answers and the same bytes, and threads that change none."""

import numpy as np
import pytest

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.exchange.onnx_file import open_onnx, run_onnx, write_onnx
from convnext_imagenet.model.exchange.onnx_graph import onnx_model
from convnext_imagenet.model.transform import EvalTransform

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)


@pytest.fixture
def make(make_config, make_arrays):
    config = make_config(num_classes=5)
    card = ModelCard(config, tuple((f"n{index:08d}", str(index)) for index in range(5)), EvalTransform(size_px=64))
    return lambda: onnx_model(card, make_arrays(config), preprocessing=True)


def test_a_model_too_large_for_one_message_is_two_files_with_the_same_answers(tmp_path, make):
    (tmp_path / "two").mkdir()
    one, two = tmp_path / "m.onnx", tmp_path / "two" / "m.onnx"
    assert write_onnx(make(), one) == [one]
    assert write_onnx(make(), two, largest_bytes=1000) == [two.with_name("m.onnx.data"), two]
    assert two.stat().st_size < one.stat().st_size / 3
    assert sorted(path.name for path in two.parent.iterdir()) == ["m.onnx", "m.onnx.data"]
    moved = two.parent.rename(tmp_path / "elsewhere") / "m.onnx"
    assert open_onnx(moved)(PIXELS)[0].tobytes() == open_onnx(one)(PIXELS)[0].tobytes()


def test_equal_models_are_equal_bytes(tmp_path, make):
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        write_onnx(make(), tmp_path / str(number) / "m.onnx")
        write_onnx(make(), tmp_path / str(number) / "n.onnx", largest_bytes=1000)
    for name in ("m.onnx", "n.onnx", "n.onnx.data"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def test_a_large_model_in_memory_answers_the_same(make):
    expected = run_onnx(make())(PIXELS)
    assert run_onnx(make(), largest_bytes=1000)(PIXELS)[0].tobytes() == expected[0].tobytes()


def test_neither_threads_nor_neighbours_change_a_bit(make):
    alone, two = run_onnx(make(), threads=1), run_onnx(make(), threads=2)
    (expected,) = alone(PIXELS)
    assert two(PIXELS)[0].tobytes() == expected.tobytes()
    others = PIXELS.copy()
    others[[0, 2, 3, 4]] = 0
    assert alone(others)[0][1].tobytes() == expected[1].tobytes()
