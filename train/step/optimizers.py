"""The optimizers of the compiled step: AdamW, SGD, LAMB. This module must not know loss scales or averages."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from convnext_imagenet.train.config.sections import OptimizerSection

STEP, FIRST, SECOND = "optimizer.step", "optimizer.first_moment.", "optimizer.second_moment."

_adam_update = ops.MultitypeFuncGraph("adam_update")
_sgd_update = ops.MultitypeFuncGraph("sgd_update")
_lamb_update = ops.MultitypeFuncGraph("lamb_update")


def make_optimizer(
    parameters: Mapping[str, Parameter],
    section: OptimizerSection,
    factors: Sequence[float],
    decays: Sequence[float],
) -> "Optimizer":
    """Return the optimizer that `section` names, over `parameters`, which may be whole buckets.

    `factors` scale the learning rate of each, `decays` are their weight decays (`weight_decay`).
    """
    return _OPTIMIZERS[section.name](parameters, section, factors, decays)


def is_elementwise(section: OptimizerSection) -> bool:
    """Return whether the optimizer moves each value by itself; LAMB looks at all values of a parameter."""
    return section.name != "lamb"


def weight_decay(name: str, shape: Sequence[int], section: OptimizerSection) -> float:
    """Return the weight decay of a parameter: 0 for vectors, biases, layer scale, and GRN's gamma and beta.

    The shape is not enough, because GRN's parameters have the shape (1, 1, 1, 4C) (arXiv 2301.00808).
    """
    is_decayed = len(shape) > 1 and not name.endswith((".bias", ".gamma", ".beta"))
    return section.weight_decay if is_decayed else 0.0


class Optimizer(nn.Cell):
    """(gradients, rate, whether the step is taken or None for always) -> a value that exists once all is updated.

    A step that is not taken changes neither weights, moments nor step count; its gradients must be 0. `factors`
    multiply each parameter's rate, `decays` are their weight decays. Subclasses move weights and moments in `update`.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        section: OptimizerSection,
        factors: Sequence[float],
        decays: Sequence[float],
        has_second: bool = True,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.weights = ParameterTuple(tuple(parameters.values()))
        self.first = ParameterTuple(tuple(_zeros_like(p, FIRST + name) for name, p in parameters.items()))
        with_second = parameters.items() if has_second else ()
        self.second = ParameterTuple(tuple(_zeros_like(p, SECOND + name) for name, p in with_second))
        self.step = Parameter(Tensor(0, ms.int32), name=STEP, requires_grad=False)
        self.decays, self.factors = tuple(decays), tuple(factors)
        self.map = ops.HyperMap()

    def construct(self, gradients: tuple[Tensor, ...], rate: Tensor, ok: Tensor | None) -> Tensor:
        gate = ops.ones_like(rate) if ok is None else ops.cast(ok, ms.float32)
        done = self.update(gradients, gate * rate, gate)
        return ops.depend(ops.assign(self.step, self.step + ops.cast(gate, ms.int32)), done)

    def update(self, gradients: tuple[Tensor, ...], rate: Tensor, gate: Tensor) -> Tensor:
        """Move weights and moments. `gate` is 1 for a step that is taken, else 0, and then `rate` is 0, too."""
        raise NotImplementedError

    def state(self) -> dict[str, Parameter]:
        """Return the optimizer's own parameters by name: step count and the moments of every weight."""
        return {parameter.name: parameter for parameter in (self.step, *self.first, *self.second)}

    def moments(self) -> dict[str, ParameterTuple]:
        """Return the kinds of moments that the optimizer keeps, by the prefix of their names."""
        return {prefix: kept for prefix, kept in ((FIRST, self.first), (SECOND, self.second)) if len(kept)}


class AdamW(Optimizer):
    """p <- p - rate * (m / (sqrt(v) + eps) + decay * p), with m and v bias-corrected if `is_corrected`.

    arXiv 1711.05101, algorithm 2, in PyTorch's convention (the rate scales the decay). Without correction it is
    MindSpore's AdamWeightDecay. MindSpore's own cells correct in float32 or not at all, so the decay and both
    corrections are computed here. `ops.Adam` only moves moments and parameter: one kernel, six times as fast on a CPU
    as separate operators.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        section: OptimizerSection,
        factors: Sequence[float],
        decays: Sequence[float],
        is_corrected: bool = True,
    ) -> None:
        super().__init__(parameters, section, factors, decays)
        self.beta1, self.beta2, self.eps = section.beta1, section.beta2, section.eps
        self.log_beta1, self.log_beta2 = _log(section.beta1), _log(section.beta2)
        self.is_corrected = is_corrected
        self.adam = ops.Adam()

    def update(self, gradients: tuple[Tensor, ...], rate: Tensor, gate: Tensor) -> Tensor:
        """Move weights and moments. In a step that is not taken, betas of 1 make the kernel keep the moments."""
        correction1, root2 = self.corrections(ops.cast(self.step + 1, ms.float32))
        beta1, beta2 = _gated(gate, self.beta1, 1.0), _gated(gate, self.beta2, 1.0)
        scalars = (root2 / correction1, beta1, beta2, self.eps * root2)
        update = ops.partial(_adam_update, self.adam, rate, scalars)
        return self.map(update, self.decays, self.factors, self.weights, gradients, self.first, self.second)

    def corrections(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 - beta1^t and the square root of 1 - beta2^t, or ones without correction."""
        if not self.is_corrected:
            return ops.ones_like(steps), ops.ones_like(steps)
        # With expm1, because in float32 the difference would lose five digits at t = 1. Multiplying numerator and
        # denominator by the root gives plain Adam with another rate and another eps.
        return -ops.expm1(steps * self.log_beta1), ops.sqrt(-ops.expm1(steps * self.log_beta2))


class Sgd(Optimizer):
    """v <- momentum * v + g + decay * p; p <- p - rate * v, or by Nesterov's look-ahead (PyTorch's SGD)."""

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        section: OptimizerSection,
        factors: Sequence[float],
        decays: Sequence[float],
    ) -> None:
        super().__init__(parameters, section, factors, decays, has_second=False)
        self.momentum, self.nesterov = section.momentum, section.nesterov

    def update(self, gradients: tuple[Tensor, ...], rate: Tensor, gate: Tensor) -> Tensor:
        """Move weights and velocities, which are kept as first moments."""
        update = ops.partial(_sgd_update, rate, gate, self.momentum, self.nesterov)
        return self.map(update, self.decays, self.factors, self.weights, gradients, self.first)


class Lamb(Optimizer):
    """p <- p - rate * trust * r, r = m / (sqrt(v) + eps) + decay * p, trust = |p| / |r| (arXiv 1904.00962).

    m and v are bias-corrected; parameters without decay take trust 1, as in timm.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        section: OptimizerSection,
        factors: Sequence[float],
        decays: Sequence[float],
    ) -> None:
        super().__init__(parameters, section, factors, decays)
        self.betas, self.eps = (section.beta1, section.beta2), section.eps

    def update(self, gradients: tuple[Tensor, ...], rate: Tensor, gate: Tensor) -> Tensor:
        """Move weights and moments."""
        steps = ops.cast(self.step + 1, ms.float32)
        beta1, beta2 = self.betas
        corrections = (1.0 - ops.pow(beta1, steps), 1.0 - ops.pow(beta2, steps))
        update = ops.partial(_lamb_update, rate, gate, self.betas, corrections, self.eps)
        return self.map(update, self.decays, self.factors, self.weights, gradients, self.first, self.second)


_OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {
    "adamw": AdamW,
    "adamw_uncorrected": functools.partial(AdamW, is_corrected=False),
    "sgd": Sgd,
    "lamb": Lamb,
}


@_adam_update.register("Function", "Tensor", "Tuple", "Number", "Number", "Tensor", "Tensor", "Tensor", "Tensor")
def _adam_update_one(adam, rate, scalars, decay, factor, weight, gradient, first, second):
    own_rate = rate * factor
    if decay > 0:
        ops.assign(weight, weight * (1.0 - own_rate * decay))
    correction, beta1, beta2, eps = scalars
    # Powers of beta that are 0 switch off the kernel's own correction.
    return adam(weight, first, second, 0.0, 0.0, own_rate * correction, beta1, beta2, eps, gradient)[0]


@_sgd_update.register("Tensor", "Tensor", "Number", "Bool", "Number", "Number", "Tensor", "Tensor", "Tensor")
def _sgd_update_one(rate, gate, momentum, nesterov, decay, factor, weight, gradient, velocity):
    pull = gradient + decay * weight
    moved = momentum * velocity + pull
    direction = pull + momentum * moved if nesterov else moved
    done = ops.assign(velocity, _gated(gate, moved, velocity))
    return ops.depend(ops.assign(weight, weight - rate * factor * direction), done)


@_lamb_update.register(
    "Tensor", "Tensor", "Tuple", "Tuple", "Number", "Number", "Number", "Tensor", "Tensor", "Tensor", "Tensor"
)
def _lamb_update_one(rate, gate, betas, corrections, eps, decay, factor, weight, gradient, first, second):
    beta1, beta2 = betas
    mean = beta1 * first + (1.0 - beta1) * gradient
    variance = beta2 * second + (1.0 - beta2) * gradient * gradient
    direction = (mean / corrections[0]) / (ops.sqrt(variance / corrections[1]) + eps) + decay * weight
    trust = ops.ones_like(rate)
    if decay > 0:
        size, length = ops.sqrt(ops.reduce_sum(weight * weight)), ops.sqrt(ops.reduce_sum(direction * direction))
        trust = ops.select(ops.logical_and(size > 0.0, length > 0.0), size / length, ops.ones_like(rate))
    done = ops.assign(first, _gated(gate, mean, first))
    done = ops.depend(ops.assign(second, _gated(gate, variance, second)), done)
    return ops.depend(ops.assign(weight, weight - rate * factor * trust * direction), done)


def _gated(gate, new, old):
    """Return `new` where the gate is 1, `old` where it is 0."""
    return gate * new + (1.0 - gate) * old


def _zeros_like(parameter: Parameter, name: str) -> Parameter:
    return Parameter(Tensor(np.zeros(parameter.shape, np.float32)), name=name, requires_grad=False)


def _log(beta: float) -> float:
    """Return log(beta); for beta = 0 a number whose exponential is 0 in float32."""
    return math.log(beta) if beta > 0 else -1e4
