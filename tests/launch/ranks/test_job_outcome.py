"""Who is to blame when a job of several ranks ends, and whether starting again may help."""

import itertools

import pytest

from convnext_imagenet.launch.ranks.heartbeat import Heartbeat
from convnext_imagenet.launch.ranks.job_outcome import INTERRUPTED, JobOutcome, RankState, decide_outcome, may_restart

TIMEOUT_S = 10.0


def _states(*seen: tuple, beats: tuple[tuple[int, float], ...] = ()) -> list[RankState]:
    """The states of ranks 0, 1, ... by (code, ended_s), and by (steps, age_s) for those that do not just work."""
    pairs = itertools.zip_longest(seen, beats, fillvalue=(3, 0.0))
    return [
        RankState(rank, code, ended_s, Heartbeat(steps, "training", age_s))
        for rank, ((code, ended_s), (steps, age_s)) in enumerate(pairs)
    ]


RUNS, DONE, ERROR_ROWS, SAVED = (None, 0.0), (0, 2.0), (3, 2.0), (INTERRUPTED, 2.0)


@pytest.mark.parametrize(
    ("seen", "is_stopping", "expected"),
    [
        ([RUNS, RUNS], False, None),
        ([DONE, RUNS], False, None),
        ([(0, 900.0), SAVED, RUNS], True, None),
        ([DONE, DONE], False, JobOutcome(0)),
        ([DONE, (0, 900.0)], True, JobOutcome(0)),
        ([ERROR_ROWS, RUNS], False, None),
        ([ERROR_ROWS, DONE], False, JobOutcome(3)),
        ([ERROR_ROWS, SAVED], True, JobOutcome(INTERRUPTED)),
        ([SAVED, SAVED], True, JobOutcome(INTERRUPTED)),
        ([DONE, SAVED], True, JobOutcome(INTERRUPTED)),
        ([SAVED, SAVED], False, JobOutcome(INTERRUPTED)),
    ],
)
def test_a_job_ends_well_only_when_all_of_its_ranks_have(seen: list, is_stopping: bool, expected: object) -> None:
    assert decide_outcome(_states(*seen), TIMEOUT_S, is_stopping) == expected


@pytest.mark.parametrize(
    ("seen", "code", "rank", "reason"),
    [
        ([RUNS, (4, 0.1)], 4, 1, "rank 1 ended with exit code 4"),
        ([(1, 0.5), (74, 4.0), (2, 1.0)], 74, 1, "rank 1 ended with exit code 74"),
        ([(-11, 0.1), (1, 0.0)], 74, 0, "rank 0 was killed by SIGSEGV (after 3 steps, training)"),
        ([(1, 0.0), (-9, 0.1)], 74, 1, "rank 1 was killed by SIGKILL (after 3 steps, training)"),
        ([DONE, SAVED, ERROR_ROWS, (1, 0.0)], 1, 3, "rank 3 ended with exit code 1"),
    ],
)
def test_the_rank_that_failed_first_is_blamed_with_its_code(seen: list, code: int, rank: int, reason: str) -> None:
    outcome = decide_outcome(_states(*seen), TIMEOUT_S, is_stopping=False)
    assert outcome is not None
    assert (outcome.code, outcome.rank, outcome.reason) == (code, rank, reason)


@pytest.mark.parametrize(("ended_s", "is_over"), [(0.0, False), (4.9, False), (5.1, True)])
def test_once_the_first_rank_has_saved_the_others_get_five_seconds(ended_s: float, is_over: bool) -> None:
    expected = JobOutcome(INTERRUPTED) if is_over else None
    assert decide_outcome(_states((INTERRUPTED, ended_s), RUNS), TIMEOUT_S, is_stopping=True) == expected
    assert decide_outcome(_states(RUNS, (INTERRUPTED, ended_s)), TIMEOUT_S, is_stopping=True) is None, (
        "the first one saves"
    )


def test_the_end_by_the_stop_signal_is_no_failure_while_the_job_is_stopped() -> None:
    states = _states((-15, 6.0), (-15, 0.0))
    assert decide_outcome(states, TIMEOUT_S, is_stopping=True) == JobOutcome(INTERRUPTED)
    blamed = decide_outcome(states, TIMEOUT_S, is_stopping=False)
    assert blamed is not None
    assert (blamed.code, blamed.rank) == (74, 0)
    assert "killed by SIGTERM" in blamed.reason
    killed = decide_outcome(_states((-9, 6.0), (-15, 0.0)), TIMEOUT_S, is_stopping=True)
    assert killed is not None
    assert killed.code == 74, "another signal is one"


@pytest.mark.parametrize(
    ("beats", "rank"),
    [
        (((3, 10.0), (3, 9.0)), None),
        (((3, 10.1), (3, 9.0)), 0),
        (((0, 60.0), (0, 59.0)), None),  # six times as long before the first step
        (((0, 59.0), (0, 60.1)), 1),
        (((4, 10.1), (3, 10.2)), 1),  # rank 0 waits for rank 1
        (((4, 10.2), (3, 0.1)), 1),  # even if that one beats: it is behind
        (((3, 11.0), (3, 12.0)), 1),  # both as far: the one that was silent first
        (((5, 10.1), (0, 59.0)), 1),
    ],
)
def test_a_silent_job_is_blamed_on_the_rank_furthest_behind(beats: tuple, rank: int | None) -> None:
    outcome = decide_outcome(_states(RUNS, RUNS, beats=beats), TIMEOUT_S, is_stopping=False)
    assert (outcome and outcome.rank) == rank
    if outcome is not None:
        steps, age_s = beats[outcome.rank]
        assert outcome.code == 74
        assert not outcome.was_refused
        assert f"rank {rank} sent no heartbeat for {age_s:.0f} s (after {steps} steps, training)" in outcome.reason


def test_a_rank_that_has_ended_does_not_hang() -> None:
    assert decide_outcome(_states(DONE, RUNS, beats=((3, 900.0), (3, 0.0))), TIMEOUT_S, is_stopping=False) is None


@pytest.mark.parametrize("is_stopping", [False, True])
def test_a_rank_may_hang_while_the_job_is_stopped_too(is_stopping: bool) -> None:
    outcome = decide_outcome(_states(RUNS, SAVED, beats=((3, 11.0),)), TIMEOUT_S, is_stopping)
    assert outcome is not None
    assert (outcome.code, outcome.rank) == (74, 0)


@pytest.mark.parametrize(
    ("code", "steps", "expected"),
    [
        (0, 5, False),
        (INTERRUPTED, 5, False),
        (1, 0, False),  # refused: bad input stays bad
        (2, 0, False),
        (3, 5, False),
        (1, 1, True),
        (74, 0, True),  # a full disk may have been cleared
        (-9, 0, True),
        (-11, 7, True),
    ],
)
def test_a_job_is_started_again_unless_it_would_only_be_refused_again(code: int, steps: int, expected: bool) -> None:
    outcome = decide_outcome(_states((code, 1.0)), TIMEOUT_S, is_stopping=False)
    assert outcome is not None
    assert may_restart(outcome, steps) is expected
