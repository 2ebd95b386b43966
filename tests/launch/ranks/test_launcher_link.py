"""Launchers of several machines learn how each of them ended. `test_strangers.py` has everybody else."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks import launcher_link as module
from convnext_imagenet.launch.ranks.job_outcome import JobOutcome
from convnext_imagenet.launch.ranks.job_token import JobToken
from convnext_imagenet.launch.ranks.launcher import free_port
from convnext_imagenet.launch.ranks.launcher_link import Link, open_link
from convnext_imagenet.launch.ranks.rank import Layout

SECONDS = 30.0
TOKEN = b"0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def _retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.2)


@contextlib.contextmanager
def _links(nodes: int, attempt: int = 0) -> Iterator[list[Link]]:
    """The links of all machines of a job, once they are connected."""
    port = free_port() - 1
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(_open(_layout(port, nodes, node), attempt)) for node in range(nodes)]
        _poll(links, lambda: len(_known(links[0])) == nodes - 1 and all(_known(link) for link in links))
        yield links


def _open(layout: Layout, attempt: int = 0) -> AbstractContextManager[Link]:
    return open_link(layout, attempt, JobToken(TOKEN))


def _layout(port: int, nodes: int = 2, node_rank: int = 0) -> Layout:
    return Layout(1, "CPU", port=port, nodes=nodes, node_rank=node_rank)


def _known(link: Link) -> list[int]:
    return [peer.node for peer in link._peers if peer.node is not None]


def _poll(links: list[Link], is_done: Callable[[], bool]) -> None:
    """Let the launchers receive until something holds."""
    begin = time.monotonic()
    while not is_done():
        assert time.monotonic() - begin < SECONDS, [(link._peers, link._outcome) for link in links]
        for link in links:
            link.receive()
        time.sleep(0.005)


def _settle(links: list[Link]) -> None:
    """Long enough for whatever is under way to arrive."""
    for _ in range(20):
        for link in links:
            link.receive()
        time.sleep(0.005)


def test_a_job_on_one_machine_neither_listens_nor_receives() -> None:
    with _open(Layout(2, "CPU", port=1), 0) as link:
        assert link.listener is None
        link.send_stop()
        assert link.receive() is None
        link.send_outcome(JobOutcome(1))


@pytest.mark.parametrize("source", [0, 1, 2])
def test_a_stop_reaches_all_other_machines(source: int) -> None:
    with _links(3) as links:
        links[source].send_stop()
        others = [link for link in links if link is not links[source]]
        _poll(links, lambda: all(link.is_stopped_elsewhere for link in others))
        _settle(links)
        assert not links[source].is_stopped_elsewhere
        assert [link.receive() for link in links] == [None] * 3


@pytest.mark.parametrize("source", [0, 1, 2])
@pytest.mark.parametrize(("code", "was_refused"), [(1, True), (74, False)])
def test_a_failure_reaches_all_other_machines(source: int, code: int, was_refused: bool) -> None:
    with _links(3) as links:
        links[source].send_outcome(JobOutcome(code, source, "rank 0 ended", was_refused))
        links[source].close()
        others = [link for link in links if link is not links[source]]
        _poll(others, lambda: all(link.receive() for link in others))
        for link in others:
            outcome = link.receive()
            assert outcome is not None
            assert (outcome.code, outcome.was_refused, outcome.rank) == (code, was_refused, None)
            assert outcome.reason.startswith("the job ended on machine ")


@pytest.mark.parametrize("order", [(1, 2, 0), (0, 1, 2), (2, 0, 1)])
def test_machines_that_end_well_may_leave_one_after_the_other(order: tuple[int, ...]) -> None:
    with _links(3) as links:
        for count, node in enumerate(order, 1):
            links[node].send_outcome(JobOutcome(0))
            links[node].close()
            rest = [links[other] for other in order[count:]]
            _settle(rest)
            outcomes = [link.receive() for link in rest]
            assert all(outcome is None or outcome.code == 0 for outcome in outcomes), outcomes


def test_a_good_end_concerns_nobody_else_and_a_failure_after_it_counts() -> None:
    with _links(3) as links:
        links[1].send_outcome(JobOutcome(0))
        _poll(links[:1], lambda: links[0].receive() is not None)
        _settle(links)
        assert links[2].receive() is None
        links[2].send_outcome(JobOutcome(74))
        _poll(links[:2], lambda: [getattr(link.receive(), "code", None) for link in links[:2]] == [74, 74])


def test_an_outcome_is_sent_once() -> None:
    with _links(2) as links:
        links[1].send_outcome(JobOutcome(0))
        links[1].send_outcome(JobOutcome(1))
        _settle(links)
        assert links[0].receive() == JobOutcome(0, None, "the job ended on machine 1")


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_launcher_that_disconnects_without_an_outcome_ends_the_job(lost: int) -> None:
    with _links(3) as links:
        links[lost].close()
        others = [link for link in links if link is not links[lost]]
        _poll(others, lambda: all(link.receive() for link in others))
        outcomes = [link.receive() for link in others]
        assert {outcome.code for outcome in outcomes if outcome} == {1}
        assert f"lost the connection to the launcher of machine {lost}" in {
            outcome.reason for outcome in outcomes if outcome
        }


def test_a_launcher_waits_for_the_first_machine() -> None:
    port = free_port() - 1
    with _open(_layout(port, node_rank=1), 0) as second:
        _settle([second])
        assert second.receive() is None
        with _open(_layout(port), 0) as first:
            _poll([first, second], lambda: _known(first) == [1] and _known(second) == [0])


def test_a_launcher_that_is_ahead_by_an_attempt_waits_for_the_first_machine() -> None:
    port = free_port() - 1
    with _open(_layout(port, node_rank=1), attempt=1) as second:
        with _open(_layout(port), attempt=0) as first:
            _settle([first, second])
            assert (first.receive(), second.receive(), _known(second)) == (None, None, [])
        with _open(_layout(port), attempt=1) as first:
            _poll([first, second], lambda: _known(first) == [1] and _known(second) == [0])


def test_a_port_in_use_is_refused_with_the_option() -> None:
    port = free_port() - 1
    with (
        _open(_layout(port), 0),
        pytest.raises(LaunchError, match=rf"--rendezvous 127\.0\.0\.1:{port}: .* {port + 1}"),
    ):
        _open(_layout(port), 0).__enter__()
