"""What a run says before its first step: settings that train, but as nobody would wish. Pure: reads nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from convnext_imagenet.model.convnext import ConvNeXtConfig, Shape, parameter_shapes
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.schedule import BatchParts, StepPlan

_RECIPE_RATE, _RECIPE_BATCH = 4e-3, 4096  # arXiv 2201.03545, table 5
_MOST_RATE_RATIO = 6  # nette96 learns at 4 times the scaled rate, five classes at 8 times stay at chance level
_LEAST_STEPS = 300  # the demo's 344 steps reach 98 %
_MOST_LEFT_OUT = 0.1
_MOST_OF_START = 0.5  # of the average, at the end of the run
# Arrays beside each weight in a checkpoint's state: two where nothing is said. Muon has two beside few weights.
_MOMENTS = {"sgd": 1, "muon": 1}
_KEPT_PER_BLOCK = 2  # tensors of a block's size, at the very least, that the backward pass needs
_FLOAT_BYTES = 4
_MIB = 1 << 20


@dataclass(frozen=True)
class Room:
    """What a run finds: free bytes on the disk of RUN, and free bytes of memory for a rank, None where unknown."""

    disk: int | None = None
    memory: int | None = None


def start_warnings(config: Config, plan: StepPlan, has_weights: bool) -> list[str]:
    """Return a line for each setting that would waste the run; `has_weights`: it starts from given weights."""
    return [
        *_rate(config, has_weights),
        *_steps(plan, has_weights),
        *_left_out_rows(plan),
        *_average(config, plan),
        *_forgotten_weights(config, has_weights),
    ]


def room_warnings(config: Config, network: ConvNeXtConfig, parts: BatchParts, room: Room, epochs: int) -> list[str]:
    """Return a line if the checkpoints of `epochs` more epochs do not fit the disk, and one if a step needs too much.

    Both are estimates: the checkpoints' from the number of weights, the step's a lower bound.
    """
    warnings = []
    one = checkpoint_bytes(config, network)
    keep = config.train.keep_checkpoints
    kept = keep + config.train.keep_best if keep else epochs
    needed = one * (min(kept, epochs) + 1)  # a new one is written before an old one goes
    if room.disk is not None and needed > room.disk:
        warnings.append(
            f"checkpoints will need about {_mib(needed)} ({_mib(one)} each), and the disk has room for "
            f"{_mib(room.disk)}: free space, or {'lower' if keep else 'set'} train.keep_checkpoints = {keep}"
            f"{'' if keep else ' (which keeps all)'}"
        )
    step = step_bytes(config, network, parts.rows)
    if room.memory is not None and step > room.memory:
        warnings.append(
            f"a step of {parts.rows} rows at {config.data.size_px} px needs at least {_mib(step)} of memory, and "
            f"{_mib(room.memory)} are free: lower data.device_batch_size"
        )
    return warnings


def checkpoint_bytes(config: Config, network: ConvNeXtConfig) -> int:
    """Return the bytes of one checkpoint: weights, average and moments in float32."""
    copies = 1 + (config.ema.decay > 0) + _MOMENTS.get(config.optimizer.name, 2)
    return copies * _FLOAT_BYTES * _values(parameter_shapes(network))


def step_bytes(config: Config, network: ConvNeXtConfig, rows: int) -> int:
    """Return a lower bound, in bytes, of the memory of a training step on `rows` rows at a time.

    It counts weights, gradients, moments and average, and two tensors for each block.
    """
    copies = 2 + (config.ema.decay > 0) + _MOMENTS.get(config.optimizer.name, 2)
    element = _FLOAT_BYTES if config.precision.level in ("O0", "O1", "auto") else 2
    pixels = [(config.data.size_px // (4 << stage)) ** 2 for stage in range(len(network.depths))]
    kept = sum(
        depth * dim * area * _KEPT_PER_BLOCK
        for depth, dim, area in zip(network.depths, network.dims, pixels, strict=True)
    )
    return copies * _FLOAT_BYTES * _values(parameter_shapes(network)) + rows * kept * element


def _rate(config: Config, has_weights: bool) -> list[str]:
    """The square-root rule: gradients' noise falls with the root of the batch, and AdamW divides by its size."""
    schedule, batch = config.schedule, config.data.global_batch_size
    if has_weights or not config.optimizer.name.startswith("adamw") or config.optimizer.clip_norm:
        return []
    scaled = _RECIPE_RATE * math.sqrt(batch / _RECIPE_BATCH)
    if schedule.base_lr <= _MOST_RATE_RATIO * scaled:
        return []
    return [
        f"schedule.base_lr = {schedule.base_lr:g}: {schedule.base_lr / scaled:.0f} times the recipe's rate for "
        f"{batch} rows a step ({_RECIPE_RATE:g} is for {_RECIPE_BATCH}); try --set schedule.base_lr={scaled:.1g}"
    ]


def _steps(plan: StepPlan, has_weights: bool) -> list[str]:
    if has_weights or plan.total_steps >= _LEAST_STEPS:
        return []
    return [
        f"the run has only {plan.total_steps} steps; from scratch a network needs at least {_LEAST_STEPS} to learn "
        f"anything: raise train.epochs = {plan.epochs}, or lower data.global_batch_size = {plan.global_batch_size}"
    ]


def _left_out_rows(plan: StepPlan) -> list[str]:
    left_out = plan.rows - plan.steps_per_epoch * plan.global_batch_size
    if left_out <= _MOST_LEFT_OUT * plan.rows:
        return []
    return [
        f"data.global_batch_size = {plan.global_batch_size}: each epoch leaves out {left_out:,} of {plan.rows:,} "
        f"training rows, because they do not fill a batch; choose a smaller batch"
    ]


def _average(config: Config, plan: StepPlan) -> list[str]:
    ema = config.ema
    share = ema.decay**plan.total_steps
    if not ema.decay or ema.warmup or share <= _MOST_OF_START:
        return []
    return [
        f"ema.decay = {ema.decay:g}: after {plan.total_steps} steps {100 * share:.0f} % of the average are still the "
        f"initial weights; pass --set ema.warmup=true, or a lower decay"
    ]


def _forgotten_weights(config: Config, has_weights: bool) -> list[str]:
    if has_weights or config.optimizer.layer_decay == 1.0:
        return []
    return [
        f"optimizer.layer_decay = {config.optimizer.layer_decay:g} is for fine-tuning, but this run starts from random "
        f"weights: pass --init-from WEIGHTS, or --set optimizer.layer_decay=1"
    ]


def _values(shapes: Mapping[str, Shape]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _mib(size: int) -> str:
    return f"{size / _MIB:,.0f} MiB"
