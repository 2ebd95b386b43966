"""One training step as one compiled graph: augment, forward, loss, gradients, update.

With several micro-batches per optimizer step there are two graphs instead: one adds up gradients, one uses their mean.
Ranks exchange gradients and numbers between the gradients and the update.
"""

from collections.abc import Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from convnext_imagenet.train.augment.device import DeviceAugment
from convnext_imagenet.train.augment.mix import SoftTargets
from convnext_imagenet.train.step.update import Update

# Raise when the same draws and pixels give other weights: augmentation, targets, loss, optimizers, schedule, average.
STEP_VERSION = 1
HALF_SQUARES = 2  # the index of half the gradients' sum of squares in `AllReduce.numbers`

_add = ops.MultitypeFuncGraph("add_gradient")
_take = ops.MultitypeFuncGraph("take_gradient")
_clear = ops.MultitypeFuncGraph("clear_sum")


class Gradients(nn.Cell):
    """Micro-batch -> (loss, count of rows whose best class is the row's own label, gradients).

    Inputs: uint8 pixels (N, S, S, 3), int32 labels (N,), and the draws `names`, one tensor each (`drawn_tensors`).
    Gradients are those of the mean loss times `scale`.
    """

    def __init__(
        self,
        network: nn.Cell,
        parameters: Mapping[str, Parameter],
        augment: DeviceAugment,
        targets: SoftTargets,
        names: tuple[str, ...],
    ) -> None:
        super().__init__(auto_prefix=False)
        self.names = names
        self.network = network
        self.augment = augment
        self.targets = targets
        weights = ParameterTuple(tuple(parameters.values()))
        self.loss_and_gradients = ms.value_and_grad(self.scaled_loss, None, weights, has_aux=True)

    def construct(
        self, scale: Tensor, pixels_NHWC: Tensor, labels_N: Tensor, *drawn: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        # Named in here: MindSpore cannot keep a compiled graph that takes a dictionary (DECISIONS, 2026-11-28).
        draws = {self.names[i]: drawn[i] for i in range(len(self.names))}
        x_NHWC = self.augment(pixels_NHWC, draws)
        targets_NK = self.targets(labels_N, lam_N=draws.get("mix_lam"))
        (_, loss, correct), gradients = self.loss_and_gradients(x_NHWC, labels_N, targets_NK, draws.get("keep"), scale)
        return loss, correct, gradients

    def scaled_loss(
        self, x_NHWC: Tensor, labels_N: Tensor, targets_NK: Tensor, keep_NB: Tensor | None, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean cross entropy with the soft targets, scaled and unscaled, and the number of correct rows."""
        logits_NK = ops.cast(self.network(x_NHWC, keep_NB), ms.float32)
        loss = -ops.reduce_mean(ops.reduce_sum(targets_NK * ops.log_softmax(logits_NK, -1), -1))
        correct_N = ops.equal(ops.argmax(logits_NK, -1), labels_N)
        return loss * scale, loss, ops.reduce_sum(ops.cast(correct_N, ms.float32))


class AllReduce(nn.Cell):
    """Gradients of this rank -> those of the global batch; a single rank changes nothing.

    Each rank computes the gradients of `share` times the loss of its part, 1 / ranks, as a single device would for
    these rows; so their sum over the ranks is that of the batch. Counts and requests are summed, too.
    """

    def __init__(self, ranks: int) -> None:
        super().__init__(auto_prefix=False)
        self.ranks = ranks
        self.share = 1.0 / ranks
        if ranks > 1:
            self.sum = ops.AllReduce()

    def construct(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return gradients if self.ranks == 1 else tuple([self.sum(gradient) for gradient in gradients])

    def numbers(self, loss: Tensor, correct: Tensor, half_squares: Tensor, asked: Tensor) -> Tensor:
        """Return the numbers of all ranks as float32 (5,), in this order; so all ranks clip by the same norm."""
        if self.ranks == 1:
            return ops.concat((ops.stack((loss, correct, half_squares)), asked))
        means = ops.stack((loss * self.share, correct, half_squares * self.share))
        return self.sum(ops.concat((means, asked)))


class TrainStep(nn.Cell):
    """One optimizer step over one micro-batch: returns float32 (8,), see `learner.read_outcome`.

    `asked` float32 (2,) holds this rank's requests to all ranks, to stop and to save: 0 or 1 each.
    """

    def __init__(self, gradients: Gradients, allreduce: AllReduce, update: Update) -> None:
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.join = update.buckets
        self.allreduce = allreduce
        self.update = update

    def construct(self, rate: Tensor, decay: Tensor, asked: Tensor, *batch: Any) -> Tensor:
        scale = self.update.scale * 1.0
        loss, correct, gradients = self.gradients(scale * self.allreduce.share, *batch)
        gradients = self.update.unscaled(self.allreduce(self.join(gradients)))
        half_squares = self.update.half_squares(gradients)
        numbers = self.allreduce.numbers(loss, correct, half_squares, asked)
        norm, taken = self.update(gradients, numbers[HALF_SQUARES], rate, decay)
        return _outcome(numbers, norm, taken, scale)


class AccumulateStep(nn.Cell):
    """Add one micro-batch's loss, count and gradients to the sums, one for each bucket, which `UseSums` uses."""

    def __init__(self, gradients: Gradients, allreduce: AllReduce, update: Update) -> None:
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.share = allreduce.share
        self.update = update
        self.join = update.buckets
        buckets = zip(update.buckets.plan, update.buckets.buffers, strict=True)
        self.sums = ParameterTuple(
            tuple(_zeros(buffer.shape, f"gradient_sum.{bucket.name}") for bucket, buffer in buckets)
        )
        self.loss, self.correct = _zeros((), "loss_sum"), _zeros((), "correct_sum")
        self.map = ops.HyperMap()

    def construct(self, *batch: Any) -> Tensor:
        loss, correct, gradients = self.gradients(self.update.scale * self.share, *batch)
        done = self.map(_add, self.sums, self.join(gradients))
        done = ops.depend(ops.assign_add(self.loss, loss), done)
        return ops.depend(ops.assign_add(self.correct, correct), done)


class UseSums(nn.Cell):
    """One optimizer step with the mean over `count` micro-batches; then the sums start again at zero."""

    def __init__(self, accumulate: AccumulateStep, allreduce: AllReduce, update: Update, count: int) -> None:
        super().__init__(auto_prefix=False)
        self.allreduce = allreduce
        self.sums, self.loss, self.correct = accumulate.sums, accumulate.loss, accumulate.correct
        self.update = update
        self.share = 1.0 / count
        self.map = ops.HyperMap()

    def construct(self, rate: Tensor, decay: Tensor, asked: Tensor) -> Tensor:
        scale = self.update.scale * 1.0
        loss, correct = self.loss * self.share, self.correct * 1.0
        gradients = self.map(ops.partial(_take, self.share), self.sums)
        gradients = self.update.unscaled(self.allreduce(gradients))
        half_squares = self.update.half_squares(gradients)
        numbers = self.allreduce.numbers(loss, correct, half_squares, asked)
        norm, taken = self.update(gradients, numbers[HALF_SQUARES], rate, decay)
        outcome = _outcome(numbers, norm, taken, scale)
        totals = (*self.sums, self.loss, self.correct)
        return ops.depend(outcome, self.map(ops.partial(_clear, outcome), totals))


def _outcome(numbers: Tensor, norm: Tensor, taken: Tensor, scale: Tensor) -> Tensor:
    return ops.concat((numbers, ops.stack((norm, ops.cast(taken, ms.float32), scale))))


def _zeros(shape: tuple[int, ...], name: str) -> Parameter:
    return Parameter(Tensor(np.zeros(shape, np.float32)), name=name, requires_grad=False)


@_add.register("Tensor", "Tensor")
def _add_one(total, gradient):
    return ops.assign_add(total, gradient)


@_clear.register("Tensor", "Tensor")
def _clear_one(outcome, total):
    return ops.assign(total, ops.depend(ops.zeros_like(total), outcome))


@_take.register("Number", "Tensor")
def _take_one(share, total):
    return total * share
