"""Parts of PREDICTIONS made by the workers of a cluster, each with a network of its own.

Only paths and options travel to a worker, never images (DECISIONS, 2026-11-26).
"""

import functools
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.launch.executor import Executor, OnProgress
from convnext_imagenet.model.runtime import prepare
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.predict.job import PredictionJob
from convnext_imagenet.serve.predict.part_writer import PartWriter, plan_predictions
from convnext_imagenet.serve.predict.place import open_place
from convnext_imagenet.serve.predict.retries import read_retries
from convnext_imagenet.serve.predict.schema import part_file
from convnext_imagenet.serve.predict.spec import PredictionSpec


@dataclass(frozen=True)
class ClusterRunner:
    """Makes parts as units of `executor`, each opened from `spec`; calls `on_part` after each part.

    A stop goes to the executor, which then raises Interrupted.
    """

    executor: Executor
    spec: PredictionSpec
    on_part: Callable[[], None] = lambda: None

    def run(self, job: PredictionJob, on_progress: OnProgress) -> bool:
        """Make the pending parts on the cluster; return True. Raises what the executor raises, such as Interrupted."""
        folder = job.out.staging("")
        tasks = (
            PartTask(self.spec, index, job.writer.parts[index], folder / Path(part_file(index)).stem)
            for index in job.pending
        )
        self.executor.run(score_part, tasks, len(job.pending), on_progress, self.on_part)
        return True


@dataclass(frozen=True)
class PartTask:
    """One part to score; `staging` is a folder for this attempt only, and need not exist."""

    spec: PredictionSpec
    index: int
    inputs: range
    staging: Path

    @property
    def title(self) -> str:
        """Return the part's file and the numbers of its inputs, for messages."""
        return f"{part_file(self.index)} (inputs {self.inputs.start} to {self.inputs.stop - 1} of {self.spec.images})"

    def attempt(self, number: int) -> Self:
        """Return the same part with another staging folder: a lost node may still write to the old one."""
        return replace(self, staging=self.staging.with_name(f"{self.staging.name}.{number}"))


def score_part(task: PartTask, on_progress: OnProgress) -> None:
    """Score and publish one part; the network is built for the first part of a spec and kept in this process.

    Raises ServeError when this node sees another job than the one planned, or the network returns NaN.
    """
    shutil.rmtree(task.staging, ignore_errors=True)
    task.staging.mkdir(parents=True)
    _cached_writer(task.spec).write([task.index], task.staging, on_progress)
    shutil.rmtree(task.staging)


@functools.cache
def _cached_writer(spec: PredictionSpec) -> PartWriter:
    """Return the writer of this process. Raises ServeError when its weights or inputs are not those planned."""
    prepare(spec.options.device_target)
    checkpoint, inputs = spec.open()
    plan, place = plan_predictions(checkpoint, inputs, spec.options), open_place(spec.out)
    try:
        plan_id = place.join(plan)
    except ArtefactError as error:
        raise ServeError(
            f"node {socket.gethostname()} opens another job than the one that was planned: {error}; give all nodes the "
            f"same files and packages"
        ) from None
    return PartWriter(checkpoint, inputs, place, spec.options, plan, plan_id, read_retries(place))
