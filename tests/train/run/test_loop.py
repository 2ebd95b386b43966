"""The loop of one epoch: what it starts, saves and stops on, with a learner that only counts."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.launch.ranks.rank import Rank
from convnext_imagenet.train.config.config import Config, config_from_mapping
from convnext_imagenet.train.config.schedule import divide_batch, plan_steps
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.run import loop, step_pipe
from convnext_imagenet.train.run.checkpoint import Position, Snapshot
from convnext_imagenet.train.run.context import Interval, RunContext
from convnext_imagenet.train.run.epoch import EpochSums, read_metrics

STEPS = 4  # an epoch
NAN = float("nan")
BEGINNING = Position(0, 0)
ACCURACY = SimpleNamespace(top1=0.5, top5=0.75, rows=7, top1_correct=3, top5_correct=5, loss=1.25, guesses=5)


class CountingLearner:
    """Step n has loss `losses[n]` (default 1) and right rows 1; any rank may ask to stop or save in given steps."""

    drop_path_rates = ()
    classifier = None

    def __init__(self, losses: dict[int, float], stops: set[int], saves: set[int]) -> None:
        self.losses, self.stops, self.saves, self.started, self.rates = losses, stops, saves, 0, []

    def learn(self, batches: list[Any], rate: float, decay: float, ask_stop: bool, ask_save: bool) -> Tensor:
        self.started += 1
        self.rates.append(rate)
        n = self.started
        list(batches)
        asked = (n in self.stops or ask_stop, n in self.saves or ask_save)
        return Tensor(np.array([self.losses.get(n, 1.0), 1, 0, *asked, 0, 1, 1], np.float32))

    def weights(self) -> dict[str, np.ndarray]:
        return {}

    average = state = weights

    def restore(self, weights: Any, state: Any, average: Any) -> None:
        self.restored = True

    def show_to_evaluation(self, weights: dict[str, np.ndarray]) -> None:
        pass


class FakeStop:
    received = False

    def check(self) -> None:
        if self.received:
            raise self.interruption()

    def interruption(self) -> Interrupted:
        return Interrupted("stopped by a signal")


class FakeCache:
    was_hit = False

    def __init__(self, is_compiled: bool) -> None:
        self.is_compiled = is_compiled

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        yield
        self.is_compiled = True


class Saves(list):
    def best(self) -> Position | None:
        evaluated = [position for position in self if position.top1 is not None]
        return max(evaluated, key=lambda position: (position.top1, -position.epoch), default=None)

    def save(self, position: Position, snapshot: Any, card: Any) -> None:
        self.append(position)

    def last(self) -> Position | None:
        return self[-1] if self else None

    def load(self, position: Position) -> Snapshot:
        return Snapshot({}, {}, {})


@pytest.fixture
def config() -> Config:
    train = {"epochs": 2}
    return config_from_mapping({"data": {"global_batch_size": 8}, "schedule": {"warmup_epochs": 0.5}, "train": train})


@pytest.fixture
def run(config: Config, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`run(done, losses=, stops=, saves=, save_steps=, world=)` runs the epochs after `done`; returns what happened."""

    def batches(*arguments: Any) -> Iterator[str]:
        first_step = arguments[5]
        yield from ("batch" for _ in range(first_step, STEPS))

    monkeypatch.setattr(loop, "batches", batches)
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: ACCURACY)
    monkeypatch.setattr(loop, "step_sample_ids", lambda split, config, epoch, step: [100 * epoch + step])

    def run_epochs(
        done: Position = BEGINNING,
        losses: dict[int, float] | None = None,
        stops: set[int] = frozenset(),
        saves: set[int] = frozenset(),
        save_steps: int = 0,
        world: int = 2,
        rollbacks: int = 0,
        is_compiled: bool = True,
        config: Config = config,
        saved: Saves = (),
    ) -> SimpleNamespace:
        learner, checkpoints = CountingLearner(losses or {}, stops, saves), Saves(saved)
        context = RunContext(
            config=config, plan=plan_steps(config, 8 * STEPS), parts=divide_batch(config, 1),
            learner=learner, checkpoints=checkpoints,
            card=SimpleNamespace(config=SimpleNamespace(num_classes=3), transform=None),
            train_split=None, val_split=None, metrics_path=tmp_path / "metrics.jsonl", workers=1,
            interval=Interval(save_steps),
            reporter=recorder, stop=FakeStop(), ranks=SimpleNamespace(own=Rank(0, world), check_same=lambda *_: None),
            heartbeat=SimpleNamespace(beat=lambda *_, **__: None), cache=FakeCache(is_compiled),
            rollback_limit=rollbacks,
        )  # fmt: skip
        error = None
        try:
            loop.run_epochs(context, done)
        except (Interrupted, TrainError) as raised:
            error = raised
        return SimpleNamespace(
            learner=learner, saves=checkpoints, error=error, lines=read_metrics(tmp_path / "metrics.jsonl")
        )

    return run_epochs


def test_every_step_is_counted_once_and_each_epoch_is_saved(run: Any, recorder: Any) -> None:
    done = run(losses={1: 3.0, 8: 5.0})
    assert done.error is None
    assert done.learner.started == 2 * STEPS
    assert [(report.epoch, report.step, report.steps_done) for report in recorder.steps] == [
        (epoch, step, (epoch - 1) * STEPS + step) for epoch in (1, 2) for step in range(1, STEPS + 1)
    ]
    assert [line["train_loss"] for line in done.lines] == [1.5, 2.0]
    assert [line["train_top1"] for line in done.lines] == [1 / 8, 1 / 8]
    assert [(position.epoch, position.step, position.within) for position in done.saves] == [
        (1, STEPS, None),
        (2, 2 * STEPS, None),
    ]
    assert [report.learning_rate for report in recorder.steps] == done.learner.rates, "a step is reported with its rate"
    assert len(set(done.learner.rates)) > STEPS


def test_the_compilation_is_no_part_of_the_training_time(
    run: Any, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which compiling takes 1000 s, a step 1 s, and nothing else any time."""
    now, learn = [0.0], CountingLearner.learn

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    def slow_learn(self: CountingLearner, *inputs: Any) -> Tensor:
        pass_time(1)
        return learn(self, *inputs)

    clock = SimpleNamespace(perf_counter=lambda: now[0])
    for module in (loop, step_pipe):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(CountingLearner, "learn", slow_learn)
    monkeypatch.setattr(CountingLearner, "compile", lambda self, batches: pass_time(1000), raising=False)
    before = EpochSums(steps=2, train_s=10.0, compile_s=500.0, first_step_s=4.0).to_json()
    done = run(Position(0, 2, within=before), is_compiled=False)
    times = [[line[key] for key in ("compile_s", "first_step_s", "train_s", "images_per_s")] for line in done.lines]
    assert times == [[1500, 5, 12, round(8 * STEPS / 12, 2)], [0, 0, STEPS, 8]]


def test_a_save_that_is_due_waits_for_the_step_and_counts_it(run: Any) -> None:
    done = run(save_steps=3)
    within = [(position.step, position.within["steps"]) for position in done.saves if position.within]
    assert within == [(3, 3), (6, 2)]


def test_a_save_that_any_rank_asked_for_comes_one_step_later_and_only_once(run: Any) -> None:
    done = run(saves={1, 2})  # asked again in step 2, which had begun before the save
    assert [position.step for position in done.saves] == [2, 4, 8]


@pytest.mark.parametrize(("asked", "step"), [(1, 2), (3, 4), (4, 4), (5, 6)])
def test_a_stop_that_any_rank_asked_for_saves_and_ends(run: Any, asked: int, step: int) -> None:
    done = run(stops={asked})
    assert isinstance(done.error, Interrupted)
    assert done.learner.started == step
    assert (done.saves[-1].step, done.saves[-1].within["steps"]) == (step, (step - 1) % STEPS + 1)


def test_a_stop_asked_for_in_the_step_that_a_save_waited_for_is_not_lost(run: Any) -> None:
    done = run(stops={3}, save_steps=3)
    assert isinstance(done.error, Interrupted)
    assert done.learner.started == 3
    assert {position.step for position in done.saves} == {3}


def test_a_run_within_an_epoch_resumes_with_its_sums(run: Any, recorder: Any) -> None:
    within = EpochSums(steps=3, loss_sum=9.0, correct=3.0, rate=0.1).to_json()
    done = run(Position(0, 3, within=within))
    assert [(report.epoch, report.step) for report in recorder.steps[:2]] == [(1, 4), (2, 1)]
    assert done.lines[0]["train_loss"] == 2.5


def test_a_loss_that_is_not_finite_ends_the_run_without_a_save(run: Any, tmp_path: Path) -> None:
    done = run(losses={6: float("nan")})
    assert isinstance(done.error, TrainError)
    assert "epoch 2 step 2: loss nan and gradient norm 0 are not finite, computed in float32" in str(done.error)
    assert (
        "the last finite step was 5 (loss 1, gradient norm 0); sample ids of the step: 201; checkpoint epoch-0001"
        in (str(done.error))
    )
    assert [position.step for position in done.saves] == [4]
    assert json.loads((tmp_path / "divergence.json").read_text())["sample_ids"] == [201]


@pytest.mark.parametrize(
    ("losses", "save_steps", "ranges", "saved", "train_losses"),
    [
        # The learner counts the steps that it starts: the one in flight at a divergence is started again.
        ({6: NAN}, 0, [[], [(5, 6)]], [4, 6, 8], [1.0, 1.0]),
        ({3: NAN}, 2, [[(3, 3)], []], [2, 3, 4, 4, 6, 8, 8], [1.0, 1.0]),
        ({7: NAN, 9: NAN}, 0, [[], [(5, 7), (8, 8)]], [4, 7, 8, 8], [1.0, None]),
        ({8: NAN}, 0, [[], [(5, 8)]], [4, 8, 8], [1.0, None]),
        ({5: 3.0, 7: NAN}, 2, [[], [(7, 7)]], [2, 4, 4, 6, 7, 8, 8], [1.0, 5 / 3]),
    ],
)
def test_a_rollback_leaves_out_the_steps_since_the_checkpoint(
    losses: dict[int, float],
    save_steps: int,
    ranges: list[list[tuple[int, int]]],
    saved: list[int],
    train_losses: list[float],
    run: Any,
    recorder: Any,
) -> None:
    done = run(losses=losses, save_steps=save_steps, rollbacks=2)
    assert done.error is None
    assert [[tuple(pair) for pair in line["rolled_back"]] for line in done.lines] == ranges
    assert [position.step for position in done.saves] == saved
    assert [line["train_loss"] for line in done.lines] == pytest.approx(train_losses)
    assert done.saves[-1].rollbacks == sum(map(len, ranges)) == len(recorder.warnings)
    assert done.learner.restored


def test_a_run_goes_back_only_as_often_as_it_may(run: Any, recorder: Any) -> None:
    done = run(losses={5: NAN, 7: NAN}, rollbacks=1)
    assert "the run has already rolled back 1 time; train into another directory" in str(done.error)
    assert "--on-divergence" not in str(done.error)
    assert [position.rollbacks for position in done.saves] == [0, 1]


def test_a_divergence_before_the_first_checkpoint_ends_the_run(run: Any) -> None:
    done = run(losses={2: NAN}, rollbacks=3)
    assert "no checkpoint was saved before it; train into another directory" in str(done.error)


def test_a_single_rank_stops_without_starting_another_step(
    run: Any, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, FakeStop, "received", False)
        monkeypatch.setattr(recorder, "on_step", lambda report: setattr(FakeStop, "received", report.step == 2))
        done = run(world=1)
    assert isinstance(done.error, Interrupted)
    assert done.learner.started == done.saves[-1].step == 3


@pytest.mark.parametrize(
    ("patience", "every", "top1", "last"),
    [
        (0, 1, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], 6),
        (2, 1, [0.5, 0.4, 0.5, 0.6, 0.7, 0.8], 3),
        (2, 1, [0.5, 0.4, 0.6, 0.5, 0.4, 0.9], 5),
        (3, 2, [0.5, 0.4, 0.3], 6),
        (1, 2, [0.5, 0.4, 0.3], 4),
    ],
)
def test_a_run_ends_when_it_has_not_improved_and_resumes_to_the_same_end(
    patience: int, every: int, top1: list[float], last: int, run: Any, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = dataclasses.replace(config.train, epochs=6, patience_epochs=patience, eval_every_epochs=every)
    longer = dataclasses.replace(config, train=section)
    values = iter(top1)
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: SimpleNamespace(**{**vars(ACCURACY), "top1": next(values)}))
    done = run(config=longer)
    assert done.error is None
    assert done.saves[-1].epoch == last
    if patience:
        assert run(done.saves[-1], config=longer, saved=done.saves).saves == done.saves, "nothing more to do"
