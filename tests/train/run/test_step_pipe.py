"""Steps in flight: each is returned once, one step late, and only the first of the process is compiled."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor

from convnext_imagenet.train.run.epoch import FirstStep
from convnext_imagenet.train.run.step_pipe import StepPipe


class FakeLearner:
    """A learner whose n-th step has loss n; it keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def compile(self, batches: list[Any]) -> None:
        self.calls.append(("compile", [batch.name for batch in batches]))

    def learn(self, batches: Iterator[Any], rate: float, decay: float, ask_stop: bool, ask_save: bool) -> Tensor:
        self.calls.append(([batch.name for batch in batches], rate, decay, ask_stop, ask_save))
        loss = sum(1 for call in self.calls if call[0] != "compile")
        return Tensor(np.array([loss, 0, 0, ask_stop, ask_save, 0, 1, 1], np.float32))


class FakeCache:
    def __init__(self, is_compiled: bool) -> None:
        self.is_compiled, self.was_hit = is_compiled, True

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        yield
        self.is_compiled = True


def batch(name: str) -> SimpleNamespace:
    return SimpleNamespace(name=name)


@pytest.fixture
def setup() -> SimpleNamespace:
    learner, first = FakeLearner(), []
    return SimpleNamespace(learner=learner, first=first, pipe=StepPipe(learner, FakeCache(True), first.append))


def test_a_step_is_returned_when_the_next_is_started(setup: SimpleNamespace) -> None:
    pipe = setup.pipe
    assert pipe.start([batch("a"), batch("b")], 0.1, 0.9) is None
    assert pipe.in_flight == 1
    first = pipe.start([batch("c")], 0.2, 0.8, ask_save=True)
    assert (first.outcome.loss, first.rate, first.outcome.asked_save) == (1, 0.1, False)
    second = pipe.drain()
    assert (second.outcome.loss, second.rate, second.outcome.asked_save) == (2, 0.2, True)
    assert (pipe.drain(), pipe.in_flight) == (None, 0)
    assert setup.learner.calls == [(["a", "b"], 0.1, 0.9, False, False), (["c"], 0.2, 0.8, False, True)]


def test_a_stop_between_two_micro_batches_leaves_the_step_before_in_flight(setup: SimpleNamespace) -> None:
    class Stopped(Exception):
        pass

    checks = iter([None, None, Stopped()])

    def check() -> None:
        if error := next(checks):
            raise error

    pipe = StepPipe(setup.learner, FakeCache(True), setup.first.append, check)
    pipe.start([batch("a")], 0.1, 0.9)
    with pytest.raises(Stopped):
        pipe.start([batch("b"), batch("c")], 0.1, 0.9)
    assert pipe.drain().rate == 0.1


def test_a_step_is_started_before_the_one_before_it_is_read(
    setup: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_when_read = []

    def read(running: Tensor) -> Any:
        started_when_read.append(len(setup.learner.calls))

    monkeypatch.setattr("convnext_imagenet.train.run.step_pipe.read_outcome", read)
    for name in "abc":
        setup.pipe.start([batch(name)], 0.1, 0.9)
    assert started_when_read == [2, 3]


def test_only_the_first_step_is_compiled_and_reported() -> None:
    learner, reported = FakeLearner(), []
    pipe = StepPipe(learner, FakeCache(False), reported.append)
    for name in "ab":
        pipe.start([batch(name)], 0.1, 0.9, ask_stop=True)
    assert [call[0] for call in learner.calls] == ["compile", ["a"], ["b"]]
    (first,) = reported
    assert isinstance(first, FirstStep)
    assert first.was_cached
    assert pipe.drain().outcome.asked_stop
