"""The child process of a dry run: compiles the graphs of configurations as rank 0 of a job.

`python -m convnext_imagenet.train.dry_run_process JOB RESULT` reads and writes JSON files; `main` says what they hold.
In a simulation the graphs of a run are also called once; what they compute is meaningless.
"""

import dataclasses
import json
import sys
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
from convnext_imagenet.train.config.schedule import local_positions
from convnext_imagenet.train.data.pipeline import Batch
from convnext_imagenet.train.step.learner import Learner
from convnext_imagenet.train.step.parameters import evaluation_transform, network_config
from convnext_imagenet.train.step.precision import check_precision


@dataclass(frozen=True)
class CompiledRun:
    """What the process measured of one configuration: seconds, and the device's peak memory in bytes as planned.

    `rows` are those that a graph of the training step takes at a time, `micro_batches` how often it does so in a step.
    The memory is None on the CPU, where MindSpore does not tell it.
    """

    rows: int
    micro_batches: int
    train_compile_s: float
    eval_compile_s: float
    train_memory: int | None
    memory: int | None


def compile_run(config: Config, classes: int, ranks: int, is_simulated: bool) -> CompiledRun:
    """Compile the graphs of a run of `ranks` devices in this process: training, augmentation alone, evaluation."""
    learner = _learner(config, classes, ranks)
    positions = local_positions(config.data.global_batch_size, 0, ranks * learner.micro_batches)
    pixels = np.zeros((len(positions), config.data.size_px, config.data.size_px, 3), np.uint8)
    draws = device_draws(config, 1, 0, positions, learner.drop_path_rates)
    batches = [Batch(pixels, np.zeros(len(positions), np.int32), positions, draws)] * learner.micro_batches

    begin = time.perf_counter()
    learner.compile(batches)
    train_compile_s = time.perf_counter() - begin
    if is_simulated:
        learner.learn(batches, rate=1e-3, decay=0.9).asnumpy()
    train_memory = _peak_memory(is_simulated)
    learner.augment.compile(ms.Tensor(pixels), graph_draws(draws))

    begin = time.perf_counter()
    side = config.data.eval_size_px
    images = ms.Tensor(np.zeros((config.data.eval_batch_size, side, side, 3), np.uint8))
    learner.classifier.set_train(False)
    learner.classifier.compile(images)
    eval_compile_s = time.perf_counter() - begin
    if is_simulated:
        learner.classifier(images).asnumpy()
    return CompiledRun(
        rows=len(positions),
        micro_batches=learner.micro_batches,
        train_compile_s=train_compile_s,
        eval_compile_s=eval_compile_s,
        train_memory=train_memory,
        memory=_peak_memory(is_simulated),
    )


def main(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the runs of a job need, as JSON: {"runs": [`CompiledRun`, ...]}, or {"error": text}.

    `job` holds target, devices, classes, and configs: a list of configurations as nested mappings.
    """
    is_simulated = job["target"] != "CPU"
    try:
        prepare(job["target"])
        join(Rank(0, job["devices"], 0))
        runs = []
        for values in job["configs"]:
            config = config_from_mapping(values)
            check_precision(config.precision, job["target"])
            runs.append(dataclasses.asdict(compile_run(config, job["classes"], job["devices"], is_simulated)))
    except ExpectedError as error:
        return {"error": str(error)}
    return {"runs": runs}


def _learner(config: Config, classes: int, ranks: int) -> Learner:
    network = network_config(config.model, classes)
    table = tuple((f"n{index:08d}", f"class {index}") for index in range(classes))
    card = ModelCard(network, table, evaluation_transform(config.data))
    return Learner(config, card, init_parameters(network, config.train.seed), ranks)


def _peak_memory(is_simulated: bool) -> int | None:
    return int(ms.runtime.max_memory_allocated()) if is_simulated else None


if __name__ == "__main__":
    write_json(Path(sys.argv[2]), main(json.loads(Path(sys.argv[1]).read_text())))
