"""Keeps one optimizer step in flight: a step starts before the previous one is read, so the device never idles."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mindspore import Tensor

from convnext_imagenet.train.data.pipeline import Batch
from convnext_imagenet.train.run.compile_cache import CompileCache
from convnext_imagenet.train.run.epoch import FirstStep
from convnext_imagenet.train.step.learner import Learner, StepOutcome, read_outcome


@dataclass(frozen=True)
class FinishedStep:
    """A step that the device has finished: what it reported, and its learning rate."""

    outcome: StepOutcome
    rate: float


class StepPipe:
    """Starts the steps of `learner`; the outcome of a step is returned when the next one starts, or on `drain`.

    The first step of this process is compiled through `cache`, finished and reported to `on_first_step`. `check` is
    called before each micro-batch; an exception that it raises leaves the step untaken. `while_compiling` makes a
    context for the compilation.
    """

    def __init__(
        self,
        learner: Learner,
        cache: CompileCache,
        on_first_step: Callable[[FirstStep], None],
        check: Callable[[], None] = lambda: None,
        while_compiling: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._learner, self._cache, self._on_first_step = learner, cache, on_first_step
        self._check, self._while_compiling = check, while_compiling
        self._running: tuple[Tensor, float] | None = None

    @property
    def in_flight(self) -> int:
        """Return how many steps are started and not yet returned: 0 or 1."""
        return int(self._running is not None)

    def start(
        self, batches: Sequence[Batch], rate: float, decay: float, ask_stop: bool = False, ask_save: bool = False
    ) -> FinishedStep | None:
        """Start a step over its micro-batches and return the previous one, or None if there is none."""
        if self._cache.is_compiled:
            running = self._learner.learn(self._checked(batches), rate, decay, ask_stop, ask_save)
        else:
            running = self._compile_and_learn(batches, rate, decay, ask_stop, ask_save)
        finished = self.drain()
        self._running = running, rate
        return finished

    def drain(self) -> FinishedStep | None:
        """Wait for the step in flight and return it, or None if there is none."""
        if self._running is None:
            return None
        (running, rate), self._running = self._running, None
        return FinishedStep(read_outcome(running), rate)

    def _checked(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._check()
            yield batch

    def _compile_and_learn(
        self, batches: Sequence[Batch], rate: float, decay: float, ask_stop: bool, ask_save: bool
    ) -> Tensor:
        begin = time.perf_counter()
        with self._while_compiling(), self._cache.compiling():
            self._learner.compile(batches)
        compiled = time.perf_counter()
        running = self._learner.learn(self._checked(batches), rate, decay, ask_stop, ask_save)
        read_outcome(running)  # waits, so that the first step's time is measured
        self._on_first_step(FirstStep(compiled - begin, time.perf_counter() - compiled, self._cache.was_hit))
        return running
