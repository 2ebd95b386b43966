"""The exchange between the ranks of a job: exact sums of whole numbers, and checks that ranks hold the same bytes.

Everything uses one all-reduce of float32, the only type that MindSpore sums on every device (DECISIONS, 2026-11-25).
"""

import atexit
import os
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from convnext_imagenet.base.cann import absent_modules, sourcing_advice
from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks.rank import SINGLE_RANK, Rank

Result = TypeVar("Result")

_DIGIT_BITS, _DIGITS = 12, 5  # float32 counts to 2 ** 24: digits below 4,096 stay exact in sums over 4,096 ranks
_SUM_LIMIT = 1 << (_DIGIT_BITS * _DIGITS)


class Ranks:
    """The ranks of one job; `own` is this one. A single rank exchanges nothing.

    All ranks must call the same methods in the same order. `all_reduce` replaces the device's all-reduce in tests.
    """

    def __init__(self, rank: Rank = SINGLE_RANK, all_reduce: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        self.own = rank
        self._injected = all_reduce

    def sum(self, counts: np.ndarray) -> np.ndarray:
        """Return the exact sum over ranks of whole numbers in [0, 2^60), int64 of the same shape.

        Raises ValueError for numbers outside that range.
        """
        counts = np.asarray(counts, np.int64)
        if self.own.world == 1:
            return counts
        if counts.size and (counts.min() < 0 or counts.max() >= _SUM_LIMIT):
            raise ValueError(f"counts range from {counts.min()} to {counts.max()}: must be in [0, 2^60)")
        return _from_digits(self._all_reduce(_to_digits(counts.reshape(-1)))).reshape(counts.shape)

    def check_same(self, what: str, digest: bytes) -> None:
        """Raise LaunchError on every rank unless all ranks call with the same bytes; `what` names them."""
        if self.own.world == 1:
            return
        table = np.zeros((self.own.world, len(digest)), np.int64)
        table[self.own.number] = np.frombuffer(digest, np.uint8)
        table = self.sum(table)
        different = [rank for rank, row in enumerate(table) if not np.array_equal(row, table[0])]
        if different:
            raise LaunchError(
                f"{what}: rank {', '.join(map(str, different))} differs from rank 0; all ranks must compute the "
                f"same bits: check for a faulty device or different software on the nodes, then run the command again"
            )

    def wait_for_all(self) -> None:
        """Return once every rank has called this."""
        self.sum(np.zeros(1, np.int64))

    def first_rank_first(self, work: Callable[[], Result]) -> Result:
        """Return `work()`; each machine's first rank does it before the others, so that they find its caches."""
        if self.own.device:
            self.wait_for_all()
            return work()
        result = work()
        self.wait_for_all()
        return result

    def _all_reduce(self, numbers: np.ndarray) -> np.ndarray:
        if self._injected is not None:
            return self._injected(numbers)
        return self._sum_cell(Tensor(numbers)).asnumpy()

    @cached_property
    def _sum_cell(self) -> nn.Cell:
        return _Sum()


SINGLE = Ranks()


def join(rank: Rank) -> Ranks:
    """Return the connected ranks of this job; connecting takes some seconds.

    Call it after `prepare` and before any tensor is created. Raises LaunchError if MindSpore cannot connect them.
    """
    if rank.world > 1:
        from mindspore.communication import init

        try:
            init()
        except RuntimeError as error:
            raise LaunchError(_why_not_connected(error, ms.get_context("device_target"))) from error
        atexit.register(_silence_stderr)
    return Ranks(rank)


def _why_not_connected(error: RuntimeError, target: str) -> str:
    """Return MindSpore's reason with its cause, such as a module that is absent, and what to do."""
    reason = str(error).strip().splitlines()[0].rstrip(".")
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    advice = "for details run `convnext-train doctor` with the same options"
    if target == "Ascend" and absent_modules():
        advice = sourcing_advice()
    return f"the ranks cannot be connected on {target}: {reason}{cause}; {advice}"


def _silence_stderr() -> None:
    """Hide what MindSpore prints at exit at any log level; our own output is complete by then."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


class _Sum(nn.Cell):
    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.all_reduce = ops.AllReduce()

    def construct(self, numbers: ms.Tensor) -> ms.Tensor:
        return self.all_reduce(numbers)


def _to_digits(counts: np.ndarray) -> np.ndarray:
    shifts = _DIGIT_BITS * np.arange(_DIGITS)
    return ((counts[:, None] >> shifts) & ((1 << _DIGIT_BITS) - 1)).astype(np.float32)


def _from_digits(digits: np.ndarray) -> np.ndarray:
    shifts = _DIGIT_BITS * np.arange(_DIGITS)
    return (digits.astype(np.int64) << shifts).sum(1)
