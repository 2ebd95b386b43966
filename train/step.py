"""One training step as one compiled graph: augment, forward, loss, gradients, AdamW.

All-reduce, clipping, loss scale and EMA belong between the gradients and the optimizer.
"""

from collections.abc import Mapping

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from convnext_imagenet.train.device_augment import DeviceAugment, SoftTargets
from convnext_imagenet.train.optimizer import AdamW


class TrainStep(nn.Cell):
    """Run one optimizer step and return (loss, count of rows whose best class is the label).

    Inputs: uint8 pixels (N, S, S, 3), int32 labels (N,), bool flips (N,), the drop-path multipliers keep_NB of
    shape (N, blocks), and the learning rate as a float32 scalar tensor, so that no value recompiles the graph.
    """

    def __init__(
        self,
        network: nn.Cell,
        parameters: Mapping[str, Parameter],
        augment: DeviceAugment,
        targets: SoftTargets,
        optimizer: AdamW,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.augment = augment
        self.targets = targets
        self.optimizer = optimizer
        weights = ms.ParameterTuple(tuple(parameters.values()))
        self.loss_and_gradients = ms.value_and_grad(self.loss, None, weights, has_aux=True)

    def construct(
        self, pixels_NHWC: Tensor, labels_N: Tensor, flip_N: Tensor, keep_NB: Tensor | None, rate: Tensor
    ) -> tuple[Tensor, Tensor]:
        x_NHWC = self.augment(pixels_NHWC, flip_N)
        (loss, correct), gradients = self.loss_and_gradients(x_NHWC, labels_N, keep_NB)
        return ops.depend(loss, self.optimizer(gradients, rate)), correct

    def loss(self, x_NHWC: Tensor, labels_N: Tensor, keep_NB: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the mean cross entropy with the soft targets, and the count of rows guessed right."""
        logits_NK = self.network(x_NHWC, keep_NB)
        targets_NK = self.targets(labels_N)
        loss = -ops.reduce_mean(ops.reduce_sum(targets_NK * ops.log_softmax(logits_NK, -1), -1))
        correct_N = ops.equal(ops.argmax(logits_NK, -1), labels_N)
        return loss, ops.reduce_sum(ops.cast(correct_N, ms.float32))
