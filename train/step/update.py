"""From gradients to new weights, inside the compiled step: unscale, check, clip, optimizer, average, loss scale."""

from collections.abc import Mapping, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.step.buckets import NOTHING, Buckets, plan_buckets
from convnext_imagenet.train.step.optimizers import STEP, Moved, make_optimizer, moves_as_a_whole, weight_decay
from convnext_imagenet.train.step.parameters import layer_factors

_SCALE, _GOOD_STEPS, _AVERAGE = "loss_scale.value", "loss_scale.good_steps", "ema."
_CLIP_MARGIN = 1e-6  # as in torch.nn.utils.clip_grad_norm_

_times = ops.MultitypeFuncGraph("times")
_zero_unless = ops.MultitypeFuncGraph("zero_unless")
_average = ops.MultitypeFuncGraph("average")


def make_buckets(
    parameters: Mapping[str, Parameter],
    config: Config,
    depths: Sequence[int],
    joined: int = 1,
    lowered: Mapping[str, Any] = NOTHING,
) -> Buckets:
    """Return the buckets of `parameters`, of at most `joined` each: those with one type, decay and rate together.

    `lowered` is the type of the network's copies of some parameters. What the optimizer moves as a whole is
    by itself; where that is everything, in float32.
    """
    section = config.optimizer
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    whole = {name for name, shape in shapes.items() if moves_as_a_whole(name, shape, section)}
    if whole == shapes.keys():
        return Buckets(parameters, plan_buckets(shapes, dict.fromkeys(shapes), 1))
    factors = layer_factors(parameters, section.layer_decay, section.layer_groups, depths)
    kinds = {
        name: (lowered.get(name), weight_decay(name, shape, section), factors[name], name if name in whole else "")
        for name, shape in shapes.items()
    }
    return Buckets(parameters, plan_buckets(shapes, kinds, joined), lowered)


class Update(nn.Cell):
    """(gradients, half their sum of squares, rate, decay of the average) -> (their global norm, whether it was taken).

    `unscaled` and `half_squares` give the first two; the ranks agree on the second in between. Gradients are one for
    each of the `buckets`, those of the loss times `self.scale`. At most `summands` tensors are added by one operator;
    None is any number. With a loss scale, a step whose gradients are not finite is skipped: weights, moments, average
    and step count stay, and a dynamic scale shrinks. Without one the step is taken, and the loop ends the run or
    goes back.
    """

    def __init__(self, buckets: Buckets, config: Config, depths: Sequence[int], summands: int | None = None) -> None:
        super().__init__(auto_prefix=False)
        section = config.optimizer
        firsts = {bucket.names[0]: bucket.shapes[0] for bucket in buckets.plan}
        factors = layer_factors(firsts, section.layer_decay, section.layer_groups, depths)
        decays = [weight_decay(name, shape, section) for name, shape in firsts.items()]
        parameters = {bucket.name: buffer for bucket, buffer in zip(buckets.plan, buckets.buffers, strict=True)}
        self.buckets = buckets
        self.summands = summands or len(parameters)
        self.optimizer = make_optimizer(Moved(parameters, section, list(factors.values()), decays))
        self.weights = buckets.buffers
        self.has_average = config.ema.decay > 0
        averages = parameters.items() if self.has_average else ()
        self.averages = ParameterTuple(tuple(_copied(p, _AVERAGE + name) for name, p in averages))
        self.clip_norm = section.clip_norm
        precision = config.precision
        self.has_scale, self.is_dynamic = precision.loss_scale != "none", precision.loss_scale == "dynamic"
        self.factor, self.window = precision.scale_factor, precision.scale_window
        scale = precision.scale_init if self.has_scale else 1.0
        self.scale = Parameter(Tensor(scale, ms.float32), name=_SCALE, requires_grad=False)
        self.good_steps = Parameter(Tensor(0, ms.int32), name=_GOOD_STEPS, requires_grad=False)
        self.map = ops.HyperMap()
        self.half_square = ops.L2Loss()

    def unscaled(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the gradients of the loss from those of the loss times `self.scale`."""
        return self.map(ops.partial(_times, 1.0 / self.scale), gradients) if self.has_scale else gradients

    def half_squares(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Return half the sum of the gradients' squares, float32."""
        return self.sum(self.map(self.half_square, gradients))

    def construct(
        self, gradients: tuple[Tensor, ...], half_squares: Tensor, rate: Tensor, decay: Tensor
    ) -> tuple[Tensor, Tensor]:
        norm = ops.sqrt(2.0 * half_squares)
        taken = ops.isfinite(norm)
        ok = None
        if self.has_scale:
            ok = taken
            gradients = self.map(ops.partial(_zero_unless, ok), gradients)
        if self.clip_norm > 0:
            factor = ops.minimum(self.clip_norm / (norm + _CLIP_MARGIN), ops.ones_like(norm))
            gradients = self.map(ops.partial(_times, factor), gradients)
        done = self.optimizer(gradients, ops.depend(rate, norm), ok)
        done = self.buckets.publish(done)
        if self.has_average:
            kept = decay if ok is None else ops.select(ok, decay, ops.ones_like(decay))
            kept = ops.depend(kept, done)
            done = ops.depend(done, self.map(ops.partial(_average, kept, done), self.averages, self.weights))
        if self.is_dynamic:
            done = ops.depend(done, self.move_scale(taken))
        return ops.depend(norm, done), taken

    def move_scale(self, taken: Tensor) -> Tensor:
        """Shrink the loss scale after an overflow, but not below 1; let it grow after `window` good steps."""
        good_steps = (self.good_steps + 1) * ops.cast(taken, ms.int32)
        grows = good_steps >= self.window
        grown = ops.select(grows, self.scale * self.factor, self.scale * 1.0)
        scale = ops.select(taken, grown, ops.maximum(self.scale / self.factor, Tensor(1.0, ms.float32)))
        done = ops.assign(self.scale, scale)
        return ops.depend(ops.assign(self.good_steps, ops.select(grows, ops.zeros_like(good_steps), good_steps)), done)

    def sum(self, values: tuple[Tensor, ...]) -> Tensor:
        """Return the sum of the values, of one shape, by additions of at most `summands` each.

        Their sums are added by pairs, because MindSpore would merge an AddN of AddNs into one.
        """
        total = ops.addn(values[: self.summands])
        for start in range(self.summands, len(values), self.summands):
            total = total + ops.addn(values[start : start + self.summands])
        return total

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of everything that the next step depends on besides the weights and their average, by name."""
        arrays = {name: parameter.asnumpy().copy() for name, parameter in self._numbers().items()}
        for prefix, moments in self.optimizer.moments().items():
            arrays |= self.buckets.arrays(moments, prefix)
        return arrays

    def average(self) -> dict[str, np.ndarray]:
        """Return a copy of the moving average by the weights' names; empty if none is kept."""
        return self.buckets.arrays(self.averages) if self.has_average else {}

    def restore(self, state: Mapping[str, np.ndarray], average: Mapping[str, np.ndarray]) -> None:
        """Set everything that `state` and `average` return."""
        for name, parameter in self._numbers().items():
            parameter.set_data(Tensor(state[name]))
        for prefix, moments in self.optimizer.moments().items():
            self.buckets.fill(moments, state, prefix)
        if self.has_average:
            self.buckets.fill(self.averages, average)

    def _numbers(self) -> dict[str, Parameter]:
        scale = (self.scale, self.good_steps) if self.is_dynamic else ()
        return {STEP: self.optimizer.step} | {parameter.name: parameter for parameter in scale}


@_times.register("Tensor", "Tensor")
def _times_one(factor, gradient):
    return gradient * factor


@_zero_unless.register("Tensor", "Tensor")
def _zero_unless_one(ok, gradient):
    return ops.select(ok, gradient, ops.zeros_like(gradient))


@_average.register("Tensor", "Tensor", "Tensor", "Tensor")
def _average_one(kept, done, average, weight):
    moved = ops.depend(weight, done)
    return ops.assign(average, average * kept + moved * (1.0 - kept))


def _copied(parameter: Parameter, name: str) -> Parameter:
    return Parameter(Tensor(parameter.asnumpy().copy()), name=name, requires_grad=False)
