"""Stop signals are remembered, asked for, and handed back afterwards."""

import os
import signal

import pytest

from convnext_imagenet.records.errors import Interrupted
from convnext_imagenet.train.interrupts import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops_at_the_next_question(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=r"stopped by a signal; the same command goes on") as end:
            stop.check()
    assert end.value.exit_code == 75
    assert signal.getsignal(number) == before
