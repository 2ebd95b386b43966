"""The optimizers of the compiled step: AdamW, SGD, LAMB, Muon. This module must not know loss scales or averages."""

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, mint, nn, ops

from convnext_imagenet.train.config.sections import OptimizerSection

STEP, FIRST, SECOND = "optimizer.step", "optimizer.first_moment.", "optimizer.second_moment."

_adam_update = ops.MultitypeFuncGraph("adam_update")
_sgd_update = ops.MultitypeFuncGraph("sgd_update")
_lamb_update = ops.MultitypeFuncGraph("lamb_update")
_muon_pass = ops.MultitypeFuncGraph("muon_pass")
_muon_step = ops.MultitypeFuncGraph("muon_step")

# Newton-Schulz in Muon: five steps of x <- a x + b x x' x + c x x' x x' x bring singular values from 0.01 to 1 near 1
# (0.7 to 1.2); the numbers are Keller Jordan's (https://kellerjordan.github.io/posts/muon).
_SCHULZ_STEPS = 5
_SCHULZ_A, _SCHULZ_B, _SCHULZ_C = 3.4445, -4.7750, 2.0315
_LEAST_NORM = 1e-30
_MUON_SIZE = 0.2  # the root mean square of AdamW's steps (arXiv 2502.16982, section 2.2)


@dataclass(frozen=True)
class Moved:
    """What an optimizer moves: `parameters`, which may be whole buckets, by the rule that `section` states.

    `factors` scale the learning rate of each, `decays` are their weight decays (`weight_decay`).
    """

    parameters: Mapping[str, Parameter]
    section: OptimizerSection
    factors: Sequence[float]
    decays: Sequence[float]


def make_optimizer(moved: Moved) -> "Optimizer":
    """Return the optimizer that the section of `moved` names."""
    return _OPTIMIZERS[moved.section.name](moved)


def moves_as_a_whole(name: str, shape: Sequence[int], section: OptimizerSection) -> bool:
    """Return whether the optimizer looks at all values of a parameter to move one of them.

    LAMB does for all, Muon for matrices of hidden layers: pointwise layers, and downsampling convolutions as matrices
    of (outputs, inputs x area). Stem, head and depthwise kernels are AdamW's in Muon, too.
    """
    if section.name != "muon":
        return section.name == "lamb"
    is_outer = name.startswith(("downsample_layers.0.", "head."))
    return _is_matrix(name, shape) and not is_outer and not name.endswith("dwconv.weight")


def weight_decay(name: str, shape: Sequence[int], section: OptimizerSection) -> float:
    """Return the weight decay of a parameter: 0 for vectors, biases, layer scale, and GRN's gamma and beta.

    The shape is not enough, because GRN's parameters have the shape (1, 1, 1, 4C) (arXiv 2301.00808).
    """
    return section.weight_decay if _is_matrix(name, shape) else 0.0


class Optimizer(nn.Cell):
    """(gradients, rate, whether the step is taken or None for always) -> a value that exists once all is updated.

    A step that is not taken changes neither weights, moments nor step count; its gradients must be 0. All
    parameters have a second moment, or only those `with_second`. Subclasses move weights and moments in `update`.
    """

    def __init__(self, moved: Moved, with_second: Collection[str] | None = None) -> None:
        super().__init__(auto_prefix=False)
        parameters = moved.parameters
        self.names = tuple(parameters)
        self.names_of_second = self.names if with_second is None else tuple(with_second)
        self.weights = ParameterTuple(tuple(parameters.values()))
        self.first = ParameterTuple(tuple(_zeros_like(p, FIRST + name) for name, p in parameters.items()))
        self.second = ParameterTuple(tuple(_zeros_like(parameters[n], SECOND + n) for n in self.names_of_second))
        self.step = Parameter(Tensor(0, ms.int32), name=STEP, requires_grad=False)
        self.decays, self.factors = tuple(moved.decays), tuple(moved.factors)
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

    def moments(self) -> dict[str, tuple[Parameter | None, ...]]:
        """Return the moments by the prefix of their names, one for each parameter; None where none is kept."""
        second = dict(zip(self.names_of_second, self.second, strict=True))
        return {FIRST: tuple(self.first), SECOND: tuple(second.get(name) for name in self.names)}


class AdamW(Optimizer):
    """p <- p - rate * (m / (sqrt(v) + eps) + decay * p), with m and v bias-corrected if `is_corrected`.

    arXiv 1711.05101, algorithm 2, in PyTorch's convention (the rate scales the decay). Without correction it is
    MindSpore's AdamWeightDecay. MindSpore's own cells correct in float32 or not at all, so the decay and both
    corrections are computed here. `ops.Adam` only moves moments and parameter: one kernel, six times as fast on a CPU
    as separate operators.
    """

    def __init__(self, moved: Moved, is_corrected: bool = True, with_second: Collection[str] | None = None) -> None:
        super().__init__(moved, with_second)
        section = moved.section
        self.beta1, self.beta2, self.eps = section.beta1, section.beta2, section.eps
        self.log_beta1, self.log_beta2 = _log(section.beta1), _log(section.beta2)
        self.is_corrected = is_corrected
        self.adam = ops.Adam()

    def update(self, gradients: tuple[Tensor, ...], rate: Tensor, gate: Tensor) -> Tensor:
        """Move weights and moments."""
        update = ops.partial(_adam_update, self.adam, rate, self.scalars(gate))
        return self.map(update, self.decays, self.factors, self.weights, gradients, self.first, self.second)

    def scalars(self, gate: Tensor) -> tuple[Tensor, ...]:
        """Return the factor of the rate, both betas and eps of this step.

        In a step that is not taken, betas of 1 make the kernel keep the moments.
        """
        correction1, root2 = self.corrections(ops.cast(self.step + 1, ms.float32))
        beta1, beta2 = _gated(gate, self.beta1, 1.0), _gated(gate, self.beta2, 1.0)
        return root2 / correction1, beta1, beta2, self.eps * root2

    def corrections(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 - beta1^t and the square root of 1 - beta2^t, or ones without correction."""
        if not self.is_corrected:
            return ops.ones_like(steps), ops.ones_like(steps)
        # With expm1, because in float32 the difference would lose five digits at t = 1. Multiplying numerator and
        # denominator by the root gives plain Adam with another rate and another eps.
        return -ops.expm1(steps * self.log_beta1), ops.sqrt(-ops.expm1(steps * self.log_beta2))


class Sgd(Optimizer):
    """v <- momentum * v + g + decay * p; p <- p - rate * v, or by Nesterov's look-ahead (PyTorch's SGD)."""

    def __init__(self, moved: Moved) -> None:
        super().__init__(moved, with_second=())
        self.momentum, self.nesterov = moved.section.momentum, moved.section.nesterov

    def update(self, gradients: tuple[Tensor, ...], rate: Tensor, gate: Tensor) -> Tensor:
        """Move weights and velocities, which are kept as first moments."""
        update = ops.partial(_sgd_update, rate, gate, self.momentum, self.nesterov)
        return self.map(update, self.decays, self.factors, self.weights, gradients, self.first)


class Lamb(Optimizer):
    """p <- p - rate * trust * r, r = m / (sqrt(v) + eps) + decay * p, trust = |p| / |r| (arXiv 1904.00962).

    m and v are bias-corrected; parameters without decay take trust 1, as in timm.
    """

    def __init__(self, moved: Moved) -> None:
        super().__init__(moved)
        self.betas, self.eps = (moved.section.beta1, moved.section.beta2), moved.section.eps

    def update(self, gradients: tuple[Tensor, ...], rate: Tensor, gate: Tensor) -> Tensor:
        """Move weights and moments."""
        steps = ops.cast(self.step + 1, ms.float32)
        beta1, beta2 = self.betas
        corrections = (1.0 - ops.pow(beta1, steps), 1.0 - ops.pow(beta2, steps))
        update = ops.partial(_lamb_update, rate, gate, self.betas, corrections, self.eps)
        return self.map(update, self.decays, self.factors, self.weights, gradients, self.first, self.second)


class Muon(AdamW):
    """p <- p - rate * (0.2 * sqrt(max(rows, columns)) * orthogonal(v) + decay * p) for matrices, AdamW for the rest.

    v <- momentum * v + g, or by Nesterov's look-ahead; `orthogonal` brings its singular values near 1.
    The factor gives a matrix steps of AdamW's size, so one rate and one decay serve all (arXiv 2502.16982). Which are
    matrices, `moves_as_a_whole` says; they have no second moment.
    """

    def __init__(self, moved: Moved) -> None:
        section = moved.section
        shapes = {name: tuple(parameter.shape) for name, parameter in moved.parameters.items()}
        self.is_whole = tuple(moves_as_a_whole(name, shape, section) for name, shape in shapes.items())
        rest = [name for name, is_whole in zip(shapes, self.is_whole, strict=True) if not is_whole]
        super().__init__(moved, with_second=rest)
        self.momentum, self.nesterov = section.momentum, section.nesterov
        second = dict(zip(rest, self.second, strict=True))
        # One map over all parameters compiles in a third of the time of two maps over parts of them. So where there is
        # no second moment, the first stands for it and is not used.
        self.second_or_first = ParameterTuple(
            tuple(second.get(name, first) for name, first in zip(shapes, self.first, strict=True))
        )
        self.whole = tuple(at for at, is_whole in enumerate(self.is_whole) if is_whole)
        self.whole_weights = ParameterTuple(tuple(self.weights[at] for at in self.whole))
        self.whole_decays = tuple(self.decays[at] for at in self.whole)
        self.whole_factors = tuple(self.factors[at] for at in self.whole)
        self.stacks = _stacks({at: tuple(self.weights[at].shape) for at in self.whole})
        stacked = [at for members in self.stacks for at in members]
        self.places = tuple(stacked.index(at) for at in self.whole)

    def update(self, gradients: tuple[Tensor, ...], rate: Tensor, gate: Tensor) -> Tensor:
        """Move weights and moments; the velocities of matrices are kept as first moments."""
        momentum = _gated(gate, self.momentum, 1.0)  # 1 keeps the velocity where no step is taken
        first_pass = ops.partial(_muon_pass, self.adam, rate, self.scalars(gate), (momentum, self.nesterov))
        passed = self.map(
            first_pass, self.is_whole, self.decays, self.factors, self.weights, gradients, self.first,
            self.second_or_first,
        )  # fmt: skip
        if not self.whole:
            return passed
        step = ops.partial(_muon_step, rate)
        directions = self.directions(passed)
        return (*passed, *self.map(step, self.whole_decays, self.whole_factors, self.whole_weights, directions))

    def directions(self, pulls: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the matrices with singular values near 1, computed for all matrices of one shape together."""
        found: tuple[Tensor, ...] = ()
        for members in self.stacks:
            made = _orthogonal(ops.stack([_as_wide(pulls[at]) for at in members]))
            # Not by Unstack or Split, which Ascend runs on its own CPU.
            found = (*found, *mint.split(made, 1))
        count = len(self.whole)
        return tuple([_as_shape(found[self.places[n]], pulls[self.whole[n]]) for n in range(count)])


_OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {
    "adamw": AdamW,
    "adamw_uncorrected": functools.partial(AdamW, is_corrected=False),
    "sgd": Sgd,
    "lamb": Lamb,
    "muon": Muon,
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


@_muon_pass.register(
    "Function", "Tensor", "Tuple", "Tuple", "Bool", "Number", "Number", "Tensor", "Tensor", "Tensor", "Tensor"
)
def _muon_pass_one(adam, rate, scalars, own, is_whole, decay, factor, weight, gradient, first, second):
    """Move a weight by AdamW, or only the velocity of a matrix, and then return where it pulls."""
    if not is_whole:
        return _adam_update_one(adam, rate, scalars, decay, factor, weight, gradient, first, second)
    momentum, nesterov = own
    moved = momentum * first + gradient
    pull = momentum * moved + gradient if nesterov else moved
    return ops.depend(pull, ops.assign(first, moved))


@_muon_step.register("Tensor", "Number", "Number", "Tensor", "Tensor")
def _muon_step_one(rate, decay, factor, weight, direction):
    own_rate = rate * factor
    size = _MUON_SIZE * _longer_side(weight) ** 0.5
    return ops.assign(weight, weight * (1.0 - own_rate * decay) - own_rate * size * direction)


def _longer_side(weight):
    """Return the longer side of a weight as a matrix (outputs, inputs)."""
    outputs = weight.shape[0]
    return max(outputs, weight.size // outputs)


def _as_wide(pull):
    """Return a matrix (outputs, inputs), transposed if it has more outputs than inputs."""
    matrix = ops.reshape(pull, (pull.shape[0], -1))
    return ops.transpose(matrix, (1, 0)) if matrix.shape[0] > matrix.shape[1] else matrix


def _as_shape(wide, pull):
    """Return what `_as_wide` made of a matrix, here (1, n, m), in the shape of `pull`."""
    back = ops.transpose(wide, (0, 2, 1)) if pull.shape[0] > wide.shape[1] else wide
    return ops.reshape(back, pull.shape)


def _orthogonal(matrices):
    """Return matrices (N, n, m), n <= m, of the same singular vectors, whose singular values are near 1.

    All products between the first and the last are of square matrices: a step multiplies x by `rest` + a I, and so all
    steps together by `total` + `scale` I, polynomials of x x'.
    """
    times = ops.BatchMatMul()
    x = matrices / ops.maximum(ops.sqrt(ops.ReduceSum(keep_dims=True)(matrices * matrices, (1, 2))), _LEAST_NORM)
    square = ops.BatchMatMul(transpose_b=True)(x, x)
    total = rest = _SCHULZ_B * square + _SCHULZ_C * times(square, square)
    scale = _SCHULZ_A
    for _ in range(1, _SCHULZ_STEPS):
        half = _SCHULZ_A * square + times(rest, square)
        square = _SCHULZ_A * half + times(half, rest)
        rest = _SCHULZ_B * square + _SCHULZ_C * times(square, square)
        total = _SCHULZ_A * total + times(rest, total) + scale * rest
        scale = scale * _SCHULZ_A
    return times(total, x) + scale * x


def _gated(gate, new, old):
    """Return `new` where the gate is 1, `old` where it is 0."""
    return gate * new + (1.0 - gate) * old


def _is_matrix(name: str, shape: Sequence[int]) -> bool:
    return len(shape) > 1 and not name.endswith((".bias", ".gamma", ".beta"))


def _stacks(shapes: Mapping[int, tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Return the keys of the matrices that are of one shape, lying or standing."""
    by_sides: dict[tuple[int, int], list[int]] = {}
    for at, shape in shapes.items():
        shorter, longer = sorted((shape[0], math.prod(shape[1:])))
        by_sides.setdefault((shorter, longer), []).append(at)
    return tuple(tuple(members) for members in by_sides.values())


def _zeros_like(parameter: Parameter, name: str) -> Parameter:
    return Parameter(Tensor(np.zeros(parameter.shape, np.float32)), name=name, requires_grad=False)


def _log(beta: float) -> float:
    """Return log(beta); for beta = 0 a number whose exponential is 0 in float32."""
    return math.log(beta) if beta > 0 else -1e4
