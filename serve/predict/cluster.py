"""Parts of PREDICTIONS made by the workers of a cluster, one network in each; what is sent to them are paths alone."""

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
from convnext_imagenet.serve.predict.job import IsStopped, Job
from convnext_imagenet.serve.predict.part_writer import PartMaker, plan_predictions
from convnext_imagenet.serve.predict.schema import part_file
from convnext_imagenet.serve.predict.spec import Order


@dataclass(frozen=True)
class PartTask:
    """One part to score; `staging` is this attempt's own folder, it need not exist."""

    order: Order
    index: int
    inputs: range
    staging: Path

    @property
    def title(self) -> str:
        """The part's file, and the numbers of its inputs."""
        return f"{part_file(self.index)} (inputs {self.inputs.start} to {self.inputs.stop - 1} of {self.order.images})"

    def attempt(self, number: int) -> Self:
        """The same part, staged in another folder."""
        return replace(self, staging=self.staging.with_name(f"{self.staging.name}.{number}"))


def score_part(task: PartTask, on_progress: OnProgress) -> None:
    """Score and publish one part, by the network that this process made for the first part of the same order."""
    shutil.rmtree(task.staging, ignore_errors=True)
    task.staging.mkdir(parents=True)
    _lasting_maker(task.order).make([task.index], task.staging, on_progress)
    shutil.rmtree(task.staging)


@functools.cache
def _lasting_maker(order: Order) -> PartMaker:
    """Weights, inputs and network of this process; ServeError when this node sees others than the driver planned."""
    prepare(order.options.device_target)
    checkpoint, inputs = order.open()
    plan = plan_predictions(checkpoint, inputs, order.options)
    try:
        plan_id = protocol.join(order.out, "predictions", plan)
    except ArtefactError as error:
        raise ServeError(f"node {socket.gethostname()} sees another job than the one it was sent: {error}") from None
    return PartMaker(checkpoint, inputs, order.out, order.options, plan, plan_id)


def maker_on(
    executor: Executor, order: Order, on_unit: Callable[[], None]
) -> Callable[[Job, OnProgress, IsStopped], bool]:
    """The `make_parts` of `Job.run` that has the pending parts made by `executor`; `on_unit` hears of each."""

    def make_parts(job: Job, on_progress: OnProgress, is_stopped: IsStopped) -> bool:
        folder = protocol.staging(job.out)
        tasks = (
            PartTask(order, index, job.parts[index], folder / Path(part_file(index)).stem) for index in job.pending
        )
        executor.run(score_part, tasks, len(job.pending), on_progress, on_unit)
        return True

    return make_parts
