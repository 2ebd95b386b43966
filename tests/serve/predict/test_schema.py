"""What the columns beside the best classes hold: the truth, features, logits, averages over mirror images."""

import dataclasses
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from convnext_imagenet.records.images import decode_rgb
from convnext_imagenet.serve.batching import network_outputs
from convnext_imagenet.serve.checkpoint import load_checkpoint
from convnext_imagenet.serve.engine import open_engine
from convnext_imagenet.serve.inputs.files import list_folder
from convnext_imagenet.serve.inputs.records import open_split
from convnext_imagenet.serve.inputs.storage import local_file
from convnext_imagenet.serve.inputs.tables import open_table
from convnext_imagenet.serve.predict.job import open_job
from convnext_imagenet.serve.predict.schema import SCHEMA
from convnext_imagenet.serve.predict.verify import verify_predictions
from convnext_imagenet.serve.samples import read_sample
from convnext_imagenet.serve.scoring import probabilities
from convnext_imagenet.serve.settings import PredictOptions

from ..conftest import TRANSFORM, build_records, class_table, picture

OPTIONS = PredictOptions(topk=3, part_rows=4, batch_size=3, workers=2)
WNIDS = [wnid for wnid, _ in class_table(7)]


def _predict(checkpoint, inputs, out, **changes):
    with open_job(checkpoint, inputs, out, dataclasses.replace(OPTIONS, **changes)) as job:
        job.run(lambda count: None)
    assert verify_predictions(out).problems == ()
    return pq.read_table(out).to_pylist()


def _levels(count):
    """Pictures of one gray each, which the fake network puts into classes by their level."""
    pictures = []
    for number in range(count):
        buffer = io.BytesIO()
        level = 60 + round(130 * (number % 7) / 6)
        Image.fromarray(np.full((40, 40, 3), level, np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    return pictures


def test_labels_of_records_stand_beside_the_answers(fake, tmp_path):
    labels = [0, 1, 2, 0, 4, 5, 6, 0, 2]  # right but for numbers 3 and 8
    inputs = open_split(build_records(tmp_path / "records", _levels(9), labels), "val", WNIDS)
    rows = _predict(fake, inputs, tmp_path / "out")
    assert [row["source"] for row in rows] == [f"val_{number}" for number in range(9)]
    assert [row["top1_index"] for row in rows] == [number % 7 for number in range(9)]
    assert [row["label"] for row in rows] == labels
    assert [row["correct"] for row in rows] == [number not in (3, 8) for number in range(9)]
    assert pq.read_schema(tmp_path / "out" / "part-00000.parquet").remove_metadata().equals(SCHEMA)


def test_a_class_that_the_network_lacks_is_neither_right_nor_wrong(fake, tmp_path):
    records = build_records(tmp_path / "records", _levels(4), [0, 7, 2, 2], classes=8)
    rows = _predict(fake, open_split(records, "val", WNIDS), tmp_path / "out")
    assert [(row["label"], row["correct"]) for row in rows] == [(0, True), (None, None), (2, True), (2, False)]


def test_a_stored_image_that_cannot_be_read_keeps_its_label_and_is_not_counted_as_wrong(fake, tmp_path):
    records = build_records(tmp_path / "records", [*_levels(2), b"damaged"], [0, 1, 2])
    *_, last = _predict(fake, open_split(records, "val", WNIDS), tmp_path / "out")
    assert (last["status"], last["label"], last["correct"], last["topk"]) == ("unsupported", 2, None, None)


def test_inputs_without_labels_leave_the_columns_of_the_truth_empty(fake, folder, tmp_path):
    rows = _predict(fake, list_folder(folder), tmp_path / "out")
    assert {(row["label"], row["correct"]) for row in rows} == {(None, None)}


def _batches_by_hand(checkpoint, inputs, size=3, part=4):
    """Every picture's logits and features, computed batch by batch as the job makes them; None for no picture."""
    engine, outputs = open_engine("mindspore", checkpoint, with_features=True), []
    pixels = [read_sample(item, 0, TRANSFORM).pixels for item in inputs.items(range(inputs.count))]
    for first in range(0, len(pixels), part):
        for start in range(first, min(first + part, len(pixels)), size):
            batch = pixels[start : min(start + size, first + part, len(pixels))]
            if any(picture is not None for picture in batch):
                found = zip(*network_outputs(engine, batch, size), strict=True)
                outputs += [None if picture is None else pair for picture, pair in zip(batch, found, strict=True)]
            else:
                outputs += [None] * len(batch)
    return outputs


def test_features_and_logits_are_the_networks_own(checkpoint_file, folder, tmp_path):
    checkpoint, inputs = load_checkpoint(checkpoint_file), list_folder(folder)
    rows = _predict(checkpoint, inputs, tmp_path / "out", extras=("features", "logits"))
    for row, expected in zip(rows, _batches_by_hand(checkpoint, inputs), strict=True):
        if expected is None:
            assert (row["features"], row["logits"]) == (None, None)
            continue
        logits_K, features_C = expected
        assert (len(row["logits"]), len(row["features"])) == (7, 32)
        assert np.array_equal(np.array(row["logits"], np.float32), logits_K)
        assert np.array_equal(np.array(row["features"], np.float32), features_C)
        assert row["top1_index"] == int(logits_K.argmax())
        assert row["top1_score"] == probabilities(logits_K[None]).max()
    assert len({tuple(row["logits"]) for row in rows if row["logits"]}) == 6, "every picture has its own"


@pytest.mark.parametrize("extras", [(), ("features",), ("logits",), ("features", "logits")])
def test_extra_columns_come_last_and_only_when_asked_for(fake, folder, tmp_path, extras):
    rows = _predict(fake, list_folder(folder), tmp_path / "out", extras=extras)
    schema = pq.read_schema(tmp_path / "out" / "part-00002.parquet")
    assert schema.names == [*SCHEMA.names, *extras]
    for name, length in (("features", 3), ("logits", 7)):
        if name in extras:
            assert schema.field(name).type == pa.list_(pa.float32())
            assert {row[name] and len(row[name]) for row in rows} == {None, length}


def test_a_flip_averages_the_logits_of_an_image_and_its_mirror_image(fake, tmp_path):
    """The fake network sees the left edge alone, so that mirror images differ."""
    edge = dataclasses.replace(
        fake, logits=lambda pixels_NHWC: pixels_NHWC[:, :7, 0, 0].astype(np.float32) / 50 - pixels_NHWC[:, :7, 1, 0]
    )
    (tmp_path / "images").mkdir()
    images = [picture(seed, 40, 40, form="PNG") for seed in range(6)]
    for number, data in enumerate(images):
        (tmp_path / "images" / f"{number}.png").write_bytes(data)
        mirrored = Image.fromarray(np.ascontiguousarray(decode_rgb(data)[:, ::-1]))
        mirrored.save(tmp_path / "images" / f"{number}-mirrored.png")
    inputs = list_folder(tmp_path / "images")
    plain = _predict(edge, inputs, tmp_path / "plain", extras=("logits",))
    both = _predict(edge, inputs, tmp_path / "both", extras=("logits",), flip=True)
    for image, mirror in zip(range(1, 12, 2), range(0, 12, 2), strict=True):
        one, other = (np.array(plain[place]["logits"], np.float32) for place in (image, mirror))
        assert not np.array_equal(one, other)
        for place in (image, mirror):
            assert np.array_equal(np.array(both[place]["logits"], np.float32), (one + other) / 2)
        assert both[image]["topk"] == both[mirror]["topk"]


def test_every_kind_of_input_gives_the_same_answers(fake, tmp_path):
    images = [picture(seed) for seed in range(6)]
    (tmp_path / "images").mkdir()
    for number, data in enumerate(images):
        (tmp_path / "images" / f"val_{number}").write_bytes(data)
    pq.write_table(pa.table({"image": images}), tmp_path / "t.parquet", row_group_size=4)
    records = build_records(tmp_path / "records", images, [0] * 6)
    kinds = {
        "files": list_folder(tmp_path / "images"),
        "table": open_table(local_file(tmp_path / "t.parquet")),
        "records": open_split(records, "val", WNIDS),
    }
    answers = {name: _predict(fake, inputs, tmp_path / f"of {name}") for name, inputs in kinds.items()}
    for rows in answers.values():
        for name in ("sample_id", "sha256", "status", "topk", "width"):
            assert [row[name] for row in rows] == [row[name] for row in answers["files"]]
