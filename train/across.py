"""What the ranks of a step share, inside the compiled graph: the mean of their gradients, sums of a few numbers."""

from collections.abc import Sequence

from mindspore import Parameter, Tensor, nn, ops


class AcrossRanks(nn.Cell):
    """This rank's gradients and numbers in, those of the global batch out; alone, nothing changes.

    Gradients and loss are means over equal shares of the batch, so their means over the ranks are those of the batch;
    counts and requests are summed.
    """

    def __init__(self, parameters: Sequence[Parameter], ranks: int) -> None:
        super().__init__(auto_prefix=False)
        self.ranks = ranks
        if ranks > 1:
            self.mean = nn.DistributedGradReducer(tuple(parameters), mean=True, degree=ranks)
            self.sum = ops.AllReduce()

    def construct(
        self, gradients: tuple[Tensor, ...], loss: Tensor, correct: Tensor, asked: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor]:
        if self.ranks == 1:
            return gradients, loss, correct, asked
        numbers = self.sum(ops.concat((ops.stack((loss / self.ranks, correct)), asked)))
        return self.mean(gradients), numbers[0], numbers[1], numbers[2:]
