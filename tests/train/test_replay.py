"""A replayed sample is what the network saw of it in the batch of the run."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor

from convnext_imagenet.records.reader import Records
from convnext_imagenet.train.augment.device import DeviceAugment, graph_draws
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.schedule import plan_steps
from convnext_imagenet.train.data.pipeline import Batch, batches
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.replay import replay_sample
from convnext_imagenet.train.step.parameters import evaluation_transform

EPOCH = 2


@pytest.fixture(scope="module")
def whole(config: Config) -> Config:
    """The configuration with mixed pairs, each drawn by itself, and one micro-batch to a step."""
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, accumulate_steps=1),
        mix=dataclasses.replace(config.mix, mode="elem"),
    )


@pytest.fixture(scope="module")
def records(records_root: Path) -> Records:
    return Records.open(records_root)


@pytest.fixture(scope="module")
def epoch(whole: Config, records: Records) -> list[Batch]:
    split = records.split("train")
    return list(batches(split, whole, plan_steps(whole, split.rows), EPOCH, workers=1))


@pytest.mark.slow
def test_the_picture_and_the_target_are_those_of_the_runs_batch(
    whole: Config, records: Records, epoch: list[Batch]
) -> None:
    transform = evaluation_transform(whole.data)
    augment = DeviceAugment(whole.augment, transform, whole.train.seed)
    keys = {row["sample_id"]: row["key"] for row in records.split("train").read(range(34), ("sample_id", "key"))}
    step, batch = 3, epoch[2]
    x_NHWC = augment(Tensor(batch.pixels), graph_draws(batch.draws)).asnumpy()
    levels_NHWC = np.clip(np.rint((x_NHWC * transform.std + transform.mean) * 255.0), 0, 255)
    for n in (0, 2, 5, 7):
        sample = replay_sample(whole, records, keys[batch.sample_ids[n]], EPOCH)
        assert sample.step == step
        assert np.abs(sample.pixels.astype(int) - levels_NHWC[n]).max() <= 1
        lam = float(batch.draws.mix_lam[n])
        own, partner = keys[batch.sample_ids[n]], keys[batch.sample_ids[7 - n]]
        assert sample.shares == (((own, lam), (partner, 1 - lam)) if lam != 1 else ((own, 1.0),))
    assert len({float(lam) for lam in batch.draws.mix_lam}) > 4, "rows are told apart by their draws"


def test_a_row_of_the_last_incomplete_batch_was_not_seen(whole: Config, records: Records, epoch: list[Batch]) -> None:
    seen = {int(sample_id) for batch in epoch for sample_id in batch.sample_ids}
    rows = records.split("train").read(range(34), ("sample_id", "key"))
    (first, *_) = [row["key"] for row in rows if row["sample_id"] not in seen]
    with pytest.raises(TrainError, match=f"{first}: epoch 2 skips this image"):
        replay_sample(whole, records, first, EPOCH)


@pytest.mark.parametrize("number", [0, 5])
def test_an_epoch_outside_of_the_run_is_refused(whole: Config, records: Records, number: int) -> None:
    with pytest.raises(TrainError, match=rf"--epoch {number}: the run has only epochs 1 to 4; choose one of them"):
        replay_sample(whole, records, "n00000001_0", number)


def test_a_row_of_val_is_refused(whole: Config, make_records: Any, tmp_path: Path) -> None:
    build_records, make_rows = make_records
    rows = make_rows(20)
    records = Records.open(build_records(tmp_path / "records", rows[:16], rows[16:]))
    with pytest.raises(
        TrainError, match=f"{rows[17].key}: is in split 'val', but training uses only train; choose a key of train"
    ):
        replay_sample(whole, records, rows[17].key, EPOCH)
