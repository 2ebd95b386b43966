"""Starts the ranks of a job on this machine, watches them, and ends all of them when `decide_outcome` says so.

MindSpore's own msrun does not serve here, see DECISIONS.md; ranks find each other by the same documented variables.
"""

import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from convnext_imagenet.base.signals import StopSignals
from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks.job_outcome import FINISHED, INTERRUPTED, JobOutcome, decide_outcome, may_restart
from convnext_imagenet.launch.ranks.launcher_link import Link, open_link
from convnext_imagenet.launch.ranks.processes import Processes
from convnext_imagenet.launch.ranks.rank import Layout, divide_cores

_ADVICE = "run the same command again to resume"
_POLL_SECONDS = 0.1
_LAST_LINES = 20


@dataclass(frozen=True)
class LaunchPlan:
    """What a launcher is to do: run `command` once a rank, with logs in `logs`, on `cores` of this machine.

    A rank silent for `timeout_s` seconds counts as hung; a job that failed is started again `restarts` times.
    """

    layout: Layout
    command: Sequence[str]
    logs: Path
    cores: Sequence[int]
    timeout_s: float
    restarts: int = 0


def run_job(plan: LaunchPlan, say: Callable[[str], None]) -> int:
    """Run the job to its end and return its exit code; `say` gets a line for whatever the user should know.

    75 when signals stopped it, the code of the first rank that failed otherwise; no process is left behind.
    """
    with StopSignals(_ADVICE, more=(signal.SIGHUP,)) as stop:
        for attempt in range(plan.restarts + 1):
            outcome, steps = _attempt(plan, attempt, stop, say)
            if outcome.code in FINISHED:
                break
            say(f"Error: {outcome.reason}; all ranks are stopped")
            if attempt == plan.restarts or stop.received or not may_restart(outcome, steps):
                break
            say(f"starting again from the last checkpoint ({attempt + 1} of {plan.restarts} restarts)")
    return outcome.code


def free_port() -> int:
    """Return a TCP port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _attempt(plan: LaunchPlan, attempt: int, stop: StopSignals, say: Callable[[str], None]) -> tuple[JobOutcome, int]:
    """Run the job once; returns how it ended and how many steps the slowest rank of this machine had made."""
    with ExitStack() as stack:
        layout = plan.layout
        if layout.nodes == 1:
            layout = replace(layout, port=free_port())
        link = stack.enter_context(open_link(layout, attempt))
        processes = stack.enter_context(_started(plan, layout))
        outcome = _watch(processes, link, plan.timeout_s, stop, say)
        link.tell(outcome)
        if outcome.rank is not None and outcome.rank in layout.local_ranks:
            _show_end(processes, outcome.rank, say)
        steps = min(state.beat.steps for state in processes.states())
        if outcome.code in FINISHED:
            processes.wait_for_scheduler()
        return outcome, steps


@contextmanager
def _started(plan: LaunchPlan, layout: Layout) -> Iterator[Processes]:
    with ExitStack() as stack:
        try:
            plan.logs.mkdir(parents=True, exist_ok=True)
            processes = Processes(plan.command, layout, plan.logs, divide_cores(plan.cores, layout.devices))
            stack.callback(processes.end)
            processes.start(plan.timeout_s)
        except OSError as error:
            place = error.filename or plan.logs
            raise LaunchError(f"{place}: the ranks cannot be started ({error.strerror})") from None
        yield processes


def _watch(
    processes: Processes, link: Link, timeout_s: float, stop: StopSignals, say: Callable[[str], None]
) -> JobOutcome:
    is_stopping = False
    while True:
        elsewhere = link.other_outcome()
        if stop.count > 1:
            say("stopped by a second signal, without waiting for a checkpoint")
            return JobOutcome(INTERRUPTED)
        if not is_stopping and (stop.received or link.other_stops):
            is_stopping = True
            say("stopping: the ranks finish their step and save (a second signal ends them at once)")
            link.tell_stop()
            processes.stop()
        outcome = decide_outcome(processes.states(), timeout_s, is_stopping)
        if outcome is None and elsewhere is not None and elsewhere.code not in FINISHED:
            outcome = elsewhere
        if outcome is not None:
            return outcome
        time.sleep(_POLL_SECONDS)


def _show_end(processes: Processes, rank: int, say: Callable[[str], None]) -> None:
    if rank == processes.on_screen:
        return
    say(f"--- the last lines of rank {rank}, more in {processes.log(rank)}")
    for line in processes.last_lines(rank, _LAST_LINES):
        say(f"    {line}")
    say("---")
