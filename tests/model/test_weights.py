"""Weights files: exact round trips, the same bytes every time, and one clear error for each kind of bad file."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.model import weights
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import (
    FORMAT,
    build_network,
    load_weights,
    save_weights,
)


@pytest.fixture
def card(config) -> ModelCard:
    classes = tuple((f"n0000000{index}", f'naïve "class" {index}\'s') for index in range(config.num_classes))
    transform = EvalTransform(size_px=96, crop_pct=0.9, mode="squash", interpolation="bilinear")
    return ModelCard(config, classes, transform, {"epoch": 3, "seed": 7, "top1": 0.123})


@pytest.fixture
def arrays(config, make_arrays) -> dict[str, np.ndarray]:
    return make_arrays(config)


@pytest.fixture
def saved(tmp_path, arrays, card):
    path = tmp_path / "epoch-0003.weights.safetensors"
    save_weights(path, arrays, card)
    return path


def assert_same(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes(), name


def test_round_trip_is_exact(saved, arrays, card):
    found, found_card = load_weights(saved)
    assert_same(found, arrays)
    assert found_card == card
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_network_round_trip_is_exact(arrays, card):
    network = build_network(card, arrays)
    assert network.config == card.config
    held = {name: parameter.asnumpy() for name, parameter in network.parameters_and_names()}
    assert_same(dict(sorted(held.items())), dict(sorted(arrays.items())))


def test_odd_values_survive(saved, arrays, card):
    arrays["norm.bias"][:4] = [3.4e38, -3.4e38, -0.0, 1e-45]
    save_weights(saved, arrays, card)
    assert_same(load_weights(saved)[0], arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_neither_written_nor_read(saved, arrays, card, value, monkeypatch):
    before = saved.read_bytes()
    arrays["norm.bias"][3] = value
    with pytest.raises(ModelError, match=r"is not written: norm\.bias has 1 values of \d+ that are not finite"):
        save_weights(saved, arrays, card)
    assert saved.read_bytes() == before
    with monkeypatch.context() as older:  # as older programs wrote it
        older.setattr(weights, "check_finite", lambda *_: None)
        save_weights(saved, arrays, card)
    assert "norm.bias has 1 values" in refusal(saved)


def test_bytes_depend_on_the_contents_alone(tmp_path, saved, arrays, card):
    expected = saved.read_bytes()
    for attempt in range(5):
        other = tmp_path / f"other name {attempt}"
        shuffled = dict(reversed(arrays.items())) if attempt % 2 else dict(arrays)
        strided = {name: np.repeat(array, 2, axis=-1)[..., ::2] for name, array in shuffled.items()}
        save_weights(other, strided, replace(card, provenance=dict(reversed(card.provenance.items()))))
        assert other.read_bytes() == expected


def refusal(path) -> str:
    with pytest.raises(ModelError) as caught:
        load_weights(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent")
    assert "no such file" in refusal(tmp_path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty").touch()
    assert "empty; copy it again" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("kept", [4, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved, kept):
    data = saved.read_bytes()
    saved.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    assert "truncated, damaged or not a safetensors file" in refusal(saved)


def test_a_flipped_bit_is_refused(saved):
    data = bytearray(saved.read_bytes())
    data[-1000] ^= 1
    saved.write_bytes(data)
    assert "SHA-256" in refusal(saved)


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02}q\x00." * 100)
    assert "not a safetensors file" in refusal(tmp_path / "model.ckpt")


def test_safetensors_of_another_program_are_refused(tmp_path, arrays):
    path = tmp_path / "model.safetensors"
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(safetensors.numpy.save(arrays, metadata=metadata))
        assert (
            "without our model card; import weights of another program by `convnext-serve weights import`"
            in refusal(path)
        )


def rewrite(path, arrays=None, **changes) -> None:
    """Write the file again with other arrays or with other entries in its header."""
    with safetensors.safe_open(path, framework="numpy") as file:
        header = {**json.loads(file.metadata()[FORMAT]), **changes}
    arrays = safetensors.numpy.load_file(path) if arrays is None else arrays
    path.write_bytes(safetensors.numpy.save(arrays, metadata={FORMAT: json.dumps(header)}))


def test_another_version_is_refused(saved):
    rewrite(saved, version=2)
    assert "format version 2, this program reads version 1" in refusal(saved)


@pytest.mark.parametrize("header", ["{", "[]", "{}"])
def test_damaged_metadata_is_refused(saved, arrays, header):
    saved.write_bytes(safetensors.numpy.save(arrays, metadata={FORMAT: header}))
    assert "its metadata is damaged" in refusal(saved)


def test_metadata_without_a_card_are_refused(saved, arrays):
    saved.write_bytes(safetensors.numpy.save(arrays, metadata={FORMAT: '{"version": 1}'}))
    assert "the model card cannot be read" in refusal(saved)


@pytest.mark.parametrize(
    "damage",
    [
        lambda card: card.pop("classes"),
        lambda card: card["config"].update(stochastic_depth=1),
        lambda card: card["config"].update(depths=7),
        lambda card: card["transform"].pop("mean") and card["transform"].update(mean=None),
    ],
    ids=["no classes", "unknown field", "depths of another type", "no mean"],
)
def test_a_card_that_cannot_be_read_is_refused(saved, damage):
    with safetensors.safe_open(saved, framework="numpy") as file:
        card = json.loads(json.loads(file.metadata()[FORMAT])["card"])
    damage(card)
    rewrite(saved, card=json.dumps(card))
    assert "the model card cannot be read" in refusal(saved)


def test_a_file_that_disagrees_with_its_card_is_refused(saved, arrays):
    arrays.pop("head.bias")
    rewrite(saved, arrays)
    message = refusal(saved)
    assert "disagrees with its own model card: 1 missing (head.bias), of" in message


def test_classes_must_be_as_many_as_outputs(card):
    with pytest.raises(ModelError, match="names 4 classes, its network has 5 outputs"):
        replace(card, classes=card.classes[:4])


def test_saving_other_arrays_writes_nothing(tmp_path, arrays, card):
    arrays["norm.bias"] = arrays["norm.bias"].astype(np.float64)
    with pytest.raises(ModelError, match=r"is not written: 1 not float32 \(norm.bias float64\)"):
        save_weights(tmp_path / "file", arrays, card)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path, arrays, card):
    with pytest.raises(ArtefactError, match="cannot be written"):
        save_weights(tmp_path / "absent" / "file", arrays, card)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtefactError, match="cannot be written"):
        save_weights(tmp_path / "folder", arrays, card)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
