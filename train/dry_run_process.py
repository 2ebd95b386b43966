"""The child process of a dry run: compiles the graphs of configurations as rank 0 of a job.

`python -m convnext_imagenet.train.dry_run_process JOB RESULT` reads and writes JSON files; `main` says what they hold.
In a simulation the graphs of a run are also called once; what they compute is meaningless.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

from convnext_imagenet.base.errors import ExpectedError
from convnext_imagenet.base.files import write_json
from convnext_imagenet.launch.ranks.collectives import join
from convnext_imagenet.launch.ranks.rank import Rank
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import init_parameters
from convnext_imagenet.model.runtime import prepare
from convnext_imagenet.train.augment.device import device_draws, graph_draws
from convnext_imagenet.train.config.config import Config, config_from_mapping
from convnext_imagenet.train.config.schedule import BatchParts, divide_batch, local_positions
from convnext_imagenet.train.data.pipeline import Batch
from convnext_imagenet.train.step.learner import Learner
from convnext_imagenet.train.step.parameters import evaluation_transform, network_config
from convnext_imagenet.train.step.precision import check_precision


@dataclass(frozen=True)
class CompiledRun:
    """The graphs of a run, compiled but not called, with the inputs to call them once; `_s` are seconds."""

    learner: Learner
    batches: list[Batch]
    images: ms.Tensor
    train_compile_s: float
    eval_compile_s: float

    def facts(self) -> dict[str, Any]:
        """Return JSON: the rows that a graph of training takes at a time, how often in a step, and the seconds."""
        return {
            "rows": len(self.batches[0].labels),
            "micro_batches": len(self.batches),
            "train_compile_s": self.train_compile_s,
            "eval_compile_s": self.eval_compile_s,
        }

    def call(self) -> dict[str, int]:
        """Call training and evaluation once; return the device's peak memory in bytes after each, as planned."""
        self.learner.learn(self.batches, rate=1e-3, decay=0.9).asnumpy()
        train_memory = ms.runtime.max_memory_allocated()
        self.learner.classifier(self.images).asnumpy()
        return {"train_memory": int(train_memory), "memory": int(ms.runtime.max_memory_allocated())}


def compile_run(config: Config, classes: int, ranks: int) -> CompiledRun:
    """Compile the graphs of a run of `ranks` devices in this process: training, augmentation alone, evaluation."""
    parts = divide_batch(config, ranks)
    learner = _learner(config, classes, parts)
    positions = local_positions(config.data.global_batch_size, 0, parts.devices * parts.micro_batches)
    pixels = np.zeros((len(positions), config.data.size_px, config.data.size_px, 3), np.uint8)
    draws = device_draws(config, 1, 0, positions, learner.drop_path_rates)
    batches = [Batch(pixels, np.zeros(len(positions), np.int32), positions, draws)] * learner.micro_batches

    begin = time.perf_counter()
    learner.compile(batches)
    train_compile_s = time.perf_counter() - begin
    learner.augment.compile(ms.Tensor(pixels), graph_draws(draws))

    begin = time.perf_counter()
    side = config.data.eval_size_px
    images = ms.Tensor(np.zeros((config.data.eval_batch_size, side, side, 3), np.uint8))
    learner.classifier.set_train(False)
    learner.classifier.compile(images)
    return CompiledRun(learner, batches, images, train_compile_s, time.perf_counter() - begin)


def main(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the runs of a job need, as JSON: {"runs": [facts, ...]}, or {"error": text}.

    `job` holds target, devices, classes, and configs: a list of configurations as nested mappings. Graphs are called
    after all are compiled, because MindSpore's runtime keeps a processor busy from the first call on.
    """
    try:
        prepare(job["target"])
        join(Rank(0, job["devices"], 0))
        runs = []
        for values in job["configs"]:
            config = config_from_mapping(values)
            check_precision(config.precision, job["target"])
            runs.append(compile_run(config, job["classes"], job["devices"]))
            _let_polling_threads_wait()
    except ExpectedError as error:
        return {"error": str(error)}
    if job["target"] == "CPU":  # a step would really be computed
        return {"runs": [run.facts() for run in runs]}
    return {"runs": [run.facts() | run.call() for run in runs]}


def _let_polling_threads_wait() -> None:
    """Let the threads that poll a simulated stream run only on idle processors: there a poll returns at once."""
    own = threading.get_native_id()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended
            if int(task.name) != own and (task / "comm").read_text() == Path("/proc/self/comm").read_text():
                os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))


def _learner(config: Config, classes: int, parts: BatchParts) -> Learner:
    network = network_config(config.model, classes)
    table = tuple((f"n{index:08d}", f"class {index}") for index in range(classes))
    card = ModelCard(network, table, evaluation_transform(config.data))
    initial = init_parameters(network, config.train.seed)
    return Learner(config, card, initial, parts.devices, parts.micro_batches)


if __name__ == "__main__":
    write_json(Path(sys.argv[2]), main(json.loads(Path(sys.argv[1]).read_text())))
