"""Stop signals are remembered, asked for, and handed back afterwards."""

import os
import signal

import pytest

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.base.signals import StopSignals


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
