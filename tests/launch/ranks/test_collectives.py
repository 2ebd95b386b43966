"""Sums over ranks are exact, and ranks that differ are named on all of them."""

import threading
import time

import numpy as np
import pytest

from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks.collectives import SINGLE, Ranks, join
from convnext_imagenet.launch.ranks.rank import Rank

from ..together import run_together

LARGEST = 2**60 - 1


@pytest.mark.parametrize("count", [2, 3, 7])
def test_sums_are_exact_up_to_the_largest_number(count: int) -> None:
    edges = [0, 1, 4095, 4096, 2**24 + 1, 2**53 + 1, LARGEST - 4096, LARGEST]
    sums = run_together(count, lambda ranks: ranks.sum(np.array(edges)).tolist())
    assert sums == [[count * edge for edge in edges]] * count


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3, 4)])
def test_sums_have_the_shape_and_the_values_of_a_sum(shape: tuple[int, ...]) -> None:
    counts = [np.random.default_rng(rank).integers(0, LARGEST + 1, shape, dtype=np.int64) for rank in range(3)]
    for total in run_together(3, lambda ranks: ranks.sum(counts[ranks.own.number])):
        np.testing.assert_array_equal(total, sum(counts[1:], counts[0]))
        assert (total.dtype, total.shape) == (np.int64, shape)


def test_the_digits_of_thousands_of_ranks_still_fit_float32() -> None:
    """4,096 ranks, as large as any digit can be, and odd sums of digits: beyond 2^24 float32 would skip these."""
    most, one_less_in_each_digit = 2**48 - 1, 2**48 - 1 - sum(2**shift for shift in (0, 12, 24, 36))
    ranks = Ranks(Rank(0, 4096), lambda numbers: numbers * np.float32(4095) + np.maximum(numbers - 1, 0))
    assert ranks.sum(np.array(most)) == 4095 * most + one_less_in_each_digit


@pytest.mark.parametrize("wrong", [-1, LARGEST + 1])
def test_numbers_that_would_not_add_up_are_refused_before_anything_is_exchanged(wrong: int) -> None:
    ranks = Ranks(Rank(0, 2), lambda numbers: pytest.fail("exchanged"))
    with pytest.raises(ValueError, match=r"must be in \[0, 2\^60\)"):
        ranks.sum(np.array([0, wrong]))


def test_ranks_that_hold_the_same_bytes_agree() -> None:
    run_together(3, lambda ranks: ranks.check_same("weights", bytes(range(256))))


@pytest.mark.parametrize(
    ("digests", "names"),
    [
        ([b"\x00\x01", b"\x00\x02"], "1"),
        ([b"aa", b"aa", b"ab", b"aa"], "2"),
        ([b"\xff\x00", b"\x00\xff", b"\xff\x00", b"\x80\x7f"], "1, 3"),  # the same sums of bytes
        ([b"ab", b"aa", b"aa"], "1, 2"),  # whom to trust cannot be told, so all are named against the first
    ],
)
def test_every_rank_names_those_that_differ(digests: list[bytes], names: str) -> None:
    def check(ranks: Ranks) -> str:
        with pytest.raises(LaunchError) as error:
            ranks.check_same("weights after step 7", digests[ranks.own.number])
        return str(error.value)

    said = run_together(len(digests), check)
    assert len(set(said)) == 1
    assert said[0].startswith(f"weights after step 7: rank {names} differs from rank 0; ")


@pytest.mark.parametrize(("count", "devices"), [(2, 2), (3, 3), (4, 2), (3, 1)])
def test_the_first_rank_of_each_machine_works_before_the_others(count: int, devices: int) -> None:
    begun, order, lock = threading.Barrier(count, timeout=60), [], threading.Lock()

    def take_turn(ranks: Ranks) -> int:
        def work() -> int:
            time.sleep(0.02 if ranks.own.device == 0 else 0)  # whoever does not wait comes first
            with lock:
                order.append(ranks.own.device == 0)
            return 10 * ranks.own.number

        begun.wait()
        return ranks.first_rank_first(work)

    assert run_together(count, take_turn, devices) == [10 * rank for rank in range(count)]
    assert order == sorted(order, reverse=True)
    assert sum(order) == count // devices


def test_alone_nothing_is_exchanged() -> None:
    ranks = Ranks(all_reduce=lambda numbers: pytest.fail("exchanged"))
    assert ranks.sum(np.array([-5, 2**62])).tolist() == [-5, 2**62]
    ranks.check_same("weights", b"x")
    ranks.wait_for_all()
    assert ranks.first_rank_first(lambda: "done") == "done"
    assert SINGLE.own == ranks.own == Rank(0, 1, 0)


@pytest.mark.parametrize(
    ("target", "absent", "advice"),
    [
        ("Ascend", ("hccl",), r"set_env\.sh"),
        ("Ascend", (), "for details run `convnext-train doctor`"),
        ("CPU", ("te", "hccl"), "for details run `convnext-train doctor`"),
    ],
)
def test_ranks_that_mindspore_cannot_connect_say_why_in_one_line(
    monkeypatch: pytest.MonkeyPatch, target: str, absent: tuple[str, ...], advice: str
) -> None:
    def fail() -> None:
        cause = ModuleNotFoundError("No module named 'hccl'")
        raise RuntimeError('"hccl" wheel was not installed correctly.\n\n- C++ Call Stack: ...') from cause

    monkeypatch.setattr("mindspore.communication.init", fail)
    monkeypatch.setattr("mindspore.get_context", lambda _: target)
    monkeypatch.setattr("convnext_imagenet.launch.ranks.collectives.absent_modules", lambda: absent)
    with pytest.raises(LaunchError, match=f"; .*{advice}") as error:
        join(Rank(0, 2))
    start = f"the ranks cannot be connected on {target}: "
    assert str(error.value).startswith(f"{start}\"hccl\" wheel was not installed correctly (No module named 'hccl'); ")
    assert "\n" not in str(error.value)
