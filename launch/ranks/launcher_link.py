"""Connects the launchers of several machines, so that all of them learn when a user stops the job or it has ended.

Machine 0's launcher listens one port above MindSpore's scheduler; the others connect, and it forwards what it receives.
Messages are lines signed with the job's token: hello, welcome, wait, stop, end. A launcher that disconnects without
"end" has failed, and so has the job. A launcher that gets no "welcome" connects again: machine 0 may not be started
yet, or be busy with an earlier attempt ("wait").

Anybody may connect. A connection without a signed line is dropped when it sends anything else, after a few seconds,
or when too many newer ones have come; it is only counted.
"""

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks.job_outcome import FINISHED, JobOutcome
from convnext_imagenet.launch.ranks.job_token import JobToken
from convnext_imagenet.launch.ranks.rank import Layout
from convnext_imagenet.launch.ranks.signed_lines import CALLER, LISTENER, SignedLines

_RETRY_SECONDS = 1.0  # machine 0 may be started after the others
_PROOF_SECONDS = 120.0  # how long machine 0 may listen without a signed line; NFS shows a new file within 60 s
_ANSWER_SECONDS = 5.0  # how long a connection may be without a signed line; a launcher answers at once
_SILENCE_SECONDS = 20.0  # after which a caller connects again: the machine that it has reached may be gone
_MOST_UNPROVEN = 128  # connections without a signed line
_MOST_WAITING = 1024  # connections that the kernel holds until the next call accepts them
_LONGEST_LINE_BYTES = 200  # a longer line comes from no launcher, and must not fill the memory


@dataclass(eq=False)
class _Peer:
    """A connection; `is_proven` once it has sent a signed line, `node` is None until it has sent its number."""

    connection: socket.socket
    lines: SignedLines
    since: float
    is_proven: bool = False
    node: int | None = None
    unread: bytes = b""


@dataclass
class Link:
    """This launcher's connections to the other machines. A call blocks for one second at most."""

    layout: Layout
    attempt: int
    token: JobToken
    listener: socket.socket | None = None
    is_stopped_elsewhere: bool = False
    _dropped: int = 0
    _peers: list[_Peer] = field(default_factory=list)
    _outcome: JobOutcome | None = None
    _last_try: float = 0.0
    _unproven_since: float | None = None
    _has_sent_outcome: bool = False

    @property
    def dropped(self) -> int:
        """Return how many connections came without the job's token; one that has sent no signed line yet is one."""
        return self._dropped + len(self._unproven()) if self.listener is not None else 0

    def receive(self) -> JobOutcome | None:
        """Read what has arrived, and return how the job ended on another machine, or None.

        Raises LaunchError when machine 0 has listened for two minutes without a line that is signed with the token.
        """
        for peer in list(self._peers):  # first: what has answered by now is not dropped for newer connections
            self._read(peer)
        if self.listener is not None:
            self._accept(self.listener)
        elif self.layout.nodes > 1:
            self._call()
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

    def _accept(self, listener: socket.socket) -> None:
        token = self.token.read()
        if token is None:  # machine 0 has it from the beginning
            return
        for peer in self._unproven():
            if time.monotonic() - peer.since > _ANSWER_SECONDS:
                self._drop(peer)
        for _ in range(_MOST_UNPROVEN):
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                break
            except OSError:  # it has gone, or this process has no descriptor left
                continue
            self._add(connection, SignedLines(token, LISTENER))
        for peer in self._unproven()[:-_MOST_UNPROVEN]:
            self._drop(peer)

    def _call(self) -> None:
        now = time.monotonic()
        if self._unproven_since is not None and now - self._unproven_since > _PROOF_SECONDS:
            host, port = _address(self.layout)
            raise LaunchError(
                f"{self.token.source}: {host}:{port} has not proved for {_PROOF_SECONDS:.0f} s that it has the same "
                f"token; {self.token.advice}, and see that no other program uses the port"
            )
        for peer in self._unproven():
            if now - peer.since > _SILENCE_SECONDS:
                self._drop(peer)
        if self._peers or now - self._last_try <= _RETRY_SECONDS:
            return
        self._last_try = now
        token = self.token.read()
        try:
            connection = socket.create_connection(_address(self.layout), timeout=_RETRY_SECONDS)
        except OSError:
            self._unproven_since = None
            return
        self._unproven_since = self._unproven_since or now
        if token is None:
            connection.close()
            return
        peer = self._add(connection, SignedLines(token, CALLER))
        select.select([connection], [], [], max(0.0, now + _RETRY_SECONDS - time.monotonic()))
        self._read(peer)  # at once: machine 0 may have many connections that do not answer

    def _add(self, connection: socket.socket, lines: SignedLines) -> _Peer:
        connection.setblocking(False)
        peer = _Peer(connection, lines, time.monotonic())
        self._peers.append(peer)
        _write(peer, lines.first_line())
        return peer

    def _unproven(self) -> list[_Peer]:
        return [peer for peer in self._peers if not peer.is_proven]

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.connection.recv(_LONGEST_LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, peer.unread = (peer.unread + data).split(b"\n")
        is_valid = all(self._handle(peer, line) for line in lines)
        if not is_valid or not data or len(peer.unread) > _LONGEST_LINE_BYTES:
            self._drop(peer)

    def _handle(self, peer: _Peer, line: bytes) -> bool:
        """Handle one line; return False if no launcher of this job would send it, or the connection is of no use."""
        if not peer.lines.is_open:
            is_nonce = peer.lines.open(line)
            if is_nonce and self.listener is None:
                _write(peer, peer.lines.sign(f"hello {self.layout.nodes} {self.layout.node_rank} {self.attempt}"))
            return is_nonce
        text = peer.lines.check(line)
        if text is None:
            return False
        peer.is_proven = True
        if self.listener is None:
            self._unproven_since = None
            self.token.confirm()
        return self._obey(peer, text.split())

    def _obey(self, peer: _Peer, words: list[str]) -> bool:
        match words:
            case ["hello", nodes, node, attempt] if self.listener is not None:
                if (nodes, attempt) == (str(self.layout.nodes), str(self.attempt)):
                    peer.node = int(node)
                    _write(peer, peer.lines.sign("welcome"))
                    return True
                _write(peer, peer.lines.sign("wait"))
            case ["welcome"] if self.listener is None:
                peer.node = 0
                return True
            case ["stop"] if peer.node is not None:
                self.is_stopped_elsewhere = True
                self._send("stop", skip=peer)
                return True
            case ["end", code, refused] if peer.node is not None:
                reason = f"the job ended on machine {peer.node}"
                self._record(JobOutcome(int(code), None, reason, refused == "1"), peer)
                return True
        return False

    def _drop(self, peer: _Peer) -> None:
        peer.connection.close()
        self._peers.remove(peer)
        self._dropped += not peer.is_proven
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
            is_launcher = peer.is_proven if self.listener is not None else peer.lines.is_open
            if is_launcher and peer is not skip:
                _write(peer, peer.lines.sign(line))


@contextmanager
def open_link(layout: Layout, attempt: int, token: JobToken) -> Iterator[Link]:
    """Yield this launcher's link to the other machines. Raises LaunchError when machine 0 cannot listen."""
    listener = _listen(layout, token) if layout.nodes > 1 and layout.node_rank == 0 else None
    link = Link(layout, attempt, token, listener)
    try:
        yield link
    finally:
        link.close()


def _address(layout: Layout) -> tuple[str, int]:
    return layout.host, layout.port + 1


def _write(peer: _Peer, line: bytes) -> None:
    with contextlib.suppress(OSError):
        peer.connection.sendall(line)


def _listen(layout: Layout, token: JobToken) -> socket.socket:
    host, port = _address(layout)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        token.publish()  # before anybody can connect, and only if this is no second job on the port
        listener.listen(_MOST_WAITING)
    except LaunchError:
        listener.close()
        raise
    except OSError as error:
        listener.close()
        raise LaunchError(
            f"--rendezvous {host}:{layout.port}: cannot bind port {port} ({error.strerror}); machine 0 needs this port "
            f"and the next: name an address of this machine and choose two ports that are free"
        ) from None
    listener.setblocking(False)
    return listener
