"""ReaL: joined by the number in the key, official indices alone, and no file that is something else."""

import hashlib
import json

import numpy as np
import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.report import real_labels
from convnext_imagenet.serve.report.numbers import ScoredRows
from convnext_imagenet.serve.report.real_labels import RealAccuracy, official_indices, read_real, val_number

WNIDS = [f"n{index:08d}" for index in range(1000)]


def key(number):
    return f"ILSVRC2012_val_{number:08d}"


def scored(numbers, guesses):
    return ScoredRows(
        labels=np.zeros(len(numbers), np.int32),
        guesses=np.array(guesses, np.int32)[:, None],
        confidences=np.full(len(numbers), 0.5, np.float32),
        keys=tuple(key(number) for number in numbers),
        losses=np.zeros(len(numbers)),
    )


@pytest.fixture(autouse=True)
def _made_up_classes_are_official(monkeypatch):
    digest = hashlib.sha256("".join(f"{wnid}\n" for wnid in WNIDS).encode()).hexdigest()
    monkeypatch.setattr(real_labels, "OFFICIAL_WNIDS_SHA256", digest)


@pytest.fixture
def real_file(tmp_path):
    def write(changes):
        entries = [[number % 1000] for number in range(1, 50_001)]
        for number, entry in changes.items():
            entries[number - 1] = entry
        path = tmp_path / "real.json"
        path.write_text(json.dumps(entries))
        return path

    return write


def test_rows_find_their_labels_by_number_whatever_their_order_and_gaps(real_file):
    labels = read_real(real_file({7: [3, 9], 50_000: [0], 2: []}), WNIDS)
    found = labels.count(scored([50_000, 7, 1, 2, 8], [0, 9, 5, 2, 8]))
    assert found == RealAccuracy(rows=4, correct=3, unlabelled=1)
    assert found.accuracy == 3 / 4


def test_images_without_labels_are_neither_right_nor_wrong(real_file):
    found = read_real(real_file({1: [], 2: []}), WNIDS).count(scored([1, 2], [1, 2]))
    assert found == RealAccuracy(rows=0, correct=0, unlabelled=2)
    assert found.accuracy is None


def test_a_network_with_its_classes_in_another_order_is_translated(real_file):
    backwards = read_real(real_file({1: [999], 2: [998], 3: [0]}), WNIDS[::-1])
    assert backwards.count(scored([1, 2, 3], [0, 1, 0])) == RealAccuracy(rows=3, correct=2, unlabelled=0)


@pytest.mark.parametrize(
    "wnids", [WNIDS[:10], WNIDS[:-1], [*WNIDS[:-1], "n99999999"], [*WNIDS, "n99999999"], [*WNIDS[:-1], WNIDS[0]]]
)
def test_other_classes_are_refused_with_the_reason(wnids, real_file):
    with pytest.raises(
        ServeError, match=rf"\({len(wnids):,} classes\) are not the official 1,000\. ReaL labels are ranks among these"
    ):
        read_real(real_file({}), wnids)


def test_the_constant_is_of_a_thousand_lines_and_not_of_made_up_ones(monkeypatch):
    monkeypatch.undo()
    assert len(real_labels.OFFICIAL_WNIDS_SHA256) == 64
    with pytest.raises(ServeError):
        official_indices(WNIDS)


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("[[1], [2]]", ServeError, "holds a list of 2, not a list of 50,000"),
        (json.dumps([[1]] * 50_001), ServeError, "a list of 50,001"),
        ("{}", ServeError, "a JSON dict"),
        ("null", ServeError, "a JSON NoneType"),
        (json.dumps([[1]] * 49_999 + [[1000]]), ServeError, r"entry 50000 is '\[1000\]'"),
        (json.dumps([[-1]] + [[1]] * 49_999), ServeError, r"entry 1 is '\[-1\]'"),
        (json.dumps([7] + [[1]] * 49_999), ServeError, "entry 1 is '7'"),
        (json.dumps([["1"]] + [[1]] * 49_999), ServeError, "entry 1 is"),
        (json.dumps([[1.0]] + [[1]] * 49_999), ServeError, "entry 1 is"),
        (json.dumps([[True]] + [[1]] * 49_999), ServeError, "entry 1 is"),
        ("[[1], [2", ArtefactError, "not valid JSON"),
        ("", ArtefactError, "not valid JSON"),
    ],
)
def test_files_that_are_no_real_labels(tmp_path, text, error, match):
    (tmp_path / "real.json").write_text(text)
    with pytest.raises(error, match=match):
        read_real(tmp_path / "real.json", WNIDS)


def test_a_missing_file(tmp_path):
    with pytest.raises(ArtefactError, match="no such file"):
        read_real(tmp_path / "real.json", WNIDS)


@pytest.mark.parametrize(
    "text",
    [
        "n01440764_10026", "ILSVRC2012_val_1", "ILSVRC2012_val_00000000", "ILSVRC2012_val_00050001",
        "ILSVRC2012_val_00000001.JPEG", "xILSVRC2012_val_00000001", "ILSVRC2012_test_00000001", "",
        "ILSVRC2012_val_0000000\u0661", "ILSVRC2012_val_00000001\n",
    ],
)  # fmt: skip
def test_keys_without_a_number_are_refused(text):
    with pytest.raises(ServeError, match="is not the key of a val image"):
        val_number(text)


def test_numbers_of_keys():
    assert [val_number(key(number)) for number in (1, 50_000)] == [1, 50_000]
