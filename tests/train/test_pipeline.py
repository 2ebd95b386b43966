"""Batches: the right rows in the right order with the right pixels, for any number of workers."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.records.images import decode_rgb
from convnext_imagenet.records.order import epoch_order
from convnext_imagenet.records.reading import Records, Split
from convnext_imagenet.train.config import Config
from convnext_imagenet.train.draws import crop_box, flips
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.pipeline import Batch, batches, training_pixels
from convnext_imagenet.train.plan import plan_steps

EPOCH = 3


@pytest.fixture(scope="module")
def split(records_root: Path) -> Split:
    return Records.open(records_root).split("train")


def _batches(split: Split, config: Config, workers: int = 1, first_step: int = 0) -> list[Batch]:
    return list(batches(split, config, plan_steps(config, split.rows), EPOCH, workers, first_step))


def _assert_equal(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        for part in dataclasses.fields(Batch):
            np.testing.assert_array_equal(getattr(a, part.name), getattr(b, part.name), err_msg=part.name)


def test_batches_follow_the_epoch_order_and_drop_the_rest(split: Split, config: Config) -> None:
    found = _batches(split, config)
    size = config.data.global_batch_size
    assert len(found) == split.rows // size == 4
    order = epoch_order(split.rows, config.train.seed, EPOCH)[: 4 * size]
    rows = list(split.read(order, ("image", "label", "sample_id")))
    assert [i for batch in found for i in batch.sample_ids] == [row["sample_id"] for row in rows]
    assert [i for batch in found for i in batch.labels] == [row["label"] for row in rows]
    first = found[0]
    assert (first.pixels.shape, first.pixels.dtype) == ((size, 32, 32, 3), np.uint8)
    assert (first.labels.dtype, first.flip.dtype) == (np.int32, bool)
    np.testing.assert_array_equal(first.flip, flips(config.train.seed, EPOCH, first.sample_ids, 0.5))
    for pixels, row in zip(first.pixels, rows, strict=False):
        np.testing.assert_array_equal(pixels, training_pixels(row["image"], config, EPOCH, row["sample_id"]))


def test_one_and_two_workers_give_the_same_batches(split: Split, config: Config, workers: int) -> None:
    if workers < 2:
        pytest.skip("this machine has one core")
    _assert_equal(_batches(split, config, workers=1), _batches(split, config, workers=2))


@pytest.mark.parametrize("first_step", [1, 3])
def test_an_epoch_resumes_at_any_step(split: Split, config: Config, first_step: int) -> None:
    _assert_equal(_batches(split, config)[first_step:], _batches(split, config, first_step=first_step))


def test_pixels_are_a_crop_resized_by_pillow(config: Config) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)).save(buffer, "PNG")
    image = buffer.getvalue()
    top, left, height, width = crop_box(0, EPOCH, 7, 90, 70, (0.5, 1.0), (3 / 4, 4 / 3))
    crop = Image.fromarray(decode_rgb(image)).crop((left, top, left + width, top + height))
    expected = np.asarray(crop.resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(training_pixels(image, config, EPOCH, 7), expected)


def test_a_row_that_does_not_decode_is_named(
    tmp_path: Path, config: Config, make_records: tuple[Callable, ...]
) -> None:
    build_records, make_rows = make_records
    rows = make_rows(10)
    rows[4] = dataclasses.replace(rows[4], image=rows[4].image[:200])
    split = Records.open(build_records(tmp_path / "records", rows, make_rows(3))).split("train")
    with pytest.raises(TrainError, match=r"sample_id 4: truncated.*convnext-records verify"):
        _batches(split, dataclasses.replace(config, data=dataclasses.replace(config.data, global_batch_size=10)))
