"""Writes TensorBoard events of a run if the extra `tensorboard` is installed; same numbers as metrics.jsonl.

TensorBoard is an extra because its writer needs gRPC and the packages of a web server (DECISIONS, 2026-11-24).
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convnext_imagenet.train.run.epoch import EpochReport, StepReport, metrics_line


def has_tensorboard() -> bool:
    """Return whether the extra is installed."""
    return importlib.util.find_spec("tensorboard") is not None


class Events:
    """Writes RUN/events. A resumed run makes TensorBoard forget the steps after `done`, because they run again."""

    def __init__(self, run: Path, done: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(run / "events"))
        self._writer.add_event(Event(session_log=SessionLog(status=SessionLog.START), step=done + 1))

    def on_step(self, report: StepReport) -> None:
        """Write loss, learning rate, gradient norm and loss scale of a step."""
        values = {"step/loss": report.loss, "step/learning_rate": report.learning_rate}
        values |= {"step/gradient_norm": report.gradient_norm, "step/loss_scale": report.loss_scale}
        self._add(values, report.steps_done)

    def on_epoch(self, report: EpochReport) -> None:
        """Write every number of the epoch's line in metrics.jsonl."""
        values = {f"epoch/{name}": value for name, value in metrics_line(report).items() if _is_scalar(value)}
        self._add(values, report.step)
        self._writer.flush()

    def close(self) -> None:
        """Write the remaining events to disk and close the file."""
        self._writer.close()

    def _add(self, values: Mapping[str, Any], step: int) -> None:
        scalars = [self._summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items()]
        self._writer.add_event(self._event(summary=self._summary(value=scalars), step=step))


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float)
