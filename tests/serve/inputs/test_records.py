"""A split of records as inputs: stored bytes in stored order, labels as the network numbers its classes."""

import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.serve.inputs.records import open_split

from ..conftest import build_records, class_table, picture

IMAGES = [picture(seed) for seed in range(6)]
LABELS = [0, 3, 6, 1, 3, 0]
WNIDS = [wnid for wnid, _ in class_table(7)]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return build_records(tmp_path_factory.mktemp("split") / "records", IMAGES, LABELS)


def test_every_row_is_an_input_with_its_bytes_name_and_label(records):
    inputs = open_split(records, "val", WNIDS)
    items = list(inputs.items(range(inputs.count)))
    assert [item.load() for item in items] == IMAGES
    assert [item.source for item in items] == [f"val_{number}" for number in range(6)]
    assert [item.label for item in items] == LABELS


@pytest.mark.parametrize("numbers", [range(0), range(2, 3), range(3, 6)])
def test_a_range_is_read_alone(records, numbers):
    found = [(item.load(), item.label) for item in open_split(records, "val", WNIDS).items(numbers)]
    assert found == [(IMAGES[number], LABELS[number]) for number in numbers]


def test_labels_are_mapped_by_wnid_not_by_position(records):
    order = [4, 3, 0, 6, 5, 2, 1]
    network = [WNIDS[index] for index in order]
    items = open_split(records, "val", network).items(range(6))
    assert [network[item.label] for item in items] == [WNIDS[label] for label in LABELS]


def test_a_class_that_the_network_lacks_has_no_label(records):
    network = ["n00009999", *WNIDS[1:6]]  # without classes 0 and 6
    assert [item.label for item in open_split(records, "val", network).items(range(6))] == [None, 3, None, 1, 3, None]
    other = ["n00009999"]
    assert [item.label for item in open_split(records, "val", other).items(range(6))] == [None] * 6


def test_a_network_without_classes_keeps_the_records_labels(records):
    assert [item.label for item in open_split(records, "val", []).items(range(6))] == list(LABELS[:6])


def test_the_fingerprint_is_of_these_records_and_not_of_the_network(records, tmp_path):
    other = build_records(tmp_path / "other", IMAGES[:5], LABELS[:5])
    known = open_split(records, "val", WNIDS).sha256
    assert open_split(records, "val", WNIDS[::-1]).sha256 == known
    assert open_split(other, "val", WNIDS).sha256 != known


def test_predictions_may_not_lie_in_the_records(records, tmp_path):
    inputs = open_split(records, "val", WNIDS)
    for path in (records, records / "val", records / "val" / ".." / "out"):
        assert inputs.is_inside(path)
    assert not inputs.is_inside(records.parent / "out")


def test_another_split_unfinished_and_damaged_records_are_refused(records, tmp_path):
    with pytest.raises(ArtefactError, match="splits with rows: val"):
        open_split(records, "train", WNIDS)
    unfinished = build_records(tmp_path / "unfinished", IMAGES[:2], LABELS[:2])
    (unfinished / "_SUCCESS").unlink()
    with pytest.raises(ArtefactError, match="unfinished"):
        open_split(unfinished, "val", WNIDS)
    damaged = build_records(tmp_path / "damaged", IMAGES[:3], LABELS[:3])
    shard = next((damaged / "val").glob("*.mindrecord"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ArtefactError, match="content has changed"):
        open_split(damaged, "val", WNIDS)
