"""Links of several launchers in one process, with real connections on the loopback address."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from convnext_imagenet.launch.ranks.job_token import JobToken
from convnext_imagenet.launch.ranks.launcher import free_port
from convnext_imagenet.launch.ranks.launcher_link import Link, open_link
from convnext_imagenet.launch.ranks.rank import Layout

SECONDS = 30.0
TOKEN = b"0123456789abcdef" * 2


@contextlib.contextmanager
def linked(nodes: int, attempt: int = 0) -> Iterator[list[Link]]:
    """The links of all machines of a job, once they are connected."""
    port = free_port() - 1
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(open_with_token(layout_of(port, nodes, node), attempt)) for node in range(nodes)]
        poll(links, lambda: len(known(links[0])) == nodes - 1 and all(known(link) for link in links))
        yield links


def open_with_token(layout: Layout, attempt: int = 0, token: bytes = TOKEN) -> AbstractContextManager[Link]:
    return open_link(layout, attempt, JobToken(token))


def layout_of(port: int, nodes: int = 2, node_rank: int = 0) -> Layout:
    return Layout(1, "CPU", port=port, nodes=nodes, node_rank=node_rank)


def known(link: Link) -> list[int]:
    return [peer.node for peer in link._peers if peer.node is not None]


def poll(links: list[Link], is_done: Callable[[], bool]) -> None:
    """Let the launchers receive until something holds."""
    begin = time.monotonic()
    while not is_done():
        assert time.monotonic() - begin < SECONDS, [(link._peers, link._outcome) for link in links]
        for link in links:
            link.receive()
        time.sleep(0.005)


def settle(links: list[Link]) -> None:
    """Long enough for whatever is under way to arrive."""
    for _ in range(20):
        for link in links:
            link.receive()
        time.sleep(0.005)
