"""Stop signals while Ray is called: remembered, and then given to whoever asked for them."""

import signal

import pytest

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.base.signals import StopSignals, signals_held


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_handler_that_raises_does_so_at_the_end_of_the_block(number: signal.Signals, monkeypatch):
    def stop(number, frame):
        raise Interrupted("stopped")

    before = signal.signal(number, stop)
    answers: list[bool] = []

    def work() -> None:
        with signals_held() as is_signalled:
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
        with signals_held():
            signal.raise_signal(signal.SIGTERM)
            assert not stop.received
        assert stop.received


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_held() as is_signalled:
            signal.raise_signal(signal.SIGINT)
            assert not is_signalled()
    finally:
        signal.signal(signal.SIGINT, before)
