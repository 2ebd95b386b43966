"""Averages of checkpoints: the mean bit for bit, greedy's choice, provenance, and what is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from convnext_imagenet.model.weights import load_weights
from convnext_imagenet.serve.checkpoint import load_checkpoint
from convnext_imagenet.serve.cli import main
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.weights.averaging import average_checkpoints

from ...json_page import check_object, check_progress
from ..conftest import build_records, picture, write_checkpoint


@pytest.fixture
def three(tmp_path) -> list:
    return [load_checkpoint(write_checkpoint(tmp_path / f"{seed}.safetensors", seed=seed)) for seed in range(3)]


def test_the_uniform_average_is_the_mean_in_any_order(three):
    found = average_checkpoints(three, "uniform", None).arrays
    again = average_checkpoints(three[::-1], "uniform", None).arrays
    for name, array in found.items():
        exact = np.mean([c.arrays[name].astype(np.float64) for c in three], axis=0)
        assert np.abs(array - exact).max() <= np.abs(exact).max() * 1e-7
        assert array.tobytes() == again[name].tobytes()


def test_greedy_takes_the_best_and_whatever_does_not_lower_it(three):
    """By table: alone 5, 9 and 7; with the second best 8 of 9, so it is left out; with the worst 9."""
    bias = {checkpoint.sha256: n for n, checkpoint in enumerate(three)}
    asked = []

    def score(checkpoint) -> int:
        alone = next((n for n, c in enumerate(three) if c.arrays is checkpoint.arrays), None)
        asked.append(alone)
        return [5, 9, 7][alone] if alone is not None else (8 if asked.count(None) == 1 else 9)

    soup = average_checkpoints(three, "greedy", score)
    assert [bias[member.sha256] for member in soup.members] == [1, 0]
    assert (soup.correct, soup.own_correct) == ((5, 9, 7), 9)
    rows = soup.card.provenance["average"]["checkpoints"]
    assert [row["taken"] for row in rows] == [True, True, False]
    assert [row["file"] for row in rows] == ["0.safetensors", "1.safetensors", "2.safetensors"]


def test_what_cannot_be_averaged_is_refused(three, tmp_path):
    other = load_checkpoint(write_checkpoint(tmp_path / "other.safetensors", classes=5))
    renamed = dataclasses.replace(three[1].card, classes=three[1].card.classes[::-1])
    for checkpoints, method, fault in (
        (three[:1], "uniform", "at least two"),
        ([three[0], three[0]], "uniform", "the same weights"),
        ([three[0], other], "uniform", "its network .* with 5 classes"),
        ([three[0], dataclasses.replace(three[1], card=renamed)], "uniform", "its classes"),
        (three, "greedy", "pass --records"),
    ):
        with pytest.raises(ServeError, match=fault):
            average_checkpoints(checkpoints, method, None)


def test_the_command_writes_a_checkpoint_with_its_members(three, tmp_path):
    root = build_records(tmp_path / "records", [picture(n) for n in range(5)], [0, 1, 2, 3, 4])
    out = tmp_path / "soup.safetensors"
    paths = [str(checkpoint.path) for checkpoint in three[:2]]
    words = ["weights", "average", *paths, "--out", str(out), "--records", str(root)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    _, card = load_weights(Path(out))
    found = card.provenance["average"]
    assert found["method"] == "greedy"
    assert f"top-1 {found['val_correct']}/5 of val, written" in done.output
    assert found["val_correct"] >= max(row["val_correct"] for row in found["checkpoints"])
    again = CliRunner().invoke(main, [*words, "--json", "--progress", "json"])
    value = check_object(again.stdout, "convnext-serve weights average")
    assert (value["is_new"], value["method"], value["rows"]) == (False, "greedy", 5)
    assert value["top1_correct"] == found["val_correct"]
    assert [member["is_taken"] for member in value["members"]] == [row["taken"] for row in found["checkpoints"]]
    assert check_progress(again.stderr) == {"eval val": 15}, "two checkpoints and their average, five rows each"


def test_an_average_without_records_counts_nothing(three, tmp_path):
    paths = [str(checkpoint.path) for checkpoint in three]
    done = CliRunner().invoke(main, ["weights", "average", *paths, "--out", str(tmp_path / "soup"), "--json"])
    value = check_object(done.stdout, "convnext-serve weights average")
    assert (value["is_new"], value["method"], value["rows"], value["top1_correct"]) == (True, "uniform", None, None)
    assert all(member["is_taken"] and member["top1_correct"] is None for member in value["members"])
