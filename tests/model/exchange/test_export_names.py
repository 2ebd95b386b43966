"""Files for other programs: what they hold comes back bit by bit."""

import numpy as np
import pytest
import safetensors.numpy

from convnext_imagenet.base.files import write_output
from convnext_imagenet.model.exchange.export_names import renamed_payload
from convnext_imagenet.model.exchange.import_names import recognise_scheme, translate
from convnext_imagenet.model.exchange.source_file import read_source


@pytest.mark.parametrize("names", ["facebook", "timm"])
def test_a_file_comes_back_bit_by_bit(tmp_path, config, make_arrays, names):
    arrays = make_arrays(config)
    write_output(tmp_path / "out.safetensors", renamed_payload(arrays, config, names))
    tensors, _ = read_source(tmp_path / "out.safetensors").choose(None)
    made = translate(tensors, recognise_scheme(tensors, "file", names), "file")
    assert made.arrays.keys() == arrays.keys()
    assert all(made.arrays[name].tobytes() == array.tobytes() for name, array in arrays.items())
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


def test_the_file_is_marked_for_pytorchs_readers(tmp_path, config, make_arrays):
    (tmp_path / "f").write_bytes(renamed_payload(make_arrays(config), config, "timm"))
    with safetensors.safe_open(tmp_path / "f", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_arrays_are_written_in_the_programs_shapes(config, make_arrays):
    arrays = make_arrays(config)
    theirs = safetensors.numpy.load(renamed_payload(arrays, config, "timm"))
    name = "stages.1.blocks.1.mlp.fc1.weight"
    assert np.array_equal(theirs[name], arrays["stages.1.1.pwconv1.weight"])
