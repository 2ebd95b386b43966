"""SGD with momentum and LAMB, in the form of `optimizer.AdamW`, and the choice among all of them."""

from collections.abc import Mapping, Sequence

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from convnext_imagenet.train.optimizer import FIRST, SECOND, STEP, AdamW, decay_rates, zeros_like
from convnext_imagenet.train.sections import OptimizerSection

_sgd_update = ops.MultitypeFuncGraph("sgd_update")
_lamb_update = ops.MultitypeFuncGraph("lamb_update")


def make_optimizer(parameters: Mapping[str, Parameter], section: OptimizerSection, factors: Sequence[float]) -> nn.Cell:
    """Return the optimizer that the configuration names over `parameters`, whose rates are scaled by `factors`."""
    if section.name == "sgd":
        return Sgd(parameters, section, factors)
    if section.name == "lamb":
        return Lamb(parameters, section, factors)
    return AdamW(parameters, section, factors, is_corrected=section.name == "adamw")


class Sgd(nn.Cell):
    """v <- momentum * v + g + decay * p; p <- p - rate * v, or by Nesterov's look-ahead (PyTorch's SGD)."""

    def __init__(
        self, parameters: Mapping[str, Parameter], section: OptimizerSection, factors: Sequence[float]
    ) -> None:
        super().__init__(auto_prefix=False)
        self.weights = ParameterTuple(tuple(parameters.values()))
        self.first = ParameterTuple(tuple(zeros_like(p, FIRST + name) for name, p in parameters.items()))
        self.step = Parameter(Tensor(0, ms.int32), name=STEP, requires_grad=False)
        self.decays, self.factors = decay_rates(parameters, section), tuple(factors)
        self.momentum, self.nesterov = section.momentum, section.nesterov
        self.map = ops.HyperMap()

    def construct(self, gradients: tuple[Tensor, ...], rate: Tensor, ok: Tensor | None) -> Tensor:
        gate = ops.ones_like(rate) if ok is None else ops.cast(ok, ms.float32)
        update = ops.partial(_sgd_update, rate, gate, self.momentum, self.nesterov)
        done = self.map(update, self.decays, self.factors, self.weights, gradients, self.first)
        return ops.depend(ops.assign(self.step, self.step + ops.cast(gate, ms.int32)), done)

    def state(self) -> dict[str, Parameter]:
        """The optimizer's own parameters by name: step count and the velocity of every weight."""
        return {parameter.name: parameter for parameter in (self.step, *self.first)}


@_sgd_update.register("Tensor", "Tensor", "Number", "Bool", "Number", "Number", "Tensor", "Tensor", "Tensor")
def _sgd_update_one(rate, gate, momentum, nesterov, decay, factor, weight, gradient, velocity):
    pull = gradient + decay * weight
    moved = momentum * velocity + pull
    direction = pull + momentum * moved if nesterov else moved
    done = ops.assign(velocity, gate * moved + (1.0 - gate) * velocity)
    return ops.depend(ops.assign(weight, weight - gate * rate * factor * direction), done)


class Lamb(nn.Cell):
    """p <- p - rate * trust * r, r = m / (sqrt(v) + eps) + decay * p, trust = |p| / |r| (arXiv 1904.00962).

    m and v are bias-corrected; parameters without decay take trust 1, as in timm.
    """

    def __init__(
        self, parameters: Mapping[str, Parameter], section: OptimizerSection, factors: Sequence[float]
    ) -> None:
        super().__init__(auto_prefix=False)
        self.weights = ParameterTuple(tuple(parameters.values()))
        self.first = ParameterTuple(tuple(zeros_like(p, FIRST + name) for name, p in parameters.items()))
        self.second = ParameterTuple(tuple(zeros_like(p, SECOND + name) for name, p in parameters.items()))
        self.step = Parameter(Tensor(0, ms.int32), name=STEP, requires_grad=False)
        self.decays, self.factors = decay_rates(parameters, section), tuple(factors)
        self.betas, self.eps = (section.beta1, section.beta2), section.eps
        self.map = ops.HyperMap()

    def construct(self, gradients: tuple[Tensor, ...], rate: Tensor, ok: Tensor | None) -> Tensor:
        gate = ops.ones_like(rate) if ok is None else ops.cast(ok, ms.float32)
        steps = ops.cast(self.step + 1, ms.float32)
        beta1, beta2 = self.betas
        corrections = (1.0 - ops.pow(beta1, steps), 1.0 - ops.pow(beta2, steps))
        update = ops.partial(_lamb_update, rate, gate, self.betas, corrections, self.eps)
        done = self.map(update, self.decays, self.factors, self.weights, gradients, self.first, self.second)
        return ops.depend(ops.assign(self.step, self.step + ops.cast(gate, ms.int32)), done)

    def state(self) -> dict[str, Parameter]:
        """The optimizer's own parameters by name: step count and both moments of every weight."""
        return {parameter.name: parameter for parameter in (self.step, *self.first, *self.second)}


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
    done = ops.assign(first, gate * mean + (1.0 - gate) * first)
    done = ops.depend(ops.assign(second, gate * variance + (1.0 - gate) * second), done)
    return ops.depend(ops.assign(weight, weight - gate * rate * factor * trust * direction), done)
