"""When a job of several ranks is over, and how it ended: a pure function of what its ranks are seen to do."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from convnext_imagenet.launch.ranks.heartbeat import Heartbeat
from convnext_imagenet.launch.ranks.rank import START_FACTOR

INTERRUPTED = 75
FINISHED = (0, 3, INTERRUPTED)  # done, done with error rows, saved; the greatest of the ranks' speaks for the job
_REFUSED = (1, 2)  # a refusal before the first step would only be refused again
_LEAVE_SECONDS = 5.0  # how long the other ranks get to leave once the first has saved and left


@dataclass(frozen=True)
class RankState:
    """A rank as its launcher sees it; `code` is None while it runs, `ended_s` how long ago it ended."""

    rank: int
    code: int | None
    ended_s: float
    beat: Heartbeat


@dataclass(frozen=True)
class JobOutcome:
    """The exit code of a job that is over; `rank` is the one to blame, None when there is none."""

    code: int
    rank: int | None = None
    reason: str = ""
    was_refused: bool = False


def decide_outcome(states: Sequence[RankState], timeout_s: float, is_stopping: bool) -> JobOutcome | None:
    """Return how the job ended, or None while it goes on.

    `states` begins with this machine's first rank, which saves when the ranks are stopped and is waited for. Ranks that
    still run after an outcome have nothing left to do and may be killed.
    """
    codes = {state.rank: _meaning(state.code, is_stopping) for state in states}
    failed = [state for state in states if codes[state.rank] not in (None, *FINISHED)]
    if failed:
        first = max(failed, key=lambda state: state.ended_s)
        refused = first.code in _REFUSED
        return JobOutcome(_exit_code(first.code or 1), first.rank, f"rank {first.rank} {_told(first)}", refused)
    lead = states[0]
    ended = [code for code in codes.values() if code is not None]
    if len(ended) == len(codes):
        return JobOutcome(max(ended))
    if codes[lead.rank] == INTERRUPTED and lead.ended_s > _LEAVE_SECONDS:
        return JobOutcome(INTERRUPTED)
    return _find_hung([state for state in states if state.code is None], timeout_s)


def may_restart(outcome: JobOutcome, steps: int) -> bool:
    """Whether starting again may help: not after a refusal before the first step, which bad input causes."""
    return outcome.code not in FINISHED and not (outcome.was_refused and steps == 0)


def _meaning(code: int | None, is_stopping: bool) -> int | None:
    """A rank that the stop signal met before it could hold it back has nothing to save."""
    return INTERRUPTED if is_stopping and code == -signal.SIGTERM else code


def _find_hung(running: Sequence[RankState], timeout_s: float) -> JobOutcome | None:
    """The rank furthest behind when one is silent for too long: the others wait for it."""
    allowed = {state.rank: timeout_s * (1 if state.beat.steps else START_FACTOR) for state in running}
    if all(state.beat.silent_s <= allowed[state.rank] for state in running):
        return None
    behind = min(running, key=lambda state: (state.beat.steps, -state.beat.silent_s))
    beat = behind.beat
    return JobOutcome(
        1,
        behind.rank,
        f"rank {behind.rank} gave no heartbeat for {beat.silent_s:.0f} s "
        f"(after {beat.steps} steps, {beat.doing}); others may have waited for it",
    )


def _told(state: RankState) -> str:
    if state.code is not None and state.code < 0:
        name = next((each.name for each in signal.Signals if each == -state.code), f"signal {-state.code}")
        return f"was killed by {name} (after {state.beat.steps} steps, {state.beat.doing})"
    return f"ended with exit code {state.code}"


def _exit_code(code: int) -> int:
    return code if code > 0 else 1
