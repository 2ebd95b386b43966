"""Parts of PREDICTIONS made by the workers of a cluster, one network in each; they are sent paths only."""

import functools
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.launch.executor import Executor, OnProgress
from convnext_imagenet.model.runtime import prepare
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.predict.job import PredictionJob
from convnext_imagenet.serve.predict.part_writer import PartWriter, plan_predictions
from convnext_imagenet.serve.predict.schema import part_file
from convnext_imagenet.serve.predict.spec import PredictionSpec


@dataclass(frozen=True)
class ClusterRunner:
    """Makes parts as units of `executor`, each opened from `spec`; `on_part` is called as each is done.

    The executor is what can be stopped: it raises Interrupted then.
    """

    executor: Executor
    spec: PredictionSpec
    on_part: Callable[[], None] = lambda: None

    def run(self, job: PredictionJob, on_progress: OnProgress) -> bool:
        """See `PartRunner`."""
        folder = protocol.staging(job.out)
        tasks = (
            PartTask(self.spec, index, job.writer.parts[index], folder / Path(part_file(index)).stem)
            for index in job.pending
        )
        self.executor.run(score_part, tasks, len(job.pending), on_progress, self.on_part)
        return True


@dataclass(frozen=True)
class PartTask:
    """One part to score; `staging` is this attempt's own folder, it need not exist."""

    spec: PredictionSpec
    index: int
    inputs: range
    staging: Path

    @property
    def title(self) -> str:
        """Return the part's file, and the numbers of its inputs."""
        return f"{part_file(self.index)} (inputs {self.inputs.start} to {self.inputs.stop - 1} of {self.spec.images})"

    def attempt(self, number: int) -> Self:
        """Return the same part, staged in another folder."""
        return replace(self, staging=self.staging.with_name(f"{self.staging.name}.{number}"))


def score_part(task: PartTask, on_progress: OnProgress) -> None:
    """Score and publish one part, by the network that this process made for the first part of the same spec."""
    shutil.rmtree(task.staging, ignore_errors=True)
    task.staging.mkdir(parents=True)
    _cached_writer(task.spec).write([task.index], task.staging, on_progress)
    shutil.rmtree(task.staging)


@functools.cache
def _cached_writer(spec: PredictionSpec) -> PartWriter:
    """Return weights, inputs and network of this process; ServeError when they are not those that were planned."""
    prepare(spec.options.device_target)
    checkpoint, inputs = spec.open()
    plan = plan_predictions(checkpoint, inputs, spec.options)
    try:
        plan_id = protocol.join(spec.out, "predictions", plan)
    except ArtefactError as error:
        raise ServeError(f"node {socket.gethostname()} sees another job than the one it was sent: {error}") from None
    return PartWriter(checkpoint, inputs, spec.out, spec.options, plan, plan_id)
