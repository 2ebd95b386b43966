"""Launchers of several machines learn how each of them ended. `test_strangers.py` has everybody else."""

import contextlib
import socket

import pytest

from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks import launcher_link as module
from convnext_imagenet.launch.ranks.job_outcome import JobOutcome
from convnext_imagenet.launch.ranks.launcher import free_port
from convnext_imagenet.launch.ranks.rank import Layout

from .links import known, layout_of, linked, open_with_token, poll, settle


@pytest.fixture(autouse=True)
def _retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.2)


def test_a_job_on_one_machine_neither_listens_nor_receives() -> None:
    with open_with_token(Layout(2, "CPU", port=1), 0) as link:
        assert link.listener is None
        link.send_stop()
        assert link.receive() is None
        link.send_outcome(JobOutcome(1))


@pytest.mark.parametrize("source", [0, 1, 2])
def test_a_stop_reaches_all_other_machines(source: int) -> None:
    with linked(3) as links:
        links[source].send_stop()
        others = [link for link in links if link is not links[source]]
        poll(links, lambda: all(link.is_stopped_elsewhere for link in others))
        settle(links)
        assert not links[source].is_stopped_elsewhere
        assert [link.receive() for link in links] == [None] * 3


@pytest.mark.parametrize("source", [0, 1, 2])
@pytest.mark.parametrize(("code", "was_refused"), [(1, True), (74, False)])
def test_a_failure_reaches_all_other_machines(source: int, code: int, was_refused: bool) -> None:
    with linked(3) as links:
        links[source].send_outcome(JobOutcome(code, source, "rank 0 ended", was_refused))
        links[source].close()
        others = [link for link in links if link is not links[source]]
        poll(others, lambda: all(link.receive() for link in others))
        for link in others:
            outcome = link.receive()
            assert outcome is not None
            assert (outcome.code, outcome.was_refused, outcome.rank) == (code, was_refused, None)
            assert outcome.reason.startswith("the job ended on machine ")


@pytest.mark.parametrize("order", [(1, 2, 0), (0, 1, 2), (2, 0, 1)])
def test_machines_that_end_well_may_leave_one_after_the_other(order: tuple[int, ...]) -> None:
    with linked(3) as links:
        for count, node in enumerate(order, 1):
            links[node].send_outcome(JobOutcome(0))
            links[node].close()
            rest = [links[other] for other in order[count:]]
            settle(rest)
            outcomes = [link.receive() for link in rest]
            assert all(outcome is None or outcome.code == 0 for outcome in outcomes), outcomes


def test_a_good_end_concerns_nobody_else_and_a_failure_after_it_counts() -> None:
    with linked(3) as links:
        links[1].send_outcome(JobOutcome(0))
        poll(links[:1], lambda: links[0].receive() is not None)
        settle(links)
        assert links[2].receive() is None
        links[2].send_outcome(JobOutcome(74))
        poll(links[:2], lambda: [getattr(link.receive(), "code", None) for link in links[:2]] == [74, 74])


def test_an_outcome_is_sent_once() -> None:
    with linked(2) as links:
        links[1].send_outcome(JobOutcome(0))
        links[1].send_outcome(JobOutcome(1))
        settle(links)
        assert links[0].receive() == JobOutcome(0, None, "the job ended on machine 1")


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_launcher_that_disconnects_without_an_outcome_ends_the_job(lost: int) -> None:
    with linked(3) as links:
        links[lost].close()
        others = [link for link in links if link is not links[lost]]
        poll(others, lambda: all(link.receive() for link in others))
        outcomes = [link.receive() for link in others]
        assert {outcome.code for outcome in outcomes if outcome} == {1}
        assert f"lost the connection to the launcher of machine {lost}" in {
            outcome.reason for outcome in outcomes if outcome
        }


def test_a_launcher_waits_for_the_first_machine() -> None:
    port = free_port() - 1
    with open_with_token(layout_of(port, node_rank=1), 0) as second:
        settle([second])
        assert second.receive() is None
        with open_with_token(layout_of(port), 0) as first:
            poll([first, second], lambda: known(first) == [1] and known(second) == [0])


def test_a_launcher_connects_again_when_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a power failure of the first machine, which closes no connection."""
    monkeypatch.setattr(module, "_SILENCE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        accepted = []

        def has_come_twice() -> bool:
            with contextlib.suppress(BlockingIOError):
                accepted.append(silent.accept()[0])
            return len(accepted) == 2

        with open_with_token(layout_of(silent.getsockname()[1] - 1, node_rank=1)) as link:
            poll([link], has_come_twice)
            assert link.receive() is None
        for connection in accepted:
            connection.close()


def test_a_launcher_that_is_ahead_by_an_attempt_waits_for_the_first_machine() -> None:
    port = free_port() - 1
    with open_with_token(layout_of(port, node_rank=1), attempt=1) as second:
        with open_with_token(layout_of(port), attempt=0) as first:
            settle([first, second])
            assert (first.receive(), second.receive(), known(second), first.dropped) == (None, None, [], 0)
        with open_with_token(layout_of(port), attempt=1) as first:
            poll([first, second], lambda: known(first) == [1] and known(second) == [0])


def test_a_port_in_use_is_refused_with_the_option() -> None:
    port = free_port() - 1
    with (
        open_with_token(layout_of(port), 0),
        pytest.raises(LaunchError, match=rf"--rendezvous 127\.0\.0\.1:{port}: .* {port + 1}"),
    ):
        open_with_token(layout_of(port), 0).__enter__()
