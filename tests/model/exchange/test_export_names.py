"""Files for other programs: what they hold comes back bit by bit."""

import numpy as np
import pytest
import safetensors.numpy

from convnext_imagenet.base.files import write_output
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.exchange.export_names import EXPORTED_CARD, renamed_payload
from convnext_imagenet.model.exchange.import_names import recognise_scheme, translate
from convnext_imagenet.model.exchange.source_file import read_source
from convnext_imagenet.model.transform import EvalTransform


def _card(config, **provenance):
    classes = tuple((f"n{index:08d}", f"name {index}") for index in range(config.num_classes))
    return ModelCard(config, classes, EvalTransform(size_px=96, mean=(0.1, 0.2, 0.3)), provenance)


@pytest.mark.parametrize("names", ["facebook", "timm"])
def test_a_file_comes_back_bit_by_bit(tmp_path, config, make_arrays, names):
    arrays = make_arrays(config)
    write_output(tmp_path / "out.safetensors", renamed_payload(arrays, _card(config), names))
    tensors, _ = read_source(tmp_path / "out.safetensors").choose(None)
    made = translate(tensors, recognise_scheme(tensors, "file", names), "file")
    assert made.arrays.keys() == arrays.keys()
    assert all(made.arrays[name].tobytes() == array.tobytes() for name, array in arrays.items())
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


def test_the_file_is_marked_for_pytorchs_readers(tmp_path, config, make_arrays):
    (tmp_path / "f").write_bytes(renamed_payload(make_arrays(config), _card(config), "timm"))
    with safetensors.safe_open(tmp_path / "f", framework="numpy") as file:
        assert (file.metadata()["format"], set(file.metadata())) == ("pt", {"format", EXPORTED_CARD})


def test_the_file_states_its_card_without_the_training_in_the_same_bytes_each_time(tmp_path, config, make_arrays):
    licence = {"file": "a.pth", "licence": "mit", "licence_from": "LICENSE beside it", "licence_words": ""}
    card, arrays = _card(config, licences=[licence], records="secret"), make_arrays(config)
    payloads = {renamed_payload(arrays, card, "timm") for _ in range(8)}
    assert len(payloads) == 1
    (tmp_path / "f").write_bytes(payloads.pop())
    assert read_source(tmp_path / "f").card == _card(config, licences=[licence])


def test_arrays_are_written_in_the_programs_shapes(config, make_arrays):
    arrays = make_arrays(config)
    theirs = safetensors.numpy.load(renamed_payload(arrays, _card(config), "timm"))
    name = "stages.1.blocks.1.mlp.fc1.weight"
    assert np.array_equal(theirs[name], arrays["stages.1.1.pwconv1.weight"])
