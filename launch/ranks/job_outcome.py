"""Decides when a job of several ranks is over and how it ended, as pure functions of the states of its ranks."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from convnext_imagenet.base.errors import FailedError
from convnext_imagenet.launch.ranks.heartbeat import Heartbeat
from convnext_imagenet.launch.ranks.rank import START_FACTOR

INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later
FINISHED = (0, 3, INTERRUPTED)  # done, done with error rows, saved; the job's code is the greatest code of its ranks
_REFUSED = (1, 2)  # bad input, wrong usage: before the first step a restart would be refused again
_EXIT_SECONDS = 5.0  # how long the other ranks may take to exit after the first has saved and exited


@dataclass(frozen=True)
class RankState:
    """A rank as its launcher sees it. `code` is None while it runs; `ended_s` is the number of seconds since it ended.

    A negative `code` is the number of the signal that killed it, as in `subprocess`.
    """

    rank: int
    code: int | None
    ended_s: float
    heartbeat: Heartbeat


@dataclass(frozen=True)
class JobOutcome:
    """The exit code of a job that is over; `rank` is the rank that caused a failure, or None."""

    code: int
    rank: int | None = None
    reason: str = ""
    was_refused: bool = False


def decide_outcome(states: Sequence[RankState], timeout_s: float, is_stopping: bool) -> JobOutcome | None:
    """Return how the job ended, or None while it runs.

    `states` begins with this machine's first rank: it saves when the ranks are stopped, so the job waits for it. Ranks
    that still run when there is an outcome have nothing left to do and may be killed.
    """
    codes = {state.rank: _effective_code(state.code, is_stopping) for state in states}
    failed = [state for state in states if codes[state.rank] not in (None, *FINISHED)]
    if failed:
        first = max(failed, key=lambda state: state.ended_s)
        refused = first.code in _REFUSED
        return JobOutcome(_exit_code(first.code), first.rank, f"rank {first.rank} {_describe_end(first)}", refused)
    lead = states[0]
    ended = [code for code in codes.values() if code is not None]
    if len(ended) == len(codes):
        return JobOutcome(max(ended))
    if codes[lead.rank] == INTERRUPTED and lead.ended_s > _EXIT_SECONDS:
        return JobOutcome(INTERRUPTED)
    return _find_hung([state for state in states if state.code is None], timeout_s)


def may_restart(outcome: JobOutcome, steps: int) -> bool:
    """Return whether a restart may help. It does not after a refusal before the first step: the input is bad."""
    return outcome.code not in FINISHED and not (outcome.was_refused and steps == 0)


def _effective_code(code: int | None, is_stopping: bool) -> int | None:
    """Return `code`, or INTERRUPTED for a rank that the stop signal killed at its start: it had nothing to save."""
    return INTERRUPTED if is_stopping and code == -signal.SIGTERM else code


def _find_hung(running: Sequence[RankState], timeout_s: float) -> JobOutcome | None:
    """Return a failure of the slowest rank if any heartbeat is too old, because the others wait for the slowest."""
    allowed = {state.rank: timeout_s * (1 if state.heartbeat.steps else START_FACTOR) for state in running}
    if all(state.heartbeat.age_s <= allowed[state.rank] for state in running):
        return None
    behind = min(running, key=lambda state: (state.heartbeat.steps, -state.heartbeat.age_s))
    last = behind.heartbeat
    return JobOutcome(
        FailedError.exit_code,
        behind.rank,
        f"rank {behind.rank} sent no heartbeat for {last.age_s:.0f} s "
        f"({_describe_progress(last)}); other ranks may have waited for it",
    )


def _describe_end(state: RankState) -> str:
    if state.code is not None and state.code < 0:
        number = -state.code
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return f"was killed by {name} ({_describe_progress(state.heartbeat)})"
    return f"ended with exit code {state.code}"


def _describe_progress(last: Heartbeat) -> str:
    return f"after {last.steps} step{'s' * (last.steps != 1)}, {last.doing}"


def _exit_code(code: int | None) -> int:
    """Return the code of a rank that ended by itself; a rank that a signal killed is a failure of the machine."""
    return code if code is not None and code > 0 else FailedError.exit_code
