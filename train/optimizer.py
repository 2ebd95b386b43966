"""AdamW as part of the compiled step: bias-corrected, decoupled decay, decay groups by parameter.

MindSpore's own AdamWeightDecay has no bias correction, and its plain Adam corrects in float32 and has no decay. Here
the decay and both corrections are ours; `ops.Adam` only moves moments and parameter, as one kernel where separate
operators take six times as long on a CPU. A skipped step is rate 0, betas 1 and gradients 0; layer-wise rates are one
more factor per parameter.
"""

import math
from collections.abc import Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from convnext_imagenet.train.config import OptimizerSection

_STEP, _FIRST, _SECOND = "optimizer.step", "optimizer.first_moment.", "optimizer.second_moment."

_update = ops.MultitypeFuncGraph("adamw_update")


def is_decayed(name: str, shape: Sequence[int]) -> bool:
    """Return whether weight decay applies: not to vectors, biases, layer scale, nor GRN's gamma and beta.

    GRN's parameters have the shape (1, 1, 1, 4C), so the shape alone does not tell (arXiv 2301.00808).
    """
    return len(shape) > 1 and not name.endswith((".bias", ".gamma", ".beta"))


class AdamW(nn.Cell):
    """p <- p - rate * (m / (sqrt(v) + eps) + decay * p), with m and v bias-corrected.

    arXiv 1711.05101, algorithm 2, in PyTorch's convention (the rate scales the decay). Call it with the gradients, in
    the order of `parameters`, and the rate, a float32 scalar tensor; the result must reach the graph's output, or
    the update is pruned. The count of steps taken is part of the state.
    """

    def __init__(self, parameters: Mapping[str, Parameter], section: OptimizerSection) -> None:
        super().__init__(auto_prefix=False)
        self.weights = ParameterTuple(tuple(parameters.values()))
        self.first = ParameterTuple(tuple(_zeros_like(p, _FIRST + name) for name, p in parameters.items()))
        self.second = ParameterTuple(tuple(_zeros_like(p, _SECOND + name) for name, p in parameters.items()))
        self.step = Parameter(Tensor(0, ms.int32), name=_STEP, requires_grad=False)
        self.decays = tuple(
            section.weight_decay if is_decayed(name, p.shape) else 0.0 for name, p in parameters.items()
        )
        self.beta1, self.beta2, self.eps = section.beta1, section.beta2, section.eps
        self.log_beta1, self.log_beta2 = _log(section.beta1), _log(section.beta2)
        self.adam = ops.Adam()
        self.map = ops.HyperMap()

    def construct(self, gradients: tuple[Tensor, ...], rate: Tensor) -> Tensor:
        step = self.step + 1
        steps = ops.cast(step, ms.float32)
        # 1 - beta^t through expm1: in float32 the difference would lose five digits at t = 1. Multiplying
        # numerator and denominator by the root leaves plain Adam with another rate and another eps.
        correction1 = -ops.expm1(steps * self.log_beta1)
        root2 = ops.sqrt(-ops.expm1(steps * self.log_beta2))
        scalars = (rate * root2 / correction1, self.beta1, self.beta2, self.eps * root2)
        update = ops.partial(_update, self.adam, rate, scalars)
        done = self.map(update, self.decays, self.weights, gradients, self.first, self.second)
        return ops.depend(ops.assign(self.step, step), done)

    def state(self) -> dict[str, Parameter]:
        """The optimizer's own parameters by name: step count and both moments of every weight."""
        return {parameter.name: parameter for parameter in (self.step, *self.first, *self.second)}


@_update.register("Function", "Tensor", "Tuple", "Number", "Tensor", "Tensor", "Tensor", "Tensor")
def _update_one(adam, rate, scalars, decay, weight, gradient, first, second):
    if decay > 0:
        ops.assign(weight, weight * (1.0 - rate * decay))
    corrected_rate, beta1, beta2, eps = scalars
    # Zero powers of beta: the kernel's own correction is off.
    return adam(weight, first, second, 0.0, 0.0, corrected_rate, beta1, beta2, eps, gradient)[0]


def _zeros_like(parameter: Parameter, name: str) -> Parameter:
    return Parameter(Tensor(np.zeros(parameter.shape, np.float32)), name=name, requires_grad=False)


def _log(beta: float) -> float:
    """Return log(beta); for beta = 0 a number whose exponential is 0 in float32."""
    return math.log(beta) if beta > 0 else -1e4
