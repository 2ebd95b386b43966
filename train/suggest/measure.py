"""Measures how long the parts of a run take on this machine: a few real steps and a part of the evaluation."""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.records.reader import Records, Split
from convnext_imagenet.serve.evaluate import evaluate
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.schedule import divide_batch, plan_steps
from convnext_imagenet.train.data.order import training_rows
from convnext_imagenet.train.data.pipeline import Batch, batches
from convnext_imagenet.train.step.learner import Learner, read_outcome
from convnext_imagenet.train.suggest.choose import Speed

_SECONDS, _LEAST_STEPS = 6.0, 3
_EVALUATED_ROWS = 400


def measure(
    config: Config, card: ModelCard, initial: Mapping[str, np.ndarray], records: Records, workers: int, start_s: float
) -> Speed:
    """Return the seconds of each part of a run of `config`; `start_s` is what this process took until now.

    It trains for a few seconds on the rows of the first epoch and evaluates up to 400 rows of val twice; nothing is
    kept.
    """
    train = records.split("train")
    rows = len(training_rows(train, config))
    plan, parts = plan_steps(config, rows), divide_batch(config, 1, rows)
    learner = Learner(config, card, initial, 1, parts.micro_batches, train.entry.rows_per_class)
    source: Iterator[Batch] = batches(train, config, plan, 1, workers, drop_path_rates=learner.drop_path_rates)
    groups = _groups(source, parts.micro_batches)
    first = next(groups)
    begin = time.perf_counter()
    learner.compile(first)
    read_outcome(learner.learn(first, 0.0, 1.0))
    compile_s = time.perf_counter() - begin
    step_s = _step_s(learner, groups)
    del groups, source  # ends the threads that prepare batches
    learner.show_to_evaluation(learner.weights())
    run = partial(_evaluated_s, learner, card, _first_rows(records.split("val")), config, workers)
    slow, fast = run(), run()
    models = 2 if config.ema.decay else 1
    evaluated = min(_EVALUATED_ROWS, records.split("val").rows)
    return Speed(start_s, compile_s + max(0.0, slow - fast), step_s, models * fast / evaluated)


def _step_s(learner: Learner, groups: Iterator[list[Batch]]) -> float:
    """Return the mean seconds of a step, with the time that it waits for images. An epoch of few steps ends it."""
    begin, steps = time.perf_counter(), 0
    for group in groups:
        read_outcome(learner.learn(group, 0.0, 1.0))
        steps += 1
        if steps >= _LEAST_STEPS and time.perf_counter() - begin > _SECONDS:
            break
    return (time.perf_counter() - begin) / max(1, steps)


def _evaluated_s(learner: Learner, card: ModelCard, split: Split, config: Config, workers: int) -> float:
    begin = time.perf_counter()
    evaluate(learner.classifier, card.transform, split, config.data.eval_batch_size, workers)
    return time.perf_counter() - begin


def _first_rows(split: Split) -> Split:
    labels = split.labels()[:_EVALUATED_ROWS]
    counts = np.bincount(labels, minlength=len(split.entry.rows_per_class))
    others = split.rows - len(labels)
    entry = dataclasses.replace(
        split.entry,
        rows=len(labels),
        rows_per_class=tuple(counts.tolist()),
        quarantined=split.entry.quarantined + others,  # ids of samples count all images of the split
    )
    return dataclasses.replace(split, entry=entry)


def _groups(source: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    while group := list(itertools.islice(source, size)):
        yield group
