"""Batches: the right rows in the right order with the right pixels, for any number of workers, parts and ranks."""

import dataclasses
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.launch.ranks.rank import Rank
from convnext_imagenet.records.epoch_order import balanced_order, epoch_order
from convnext_imagenet.records.folds import folds_of, group_copies, stored_sha256s, write_copies
from convnext_imagenet.records.images import decode_rgb
from convnext_imagenet.records.reader import Records, Split
from convnext_imagenet.train.augment.crop import crop_box
from convnext_imagenet.train.augment.device import device_draws
from convnext_imagenet.train.augment.flip import flips
from convnext_imagenet.train.augment.host import training_pixels
from convnext_imagenet.train.augment.randaugment import draw_ops
from convnext_imagenet.train.augment.randaugment_host import apply_ops
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.policy import parse_policy
from convnext_imagenet.train.config.schedule import local_positions, plan_steps
from convnext_imagenet.train.data.order import step_sample_ids, training_order, training_rows
from convnext_imagenet.train.data.pipeline import Batch, StageTimes, batches
from convnext_imagenet.train.errors import TrainError

EPOCH = 3


@pytest.fixture(scope="module")
def split(records_root: Path) -> Split:
    return Records.open(records_root).split("train")


@pytest.fixture(scope="module")
def whole(config: Config) -> Config:
    """The configuration with one micro-batch to a step."""
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, accumulate_steps=1))


WHOLE = Rank()


def _batches(split: Split, config: Config, workers: int = 1, first_step: int = 0, rank: Rank = WHOLE) -> list[Batch]:
    plan = plan_steps(config, split.rows)
    return list(batches(split, config, plan, EPOCH, workers, first_step, (0.0, 0.2), rank))


def _arrays(batch: Batch) -> dict[str, np.ndarray]:
    drawn = {name: value for name, value in batch.draws._asdict().items() if value is not None}
    return {"pixels": batch.pixels, "labels": batch.labels, "sample_ids": batch.sample_ids, **drawn}


def _assert_equal(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(map(_arrays, one), map(_arrays, other), strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            np.testing.assert_array_equal(value, b[name], err_msg=name)


def test_batches_follow_the_epoch_order_and_drop_the_rest(split: Split, whole: Config) -> None:
    found = _batches(split, whole)
    size = whole.data.global_batch_size
    assert len(found) == split.rows // size == 4
    order = epoch_order(split.rows, whole.train.seed, EPOCH)[: 4 * size]
    rows = list(split.read(order, ("image", "label", "sample_id")))
    assert [i for batch in found for i in batch.sample_ids] == [row["sample_id"] for row in rows]
    assert [i for batch in found for i in batch.labels] == [row["label"] for row in rows]
    first = found[0]
    assert (first.pixels.shape, first.pixels.dtype) == ((size, 32, 32, 3), np.uint8)
    assert first.labels.dtype == np.int32
    for pixels, row in zip(first.pixels, rows, strict=False):
        np.testing.assert_array_equal(pixels, _pixels(row["image"], whole, row["sample_id"]))
    assert step_sample_ids(split, whole, EPOCH, 2) == found[2].sample_ids.tolist()
    drawn = device_draws(whole, EPOCH, 2, found[2].sample_ids, (0.0, 0.2))
    np.testing.assert_array_equal(found[2].draws.mix_lam, drawn.mix_lam)
    np.testing.assert_array_equal(found[2].draws.keep, drawn.keep)


def test_batches_follow_the_block_order_where_one_is_asked_for(split: Split, whole: Config) -> None:
    blocks = dataclasses.replace(whole, data=dataclasses.replace(whole.data, shuffle_block_rows=2))
    found = _batches(split, blocks)
    order = epoch_order(split.rows, whole.train.seed, EPOCH, block_rows=2)[: 4 * whole.data.global_batch_size]
    assert [i for batch in found for i in batch.sample_ids] == [row["sample_id"] for row in split.read(order)]
    assert order.tolist() != epoch_order(split.rows, whole.train.seed, EPOCH)[: len(order)].tolist()


def test_a_left_out_fold_is_never_visited(split: Split, whole: Config, tmp_path: Path) -> None:
    fold = folds_of(split, 3)
    left = dataclasses.replace(whole, data=dataclasses.replace(whole.data, leave_out="2/3"))
    balanced = dataclasses.replace(left, data=dataclasses.replace(left.data, balance_power=0.5))
    kept = np.flatnonzero(fold != 2)
    assert 0 < len(kept) < split.rows
    assert training_rows(split, left).tolist() == kept.tolist()
    assert sorted(training_order(split, left, EPOCH).rows) == kept.tolist()
    assert (fold[training_order(split, balanced, EPOCH).rows] != 2).all()
    assert training_order(split, left, 1).rows.tolist() != training_order(split, left, 2).rows.tolist()
    digests = stored_sha256s(split)
    moved = next(row for row in range(1, split.rows) if fold[row] != fold[0])
    copies = write_copies(tmp_path, group_copies([(digests[0], digests[moved])]))
    joined = dataclasses.replace(left, data=dataclasses.replace(left.data, copies=str(copies)))
    assert {0, moved} & set(training_rows(split, joined).tolist()) in ({0, moved}, set())
    everything = training_order(split, whole, EPOCH).rows
    assert everything.tolist() == epoch_order(split.rows, whole.train.seed, EPOCH).tolist()


def test_one_two_and_four_workers_give_the_same_batches(split: Split, config: Config) -> None:
    for workers in (2, 4):
        _assert_equal(_batches(split, config, workers=1), _batches(split, config, workers=workers))


@pytest.mark.parametrize("first_step", [1, 3])
def test_an_epoch_resumes_at_any_step(split: Split, config: Config, first_step: int) -> None:
    _assert_equal(_batches(split, config)[2 * first_step :], _batches(split, config, first_step=first_step))
    assert _batches(split, config, first_step=4) == []


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize(("ranks", "parts"), [(1, 2), (2, 1), (2, 2), (4, 1), (1, 4)])
def test_ranks_and_parts_together_are_the_global_batch(
    split: Split, whole: Config, ranks: int, parts: int, mode: str
) -> None:
    """The same rows, pixels, draws, and the partner of the global batch for each row."""
    mixed = dataclasses.replace(whole, mix=dataclasses.replace(whole.mix, mode=mode))
    section = dataclasses.replace(whole.optimizer, accumulate_steps=parts)
    divided = dataclasses.replace(mixed, optimizer=section)
    shares = [_batches(split, divided, rank=Rank(rank, ranks)) for rank in range(ranks)]
    for step, batch in enumerate(_batches(split, mixed)):
        expected = {
            int(key): {name: value[row] for name, value in _arrays(batch).items()}
            | {"partner": batch.sample_ids[len(batch.sample_ids) - 1 - row]}
            for row, key in enumerate(batch.sample_ids)
        }
        seen = []
        for one in (each for share in shares for each in share[step * parts : (step + 1) * parts]):
            for row, key in enumerate(one.sample_ids):
                seen.append(int(key))
                assert one.sample_ids[len(one.sample_ids) - 1 - row] == expected[int(key)]["partner"]
                for name, value in _arrays(one).items():
                    np.testing.assert_array_equal(value[row], expected[int(key)][name], err_msg=name)
        assert sorted(seen) == sorted(expected)


def test_balanced_epochs_repeat_rows_with_other_draws_and_are_the_same_for_any_ranks(
    tmp_path: Path, config: Config, make_records: tuple[Callable, ...]
) -> None:
    build_records, make_rows = make_records
    uneven = [row for row in make_rows(60) if row.label == 0 or row.sample_id < 24]
    rows = [dataclasses.replace(row, sample_id=at) for at, row in enumerate(uneven)]
    split = Records.open(build_records(tmp_path / "records", rows, make_rows(7))).split("train")
    balanced = dataclasses.replace(config, data=dataclasses.replace(config.data, balance_power=1.0))
    labels = np.array([row["label"] for row in split.read(range(split.rows))])
    np.testing.assert_array_equal(split.labels(), labels)
    order = balanced_order(labels, config.train.seed, EPOCH, 1.0)
    shares = {ranks: [_batches(split, balanced, rank=Rank(rank, ranks)) for rank in range(ranks)] for ranks in (1, 2)}
    for step in range(4):
        found = {}
        for ranks, by_rank in shares.items():
            parts = [batch for one in by_rank for batch in one[2 * step : 2 * step + 2]]
            at = np.concatenate([local_positions(8, part, 2 * ranks) for part in range(2 * ranks)])
            joined = {
                name: np.concatenate([_arrays(part)[name] for part in parts])[np.argsort(at)]
                for name in _arrays(parts[0])
            }
            found[ranks] = joined
        for name, value in found[1].items():
            np.testing.assert_array_equal(found[2][name], value, err_msg=name)
        assert found[1]["labels"].tolist() == labels[order[8 * step : 8 * step + 8]].tolist()
    _assert_equal(_batches(split, balanced)[4:], _batches(split, balanced, first_step=2))
    ids = [int(sample_id) for batch in shares[1][0] for sample_id in batch.sample_ids]
    pixels = [image for batch in shares[1][0] for image in batch.pixels]
    twice = next(sample_id for sample_id in ids if ids.count(sample_id) > 1)
    first, second = [image for image, sample_id in zip(pixels, ids, strict=True) if sample_id == twice][:2]
    assert (first != second).any(), "the same row is cropped in another way when it comes again"


def _pixels(image: bytes, config: Config, sample_id: int) -> np.ndarray:
    pixels = np.empty((1, config.data.size_px, config.data.size_px, 3), np.uint8)
    training_pixels([image], config, EPOCH, np.array([sample_id]), pixels)
    return pixels[0]


def _file(height: int, width: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK")])
def test_pixels_are_a_crop_resized_mirrored_and_augmented_as_pillow_does(config: Config, kind: str, mode: str) -> None:
    image, augment = _file(90, 70, kind, mode), config.augment
    mirrored = set()
    for sample_id in range(12):
        box = crop_box(0, EPOCH, sample_id, 90, 70, augment.crop_scale, augment.crop_ratio)
        top, left, height, width = box
        crop = Image.fromarray(decode_rgb(image)).crop((left, top, left + width, top + height))
        expected = np.asarray(crop.resize((32, 32), Image.Resampling.BICUBIC))
        flip = bool(flips(0, EPOCH, np.array([sample_id]), 0.5)[0])
        mirrored.add(flip)
        expected = apply_ops(
            expected[:, ::-1].copy() if flip else expected,
            draw_ops(parse_policy(augment.auto_augment), 0, EPOCH, sample_id),
        )
        np.testing.assert_array_equal(_pixels(image, config, sample_id), expected)
    assert mirrored == {True, False}


def test_what_the_device_does_is_not_done_on_the_host(config: Config) -> None:
    device = dataclasses.replace(config, augment=dataclasses.replace(config.augment, device="all"))
    none = dataclasses.replace(config, augment=dataclasses.replace(config.augment, auto_augment=""))
    image = _file(60, 60)
    for sample_id in range(4):
        pixels = [_pixels(image, each, sample_id) for each in (device, none)]
        np.testing.assert_array_equal(*pixels)
    for each, has_ops in ((device, True), (none, False), (config, False)):
        draws = device_draws(each, EPOCH, 0, np.arange(4), ())
        assert (draws.op_ids is not None) == has_ops
        assert (draws.flip is None) == (each is config)


def test_random_interpolation_is_drawn_by_sample(config: Config) -> None:
    augment = dataclasses.replace(config.augment, auto_augment="")
    image = _file(60, 60)
    kinds = {}
    for kind in ("bicubic", "bilinear", "random"):
        each = dataclasses.replace(config, augment=dataclasses.replace(augment, interpolation=kind))
        kinds[kind] = [_pixels(image, each, sample_id).tobytes() for sample_id in range(20)]
    chosen = ["bicubic" if r == b else "bilinear" for r, b in zip(kinds["random"], kinds["bicubic"], strict=True)]
    assert set(chosen) == {"bicubic", "bilinear"}
    assert kinds["random"] == [kinds[kind][place] for place, kind in enumerate(chosen)]


def test_leaving_early_and_being_stopped_leave_no_thread(split: Split, config: Config) -> None:
    before = threading.active_count()
    plan = plan_steps(config, split.rows)
    for _ in range(5):
        iterator = batches(split, config, plan, EPOCH, 2)
        next(iterator)
        iterator.close()

    def stop() -> None:
        raise Interrupted("stop")

    with pytest.raises(Interrupted):
        list(batches(split, config, plan, EPOCH, 2, on_wait=stop))
    for _ in range(50):
        if threading.active_count() == before:
            return
        time.sleep(0.1)
    pytest.fail(f"{threading.active_count()} threads, {before} before")


def test_stages_tell_how_long_they_took(split: Split, config: Config) -> None:
    times = StageTimes()
    list(batches(split, config, plan_steps(config, split.rows), EPOCH, 2, times=times))
    assert times.read_s > 0
    assert times.decode_s > 0
    assert StageTimes(read_s=2.0, decode_s=3.0, decoders=2).slowest() == "reading"
    assert StageTimes(read_s=1.0, decode_s=3.0, decoders=2).slowest() == "decoding and resizing"


def test_a_row_that_does_not_decode_is_named(tmp_path: Path, whole: Config, make_records: tuple[Callable, ...]) -> None:
    build_records, make_rows = make_records
    rows = make_rows(10)
    rows[4] = dataclasses.replace(rows[4], image=rows[4].image[:200])
    split = Records.open(build_records(tmp_path / "records", rows, make_rows(3))).split("train")
    with pytest.raises(TrainError, match=r"sample_id 4: .*convnext-records verify"):
        _batches(split, dataclasses.replace(whole, data=dataclasses.replace(whole.data, global_batch_size=10)))
