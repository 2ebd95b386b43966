"""What launchers on several machines tell each other: that a user stops the job, and how it ended.

The first machine's launcher listens one port above MindSpore's scheduler, the others connect, and it passes on what it
hears. A launcher that goes without a word ends the job. Four kinds of lines pass: hello, welcome, stop, end. Until a
launcher is welcome it tries again: the first may still be busy with an earlier attempt.
"""

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks.job_outcome import FINISHED, JobOutcome
from convnext_imagenet.launch.ranks.rank import Layout

_RETRY_SECONDS = 1.0
_LONGEST_LINE = 200


@dataclass(eq=False)
class _Peer:
    """A launcher of another machine, once it has said who it is."""

    connection: socket.socket
    node: int | None = None
    unread: bytes = b""


@dataclass
class Link:
    """This launcher's connections; without other machines it has none. It blocks for a second at most."""

    layout: Layout
    attempt: int
    listener: socket.socket | None = None
    other_stops: bool = False
    _peers: list[_Peer] = field(default_factory=list)
    _outcome: JobOutcome | None = None
    _tried: float = 0.0
    _has_told: bool = False

    def other_outcome(self) -> JobOutcome | None:
        """Hear what has come; returns how the job ended on another machine, or None."""
        self._meet()
        for peer in list(self._peers):
            self._hear(peer)
        return self._outcome

    def tell_stop(self) -> None:
        """Let the others know that a user stops the job."""
        self._send("stop")

    def tell(self, outcome: JobOutcome) -> None:
        """Let the others know how it ended here, once."""
        if not self._has_told:
            self._has_told = True
            self._send(f"end {outcome.code} {int(outcome.was_refused)}")

    def close(self) -> None:
        """Leave; whoever has not been told anything takes it for a failure."""
        for each in (self.listener, *(peer.connection for peer in self._peers)):
            if each is not None:
                each.close()

    def _meet(self) -> None:
        if self.listener is not None:
            with contextlib.suppress(BlockingIOError):
                connection, _ = self.listener.accept()
                connection.setblocking(False)
                self._peers.append(_Peer(connection))
        elif self.layout.nodes > 1 and not self._peers and time.monotonic() - self._tried > _RETRY_SECONDS:
            self._tried = time.monotonic()
            with contextlib.suppress(OSError):
                connection = socket.create_connection(_address(self.layout), timeout=_RETRY_SECONDS)
                connection.sendall(f"hello {self.layout.nodes} {self.layout.node_rank} {self.attempt}\n".encode())
                connection.setblocking(False)
                self._peers.append(_Peer(connection))

    def _hear(self, peer: _Peer) -> None:
        try:
            data = peer.connection.recv(_LONGEST_LINE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, peer.unread = (peer.unread + data).split(b"\n")
        is_sane = all(self._take(peer, line.decode(errors="replace").split()) for line in lines)
        if not is_sane or not data or len(peer.unread) > _LONGEST_LINE:
            self._lose(peer)

    def _take(self, peer: _Peer, words: list[str]) -> bool:
        """Act on a line; False for one that no launcher of this job would send."""
        match words:
            case ["hello", nodes, node, attempt] if self.listener is not None:
                if (nodes, attempt) == (str(self.layout.nodes), str(self.attempt)) and node.isdecimal():
                    peer.node = int(node)
                    with contextlib.suppress(OSError):
                        peer.connection.sendall(b"welcome\n")
                    return True
            case ["welcome"] if self.listener is None:
                peer.node = 0
                return True
            case ["stop"] if peer.node is not None:
                self.other_stops = True
                self._send("stop", but=peer)
                return True
            case ["end", code, refused] if peer.node is not None and code.isdecimal():
                self._conclude(
                    JobOutcome(int(code), None, f"the job ended on machine {peer.node}", refused == "1"), peer
                )
                return True
        return False

    def _lose(self, peer: _Peer) -> None:
        peer.connection.close()
        self._peers.remove(peer)
        if peer.node is not None:
            self._conclude(JobOutcome(1, None, f"the launcher of machine {peer.node} is gone"), peer)

    def _conclude(self, outcome: JobOutcome, source: _Peer) -> None:
        if self._outcome is None or self._outcome.code in FINISHED:
            self._outcome = outcome
        if outcome.code not in FINISHED:
            self._send(f"end {outcome.code} {int(outcome.was_refused)}", but=source)
        source.node = None  # it has said all that it has to say, so its leaving is no news

    def _send(self, line: str, but: _Peer | None = None) -> None:
        for peer in self._peers:
            if peer is not but:
                with contextlib.suppress(OSError):
                    peer.connection.sendall(f"{line}\n".encode())


@contextmanager
def open_link(layout: Layout, attempt: int) -> Iterator[Link]:
    """Yield this launcher's link to those on other machines; LaunchError when the first cannot listen."""
    link = Link(layout, attempt, _listen(layout) if layout.nodes > 1 and layout.node_rank == 0 else None)
    try:
        yield link
    finally:
        link.close()


def _address(layout: Layout) -> tuple[str, int]:
    return layout.host, layout.port + 1


def _listen(layout: Layout) -> socket.socket:
    host, port = _address(layout)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise LaunchError(
            f"--rendezvous {host}:{layout.port}: cannot bind port {port} ({error.strerror}); machine 0 needs this port "
            f"and the next: name an address of this machine and choose two ports that are free"
        ) from None
    listener.listen(layout.nodes)
    listener.setblocking(False)
    return listener
