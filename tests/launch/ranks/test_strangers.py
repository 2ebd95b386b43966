"""Nobody without the job's token can stop or end a job, keep its launchers apart, or fill their memory."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks import launcher_link as module
from convnext_imagenet.launch.ranks.job_outcome import JobOutcome
from convnext_imagenet.launch.ranks.job_token import JOB_TOKEN, TOKEN_FILE, job_token
from convnext_imagenet.launch.ranks.launcher import free_port
from convnext_imagenet.launch.ranks.launcher_link import Link, open_link
from convnext_imagenet.launch.ranks.signed_lines import CALLER, SignedLines

from .links import SECONDS, TOKEN, known, layout_of, linked, open_with_token, poll, settle

NONCE, MAC = b"nonce " + b"0" * 32 + b"\n", b"0" * 64
OTHER_TOKEN = b"a token of another job, 32 letters"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.05)


@pytest.fixture
def port() -> int:
    """The port that a user would name; the launchers use the next."""
    return free_port() - 1


@pytest.fixture
def first(port: int) -> Iterator[Link]:
    """Machine 0 of two."""
    with open_with_token(layout_of(port)) as link:
        yield link


def _connected(port: int) -> socket.socket:
    stranger = socket.create_connection(("127.0.0.1", port + 1), timeout=SECONDS)
    stranger.setblocking(False)
    return stranger


def _is_closed(connection: socket.socket) -> bool:
    try:
        while connection.recv(100):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _assert_unharmed(first: Link, port: int, dropped: int) -> None:
    """Nothing has reached the job, and the other machine can still join it and end it."""
    assert (first.receive(), first.is_stopped_elsewhere, known(first), first.dropped) == (None, False, [], dropped)
    with open_with_token(layout_of(port, node_rank=1)) as second:
        poll([first, second], lambda: known(first) == [1] and known(second) == [0])
        second.send_stop()
        second.send_outcome(JobOutcome(0))
        poll([first], lambda: first.is_stopped_elsewhere and first.receive() is not None)
    assert first.dropped == dropped


@pytest.mark.parametrize("opening", [b"", NONCE], ids=["no nonce", "a nonce"])
@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"hello 2 1 0\n",
        b"stop\n",
        b"end 1 0\n",
        b"welcome\n",
        b"hello 2 1 0\nstop\nend 1 0\n",
        MAC + b" hello 2 1 0\n" + MAC + b" stop\n" + MAC + b" end 1 0\n",
        b"hello 2 1 0",  # no newline, and no more
        b" hello 2 1 0\n",
        NONCE,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\xff\xfe\n\n\xff\n",
        b"\xff" * 64 + b" \xff\n",
        b"x" * 10_000_000,
        b"x" * 10_000_000 + b"\n",
        b"\n" * 100_000,
    ],
    ids=lambda data: repr(data[:24]),
)
def test_who_sends_no_signed_line_is_dropped_without_harm(first: Link, port: int, opening: bytes, data: bytes) -> None:
    with _connected(port) as stranger:
        with contextlib.suppress(OSError):
            stranger.sendall(opening + data)
        with contextlib.suppress(OSError):
            stranger.shutdown(socket.SHUT_WR)
        longest = 0

        def is_dropped() -> bool:
            nonlocal longest
            longest = max([longest, *(len(peer.unread) for peer in first._peers)])
            return first._dropped == 1 and _is_closed(stranger)

        poll([first], is_dropped)
        assert longest <= 2 * module._LONGEST_LINE_BYTES
        _assert_unharmed(first, port, 1)


@pytest.mark.parametrize("says", [b"", b"n", NONCE], ids=["nothing", "a letter at a time", "a nonce"])
def test_who_stays_silent_is_dropped_in_time(
    first: Link, port: int, monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.3)
    with _connected(port) as stranger:

        def is_dropped() -> bool:
            with contextlib.suppress(OSError):
                stranger.sendall(says if says != NONCE or not first._peers else b"")
            return first._dropped == 1

        poll([first], is_dropped)
        assert _is_closed(stranger)
        _assert_unharmed(first, port, 1)


def test_a_flood_of_silent_connections_is_dropped_and_the_other_machine_joins(first: Link, port: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(_connected(port))
        first.receive()
        assert len(first._peers) == module._MOST_UNPROVEN, "one call accepts many"
        most = 0
        with open_with_token(layout_of(port, node_rank=1)) as second:

            def are_linked() -> bool:
                nonlocal most
                most = max(most, len(first._peers))
                return known(first) == [1] and known(second) == [0]

            poll([first, second], are_linked)
            settle([first, second])
            assert most <= 2 * module._MOST_UNPROVEN + 1
            assert len(first._unproven()) <= module._MOST_UNPROVEN
            assert first.dropped == 500
            assert first.receive() is second.receive() is None


def test_a_flood_that_does_not_end_keeps_no_machine_away(first: Link, port: int) -> None:
    """The first machine looks as often as it does in a job; the others connect meanwhile."""
    is_over = threading.Event()

    def flood() -> None:
        held: list[socket.socket] = []
        while not is_over.is_set():
            with contextlib.suppress(OSError):
                held.append(socket.create_connection(("127.0.0.1", port + 1), timeout=0.2))
            if len(held) > 300:
                held.pop(0).close()
        for connection in held:
            connection.close()

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        with open_with_token(layout_of(port, node_rank=1)) as second:
            begin = time.monotonic()
            caller = threading.Thread(target=_receive_until_known, args=(second,))
            caller.start()
            while caller.is_alive():
                assert time.monotonic() - begin < SECONDS
                first.receive()
                time.sleep(0.1)
            assert (known(first), known(second)) == ([1], [0])
            assert first.dropped > module._MOST_UNPROVEN
    finally:
        is_over.set()
        flooder.join()


def _receive_until_known(link: Link) -> None:
    begin = time.monotonic()
    while not known(link) and time.monotonic() - begin < SECONDS:
        link.receive()
        time.sleep(0.1)


class _Recorder:
    """Forwards connections to a port and keeps what each side has sent."""

    def __init__(self, port: int) -> None:
        self.sent: dict[str, bytes] = {"caller": b"", "listener": b""}
        self._target = port + 1
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1] - 1
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        caller, _ = self._socket.accept()
        listener = socket.create_connection(("127.0.0.1", self._target))
        for name, source, sink in (("caller", caller, listener), ("listener", listener, caller)):
            threading.Thread(target=self._copy, args=(name, source, sink), daemon=True).start()

    def _copy(self, name: str, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1000):
                self.sent[name] += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def recorded(port: int) -> dict[str, bytes]:
    """Every byte of a job in which both machines sent a stop and a failure, by the side that sent it."""
    recorder = _Recorder(port)
    with (
        open_with_token(layout_of(port)) as first,
        open_with_token(layout_of(recorder.port, node_rank=1)) as second,
    ):
        poll([first, second], lambda: known(first) == [1] and known(second) == [0])
        second.send_stop()
        poll([first, second], lambda: first.is_stopped_elsewhere)
        first.send_stop()
        poll([first, second], lambda: second.is_stopped_elsewhere)
        first.send_outcome(JobOutcome(74))
        second.send_outcome(JobOutcome(1))
        poll([first, second], lambda: None not in (first._outcome, second._outcome))
    for side, words in (("caller", ["hello", "stop", "end"]), ("listener", ["welcome", "stop", "end"])):
        assert [line.split()[1].decode() for line in recorder.sent[side].splitlines()[1:]] == words
    return recorder.sent


@pytest.mark.parametrize("skipped", [0, 1, 2, 3])
def test_recorded_lines_of_another_launcher_are_not_accepted(
    recorded: dict[str, bytes], port: int, skipped: int
) -> None:
    """The same token, as in the next attempt of a job or in the same attempt. `skipped` lines are left out."""
    lines = recorded["caller"].splitlines(keepends=True)
    with open_with_token(layout_of(port)) as first, _connected(port) as stranger:
        stranger.sendall(b"".join([lines[0], *lines[1 + skipped :]] if skipped < 3 else lines[1:]))
        poll([first], lambda: first._dropped == 1)
        _assert_unharmed(first, port, 1)


@pytest.mark.parametrize("reply", ["recorded", "reflected", "nonsense", "unsigned"])
def test_nobody_can_pose_as_machine_0(
    recorded: dict[str, bytes], port: int, reply: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger listens where machine 0 should: its lines end nothing, and the launcher says what to look at."""
    monkeypatch.setattr(module, "_PROOF_SECONDS", 1.0)
    answers = {
        "recorded": recorded["listener"],
        "nonsense": b"\xff\n",
        "unsigned": NONCE + b"welcome\nstop\nend 1 0\n",
        "reflected": b"",
    }
    received: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(answers[reply])
            while data := connection.recv(1000):
                received.append(data)
                if reply == "reflected":
                    connection.sendall(data)

    with socket.create_server(("127.0.0.1", port + 1)) as server:
        threading.Thread(target=_accept_all, args=(server, answer), daemon=True).start()
        with open_with_token(layout_of(port, node_rank=1)) as second:
            with pytest.raises(
                LaunchError, match=rf"^{JOB_TOKEN}: 127\.0\.0\.1:{port + 1} has not proved for 1 s .* set {JOB_TOKEN}"
            ):
                poll([second], lambda: second.is_stopped_elsewhere or second.receive() is not None)
            assert not second.is_stopped_elsewhere
    assert TOKEN not in b"".join(received)
    if reply == "reflected":
        assert b" hello 2 1 0\n" in b"".join(received)


def _accept_all(server: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()


def test_who_sends_back_what_the_launcher_sends_gets_nowhere(
    first: Link, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.3)
    with _connected(port) as stranger:

        def reflect() -> bool:
            with contextlib.suppress(OSError):
                stranger.sendall(stranger.recv(1000))
            return first._dropped == 1

        poll([first], reflect)
        _assert_unharmed(first, port, 1)


def test_a_launcher_with_another_token_ends_with_a_line_and_the_others_go_on(
    first: Link, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROOF_SECONDS", 1.0)
    with (
        open_with_token(layout_of(port, node_rank=1), token=OTHER_TOKEN) as second,
        pytest.raises(LaunchError, match=rf"^{JOB_TOKEN}: .* that it has the same token; set {JOB_TOKEN} to the same"),
    ):
        poll([first, second], lambda: bool(known(first) or known(second)))
    settle([first])
    assert first._dropped >= 2, "it has tried more than once"
    _assert_unharmed(first, port, first.dropped)


def test_a_launcher_without_the_file_ends_with_a_line_that_names_it(
    first: Link, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROOF_SECONDS", 1.0)
    layout = layout_of(port, node_rank=1)
    with (
        job_token(layout, tmp_path, {}) as token,
        open_link(layout, 0, token) as second,
        pytest.raises(LaunchError, match=rf"^{tmp_path}/{TOKEN_FILE}: .*; share this folder .* or set {JOB_TOKEN}"),
    ):
        poll([first, second], lambda: bool(known(first)))


@pytest.mark.parametrize("stale", [None, "s" * 64], ids=["no file", "a file of an earlier job"])
def test_a_launcher_waits_for_the_file_of_its_own_job(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stale: str | None
) -> None:
    """Machine 0 comes later than the time that a wrong token is given."""
    monkeypatch.setattr(module, "_PROOF_SECONDS", 0.3)
    if stale:
        (tmp_path / TOKEN_FILE).write_text(stale)
    with contextlib.ExitStack() as stack:
        layouts = [layout_of(port), layout_of(port, node_rank=1)]
        tokens = [stack.enter_context(job_token(layout, tmp_path, {})) for layout in layouts]
        second = stack.enter_context(open_link(layouts[1], 0, tokens[1]))
        begin = time.monotonic()
        poll([second], lambda: time.monotonic() - begin > 1.0)
        monkeypatch.setattr(module, "_PROOF_SECONDS", SECONDS)
        with open_link(layouts[0], 0, tokens[0]) as first:
            poll([first, second], lambda: known(first) == [1] and known(second) == [0])
            assert first.dropped == 0
            with _connected(port) as stranger:
                lines = SignedLines((stale or "s" * 64).encode(), CALLER)
                stranger.sendall(lines.first_line())
                poll([first], lambda: bool(first._unproven()))
                lines.open(_first_line(stranger))
                stranger.sendall(lines.sign("hello 2 1 0") + lines.sign("end 1 0"))
                poll([first], lambda: first._dropped == 1)
            assert first.receive() is None


def test_time_in_which_nobody_listens_is_not_counted(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as between another job that leaves the port and machine 0, which comes minutes later."""
    with open_with_token(layout_of(port, node_rank=1)) as second:
        with open_with_token(layout_of(port), token=OTHER_TOKEN) as other:
            poll([other, second], lambda: other._dropped >= 1)
        monkeypatch.setattr(module, "_PROOF_SECONDS", 0.5)
        begin = time.monotonic()
        poll([second], lambda: time.monotonic() - begin > 1.0)
        monkeypatch.setattr(module, "_PROOF_SECONDS", SECONDS)
        with open_with_token(layout_of(port)) as first:
            poll([first, second], lambda: known(first) == [1] and known(second) == [0])


def _first_line(connection: socket.socket) -> bytes:
    connection.settimeout(SECONDS)
    with connection.makefile("rb", buffering=0) as file:
        return file.readline().rstrip(b"\n")


def test_the_next_attempt_of_a_job_links_again_though_the_file_has_changed(port: int, tmp_path: Path) -> None:
    layouts = [layout_of(port), layout_of(port, node_rank=1)]
    with contextlib.ExitStack() as stack:
        tokens = [stack.enter_context(job_token(layout, tmp_path, {})) for layout in layouts]
        for attempt in (0, 1):
            with (
                open_link(layouts[0], attempt, tokens[0]) as first,
                open_link(layouts[1], attempt, tokens[1]) as second,
            ):
                poll([first, second], lambda one=first, other=second: known(one) == [1] and known(other) == [0])
            (tmp_path / TOKEN_FILE).write_text("of a job that has begun too early" * 2)


@pytest.mark.parametrize("line", [b"no such\n", b"end 0 0\n", b"stop\n", MAC + b" end 0 0\n"])
def test_a_known_launcher_that_sends_an_unsigned_line_is_gone(line: bytes) -> None:
    with linked(2) as links:
        links[1]._peers[0].connection.sendall(line)
        poll(links[:1], lambda: links[0].receive() is not None)
        assert links[0].receive() == JobOutcome(1, None, "lost the connection to the launcher of machine 1")
        assert (links[0].is_stopped_elsewhere, links[0].dropped) == (False, 0)


def test_a_signed_line_that_arrives_in_part_does_not_count() -> None:
    with linked(2) as links:
        peer = links[1]._peers[0]
        peer.connection.sendall(peer.lines.sign("end 0 0")[:-1])
        peer.connection.close()
        poll(links[:1], lambda: links[0].receive() is not None)
        assert links[0].receive() == JobOutcome(1, None, "lost the connection to the launcher of machine 1")


def test_a_signed_line_without_hello_before_it_does_not_count(first: Link, port: int) -> None:
    with _connected(port) as caller:
        lines = SignedLines(TOKEN, CALLER)
        caller.sendall(lines.first_line())
        poll([first], lambda: bool(first._peers))
        lines.open(_first_line(caller))
        caller.sendall(lines.sign("end 1 0"))
        poll([first], lambda: not first._peers)
    _assert_unharmed(first, port, 0)


def test_strangers_hear_nothing_of_the_job(first: Link, port: int) -> None:
    with _connected(port) as stranger:
        stranger.sendall(NONCE)
        poll([first], lambda: bool(first._peers) and first._peers[0].lines.is_open)
        first.send_stop()
        first.send_outcome(JobOutcome(1))
        settle([first])
        assert _first_line(stranger).startswith(b"nonce ")
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.recv(100)
