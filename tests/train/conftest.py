"""Tiny finished RECORDS, a tiny configuration, and one finished run of it that the tests compare with."""

import contextlib
import io
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.model.runtime import prepare
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.schema import Row
from convnext_imagenet.train.cli import main
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.schedule import BatchParts, StepPlan
from convnext_imagenet.train.config.source import load_config
from convnext_imagenet.train.run.checkpoint import Position
from convnext_imagenet.train.run.epoch import EpochReport, FirstStep, StepReport

from ..records_of import finished_records
from .rank_jobs import FAULTY, SECONDS, Job, train_command

WNIDS = ("n00000001", "n00000002", "n00000003")
TRAIN_ROWS, VAL_ROWS = 34, 7
TINY = (
    "model.variant=convnext_atto",
    "model.depths=[1,1,1,1]",
    "model.dims=[8,16,24,32]",
    "model.drop_path_rate=0.2",
    "model.layer_scale_init=0.5",
    "data.size_px=32",
    "data.eval_size_px=32",
    "data.global_batch_size=8",
    "data.eval_batch_size=4",
    "augment.crop_scale=[0.5,1.0]",
    "optimizer.accumulate_steps=2",
    "ema.decay=0.9",
    "schedule.base_lr=0.002",
    "schedule.warmup_epochs=0.5",
    "train.epochs=4",
    "train.keep_checkpoints=2",
    "train.eval_every_epochs=3",
    "model.num_classes=0",
)


@pytest.fixture(scope="session", autouse=True)
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MindSpore in graph mode, and a cache of our own; the built kernels in it are the user's, to build them once."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convnext_imagenet" / "kernels"
    cache = tmp_path_factory.mktemp("cache")
    with contextlib.suppress(OSError):  # a home that cannot be written: each session builds for itself
        usual.mkdir(parents=True, exist_ok=True)
    (cache / "convnext_imagenet").mkdir()
    (cache / "convnext_imagenet" / "kernels").symlink_to(usual)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        prepare()
        yield


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """The `--set` values that make any preset a matter of milliseconds a step."""
    return TINY


@pytest.fixture(scope="session")
def records_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished RECORDS directory of three classes that differ in colour."""
    return build_records(tmp_path_factory.mktemp("train") / "records", make_rows(TRAIN_ROWS), make_rows(VAL_ROWS))


@dataclass
class Recorder:
    """A reporter that keeps what it was told."""

    done: Position | None = None
    parts: BatchParts | None = None
    steps: list[StepReport] = field(default_factory=list)
    epochs: list[EpochReport] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    first_steps: list[FirstStep] = field(default_factory=list)
    given: list[str] = field(default_factory=list)

    def on_begin(self) -> None:
        pass

    def on_start(self, plan: StepPlan, parts: BatchParts, done: Position) -> None:
        self.parts, self.done = parts, done

    def on_first_step(self, first: FirstStep) -> None:
        self.first_steps.append(first)

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report)

    def on_epoch(self, report: EpochReport) -> None:
        self.epochs.append(report)

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)

    def end_at_once(self, error: Interrupted) -> None:
        raise AssertionError("no signal is sent while a step compiles")

    def on_initial_weights(self, origin: str) -> None:
        self.given.append(origin)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def config(tiny: tuple[str, ...]) -> Config:
    """The paper's preset with the tiny values."""
    return load_config("paper-tiny", tiny)


@pytest.fixture(scope="session")
def finished_output(tmp_path_factory: pytest.TempPathFactory, records_root: Path, tiny: tuple[str, ...]) -> Result:
    """What the command line said of a RUN that nothing interrupted, as `finished_run` holds it."""
    run = tmp_path_factory.getbasetemp() / "finished-run"
    overrides = [word for override in tiny for word in ("--set", override)]
    words = ["run", "paper-tiny", "--records", str(records_root), "--out", str(run), "--workers", "1", *overrides]
    return CliRunner().invoke(main, words, catch_exceptions=False)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, finished_output: Result) -> Path:
    """A RUN of `config` that nothing interrupted."""
    assert finished_output.exit_code == 0, finished_output.stderr
    return tmp_path_factory.getbasetemp() / "finished-run"


@pytest.fixture(scope="session")
def make_records() -> object:
    """`build_records(root, train_rows, val_rows)` and `make_rows(count)`, for tests that need odd records."""
    return build_records, make_rows


def make_rows(count: int) -> list[Row]:
    return [_row(i) for i in range(count)]


def _row(i: int) -> Row:
    label = i % len(WNIDS)
    height, width = 40 + i % 3, 44 + i % 5
    rng = np.random.default_rng(i)
    pixels = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
    pixels[..., label] += 120
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return Row(buffer.getvalue(), label, sample_id=i, key=f"{WNIDS[label]}_{i}", height=height, width=width)


def build_records(root: Path, train: list[Row], val: list[Row]) -> Path:
    """Publish rows as a finished directory, one shard a split."""
    classes = [ClassEntry(i, wnid, f"name {i}") for i, wnid in enumerate(WNIDS)]
    plan = {"keys": [[row.key for row in split] for split in (train, val)]}
    return finished_records(root, {"train": train, "val": val}, classes, plan)


@pytest.fixture(scope="session")
def workers() -> int:
    """As many threads as this machine has cores, at most two."""
    return min(2, len(os.sched_getaffinity(0)))


@pytest.fixture
def start(records_root: Path, tiny: tuple[str, ...], tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """`start(run, option, ...)` trains on two ranks; `fault=(kind, step)` lets rank 1 fail in that step."""
    jobs: list[Job] = []

    def start_job(run: Path, *options: str, devices: int = 2, fault: tuple[str, int] | None = None) -> Job:
        script, environment = None, {}
        if fault:
            script = tmp_path / "faulty.py"
            script.write_text(FAULTY)
            environment = {"FAULT": fault[0], "STEP": str(fault[1])}
        command = train_command(records_root, run, tiny, devices, script)
        jobs.append(Job([*command, *options], environment))
        return jobs[-1]

    yield start_job
    for job in jobs:
        job.process.kill()


@pytest.fixture(scope="session")
def finished_by_two(tmp_path_factory: pytest.TempPathFactory, records_root: Path, tiny: tuple[str, ...]) -> Path:
    """The run of `finished_run` by two ranks, which nothing interrupted."""
    run = tmp_path_factory.mktemp("two") / "run"
    command = train_command(records_root, run, tiny, devices=2)
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 ranks on CPU" in done.stderr
    assert "epoch: 4 step: 4, loss is" in done.stdout, "rank 0 speaks on the screen"
    return run
