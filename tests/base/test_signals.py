"""Stop signals are remembered, asked for, and handed back afterwards."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.base.signals import StopSignals, answered_by_thread, blocked, interruptible, postponed

# A call into C that takes minutes and looks at no signal.
DEAF = """
import hashlib
from convnext_imagenet.base.signals import StopSignals
with StopSignals("run it again", second_ends=True):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops_at_the_next_question(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals("run it again") as stop:
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.received
        with pytest.raises(Interrupted, match=r"stopped by a signal; run it again") as end:
            stop.check()
        os.kill(os.getpid(), number)  # does not end the process: a second one is remembered as well
    assert end.value.exit_code == 75
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_where_that_is_asked_for(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals("run it again", second_ends=True):
        os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_DFL
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_process_that_never_returns_to_python(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(number)
    assert process.wait(10) == -number


def test_a_thread_answers_while_the_main_thread_is_in_c() -> None:
    answered: list[float] = []
    with StopSignals("run it again") as stop, answered_by_thread(lambda: answered.append(time.perf_counter())):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**6)
        ended = time.perf_counter()
    assert len(answered) == 1
    assert answered[0] < ended
    assert stop.received
    with StopSignals("run it again"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert len(answered) == 1, "only while its block runs"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_postponed_a_handler_that_raises_does_so_at_the_end_of_the_block(number: signal.Signals, monkeypatch):
    def stop(number, frame):
        raise Interrupted("stopped")

    before = signal.signal(number, stop)
    answers: list[bool] = []

    def work() -> None:
        with postponed() as is_signalled:
            answers.append(is_signalled())
            signal.raise_signal(number)
            signal.signal(number, signal.SIG_DFL)  # as Ray does
            answers.append(is_signalled())

    try:
        with pytest.raises(Interrupted):
            work()
        assert answers == [False, True]
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)


def test_a_question_is_answered_after_the_block():
    with StopSignals("go on") as stop:
        with postponed():
            signal.raise_signal(signal.SIGTERM)
            assert not stop.received
        assert stop.received


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with postponed() as is_signalled:
            signal.raise_signal(signal.SIGINT)
            assert not is_signalled()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_launcher_also_counts_further_signals() -> None:
    with StopSignals("run it again", more=(signal.SIGHUP,)) as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        assert stop.count == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_interruptible_work_is_dropped_at_once_and_a_second_signal_does_not_disturb_the_clean_up(number) -> None:
    before = signal.getsignal(number)
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)
            cleaned.append(True)

    with pytest.raises(Interrupted, match="run the same command again to resume"), interruptible():
        work()
    assert cleaned
    assert signal.getsignal(number) == before


def test_blocked_signals_are_blocked_in_the_block_alone() -> None:
    with blocked():
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
