"""Connects the launchers of several machines, so that all of them learn when a user stops the job or it has ended.

Machine 0's launcher listens one port above MindSpore's scheduler; the others connect, and it forwards what it receives.
Messages are lines of text: hello, welcome, stop, end. A launcher that disconnects without "end" has failed, and so has
the job. A launcher that gets no "welcome" connects again: machine 0 may still be busy with an earlier attempt.
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

_RETRY_SECONDS = 1.0  # machine 0 may be started after the others
_LONGEST_LINE_BYTES = 200  # a longer line comes from no launcher, and must not fill the memory


@dataclass(eq=False)
class _Peer:
    """A connection to the launcher of another machine; `node` is None until that launcher has sent its number."""

    connection: socket.socket
    node: int | None = None
    unread: bytes = b""


@dataclass
class Link:
    """This launcher's connections to the other machines. A call blocks for one second at most."""

    layout: Layout
    attempt: int
    listener: socket.socket | None = None
    is_stopped_elsewhere: bool = False
    _peers: list[_Peer] = field(default_factory=list)
    _outcome: JobOutcome | None = None
    _last_try: float = 0.0
    _has_sent_outcome: bool = False

    def receive(self) -> JobOutcome | None:
        """Read what has arrived, and return how the job ended on another machine, or None."""
        self._connect()
        for peer in list(self._peers):
            self._read(peer)
        return self._outcome

    def send_stop(self) -> None:
        """Send to the other machines that a user stops the job."""
        self._send("stop")

    def send_outcome(self, outcome: JobOutcome) -> None:
        """Send to the other machines how the job ended here; only the first call sends."""
        if not self._has_sent_outcome:
            self._has_sent_outcome = True
            self._send(f"end {outcome.code} {int(outcome.was_refused)}")

    def close(self) -> None:
        """Disconnect. Machines that have received no outcome treat this as a failure."""
        for connection in (self.listener, *(peer.connection for peer in self._peers)):
            if connection is not None:
                connection.close()

    def _connect(self) -> None:
        if self.listener is not None:
            with contextlib.suppress(BlockingIOError):
                connection, _ = self.listener.accept()
                connection.setblocking(False)
                self._peers.append(_Peer(connection))
        elif self.layout.nodes > 1 and not self._peers and time.monotonic() - self._last_try > _RETRY_SECONDS:
            self._last_try = time.monotonic()
            with contextlib.suppress(OSError):
                connection = socket.create_connection(_address(self.layout), timeout=_RETRY_SECONDS)
                connection.sendall(f"hello {self.layout.nodes} {self.layout.node_rank} {self.attempt}\n".encode())
                connection.setblocking(False)
                self._peers.append(_Peer(connection))

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.connection.recv(_LONGEST_LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, peer.unread = (peer.unread + data).split(b"\n")
        is_valid = all(self._handle(peer, line.decode(errors="replace").split()) for line in lines)
        if not is_valid or not data or len(peer.unread) > _LONGEST_LINE_BYTES:
            self._drop(peer)

    def _handle(self, peer: _Peer, words: list[str]) -> bool:
        """Handle one line; return False if no launcher of this job would send it."""
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
                self.is_stopped_elsewhere = True
                self._send("stop", skip=peer)
                return True
            case ["end", code, refused] if peer.node is not None and code.isdecimal():
                reason = f"the job ended on machine {peer.node}"
                self._record(JobOutcome(int(code), None, reason, refused == "1"), peer)
                return True
        return False

    def _drop(self, peer: _Peer) -> None:
        peer.connection.close()
        self._peers.remove(peer)
        if peer.node is not None:
            self._record(JobOutcome(1, None, f"lost the connection to the launcher of machine {peer.node}"), peer)

    def _record(self, outcome: JobOutcome, source: _Peer) -> None:
        if self._outcome is None or self._outcome.code in FINISHED:
            self._outcome = outcome
        if outcome.code not in FINISHED:
            self._send(f"end {outcome.code} {int(outcome.was_refused)}", skip=source)
        source.node = None  # to disconnect after the outcome is no failure

    def _send(self, line: str, skip: _Peer | None = None) -> None:
        for peer in self._peers:
            if peer is not skip:
                with contextlib.suppress(OSError):
                    peer.connection.sendall(f"{line}\n".encode())


@contextmanager
def open_link(layout: Layout, attempt: int) -> Iterator[Link]:
    """Yield this launcher's link to the other machines. Raises LaunchError when machine 0 cannot listen."""
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
