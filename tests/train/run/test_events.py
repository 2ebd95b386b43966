"""TensorBoard reads back what a run has written, and nothing twice after a resume."""

import dataclasses
from pathlib import Path

import pytest

from convnext_imagenet.train.run.epoch import EpochReport, StepReport

pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")

STEP = StepReport(1, 1, 1, 8, 2.5, 1e-3, 0.7, True, 1.0)
EPOCH = EpochReport(1, 4, 4, 2.0, 1.9, 0.25, 1e-3, 0, 10.0, 0.1, 1.0, 0.0, None, None)


def test_scalars_are_read_back_and_steps_after_a_resume_are_not_there_twice(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from convnext_imagenet.train.run.events import Events

    for done, losses in ((0, (3.0, 2.5, 2.4)), (2, (2.0, 1.5))):
        events = Events(tmp_path, done)
        for number, loss in enumerate(losses, done + 1):
            events.on_step(dataclasses.replace(STEP, steps_done=number, loss=loss))
        events.on_epoch(EPOCH)
        events.close()
    found = EventAccumulator(str(tmp_path / "events")).Reload()
    assert [(each.step, each.value) for each in found.Scalars("step/loss")] == [(1, 3.0), (2, 2.5), (3, 2.0), (4, 1.5)]
    assert found.Scalars("epoch/train_loss")[-1].value == 2.0
    assert "epoch/val_top1" not in found.Tags()["scalars"]
