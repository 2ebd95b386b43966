"""Starts the ranks of a job on this machine, watches them, and kills the rest once the job has an outcome.

It replaces MindSpore's msrun, which notices a dead rank late (DECISIONS, 2026-11-25), and sets the same documented
variables.
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
from convnext_imagenet.launch.ranks.cores import share_cores
from convnext_imagenet.launch.ranks.job_outcome import FINISHED, INTERRUPTED, JobOutcome, decide_outcome, may_restart
from convnext_imagenet.launch.ranks.job_token import JobToken, job_token
from convnext_imagenet.launch.ranks.launcher_link import Link, open_link
from convnext_imagenet.launch.ranks.processes import Processes
from convnext_imagenet.launch.ranks.rank import Layout

_ADVICE = "run the same command again to resume"
_POLL_SECONDS = 0.1  # how late a dead rank is noticed; the others wait in their all-reduce until then
_LAST_LINES = 20  # a traceback usually fits


@dataclass(frozen=True)
class LaunchPlan:
    """The task of a launcher: run `command` once per rank, with logs in `logs`, on `cores` of this machine.

    A rank without a heartbeat for `timeout_s` seconds is hung. A failed job is restarted up to `restarts` times.
    `shared` is a folder in which the launchers of several machines share the job's token; None if there is no such one.
    """

    layout: Layout
    command: Sequence[str]
    logs: Path
    cores: Sequence[int]
    timeout_s: float
    restarts: int = 0
    shared: Path | None = None


def run_job(plan: LaunchPlan, echo: Callable[[str], None]) -> int:
    """Run the job to its end and return its exit code; `echo` gets each line for the user.

    The code is 75 if a signal stopped the job, else that of the first rank that failed. No process is left behind.
    Raises LaunchError when ranks cannot be started, or the machines do not have the same token.
    """
    dropped = 0
    with StopSignals(_ADVICE, more=(signal.SIGHUP,)) as stop, job_token(plan.layout, plan.shared) as token:
        for attempt in range(plan.restarts + 1):
            outcome, steps, strangers = _run_once(plan, attempt, token, stop, echo)
            dropped += strangers
            if outcome.code in FINISHED:
                break
            echo(f"Error: {outcome.reason}; all ranks were stopped")
            if attempt == plan.restarts or stop.received or not may_restart(outcome, steps):
                break
            echo(f"restarting from the last checkpoint (restart {attempt + 1} of {plan.restarts})")
    if dropped:
        echo(
            f"dropped {dropped} connection{'s' * (dropped != 1)} without the job's token on port {plan.layout.port + 1}"
        )
    return outcome.code


def free_port() -> int:
    """Return a TCP port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run_once(
    plan: LaunchPlan, attempt: int, token: JobToken, stop: StopSignals, echo: Callable[[str], None]
) -> tuple[JobOutcome, int, int]:
    """Run the job once.

    Returns how it ended, how many steps the slowest rank of this machine had finished, and how many connections were
    dropped because they lacked the token.
    """
    with ExitStack() as stack:
        layout = plan.layout
        if layout.nodes == 1:
            layout = replace(layout, port=free_port())  # so that two jobs on one machine do not collide
        link = stack.enter_context(open_link(layout, attempt, token))
        processes = stack.enter_context(_started_ranks(plan, layout, echo))
        outcome = _watch(processes, link, plan.timeout_s, stop, echo)
        link.send_outcome(outcome)
        if outcome.rank is not None and outcome.rank in layout.local_ranks:
            _show_last_lines(processes, outcome.rank, echo)
        steps = min(state.heartbeat.steps for state in processes.states())
        if outcome.code in FINISHED:
            processes.wait_for_scheduler()
        return outcome, steps, link.dropped


@contextmanager
def _started_ranks(plan: LaunchPlan, layout: Layout, echo: Callable[[str], None]) -> Iterator[Processes]:
    cores, rule = share_cores(layout.target, plan.cores, layout.devices)
    if rule:
        echo(rule)
    with ExitStack() as stack:
        try:
            plan.logs.mkdir(parents=True, exist_ok=True)
            processes = Processes(plan.command, layout, plan.logs, cores)
            stack.callback(processes.kill)
            processes.start(plan.timeout_s)
        except OSError as error:
            path = error.filename or plan.logs
            raise LaunchError(f"{path}: the ranks cannot be started ({error.strerror})") from None
        yield processes


def _watch(
    processes: Processes, link: Link, timeout_s: float, stop: StopSignals, echo: Callable[[str], None]
) -> JobOutcome:
    is_stopping = False
    while True:
        elsewhere = link.receive()
        if stop.count > 1:
            echo("stopped by a second signal, without saving a checkpoint")
            return JobOutcome(INTERRUPTED)
        if not is_stopping and (stop.received or link.is_stopped_elsewhere):
            is_stopping = True
            echo("stopping: each rank finishes its step and saves (a second signal stops at once)")
            link.send_stop()
            processes.request_stop()
        outcome = decide_outcome(processes.states(), timeout_s, is_stopping)
        if outcome is None and elsewhere is not None and elsewhere.code not in FINISHED:
            outcome = elsewhere
        if outcome is not None:
            return outcome
        time.sleep(_POLL_SECONDS)


def _show_last_lines(processes: Processes, rank: int, echo: Callable[[str], None]) -> None:
    if rank == processes.screen_rank:
        return
    echo(f"--- last lines of rank {rank}; its whole log is {processes.log(rank)}")
    for line in processes.last_lines(rank, _LAST_LINES):
        echo(f"    {line}")
    echo("---")
