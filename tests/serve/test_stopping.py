"""A signal is an answer to a question, asked between batches; a second one is not."""

import os
import signal

import pytest

from convnext_imagenet.records.errors import Interrupted
from convnext_imagenet.serve.stopping import stop_on_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_reported_at_the_next_question(number):
    before = signal.getsignal(number)
    with stop_on_signal("run it again") as check:
        check()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match="interrupted; run it again") as caught:
            check()
        assert signal.getsignal(number) is signal.SIG_DFL, "the next one ends the process"
    assert caught.value.exit_code == 75
    assert signal.getsignal(number) is before
