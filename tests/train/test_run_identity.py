"""Which RUN resumes under which program: rules that changed refuse it by name, a neutral key added later does not."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import read_json, sha256_json, write_json
from convnext_imagenet.base.protocol import is_finished
from convnext_imagenet.train.config.config import Config, neutral_values
from convnext_imagenet.train.config.rules import added_later, probability
from convnext_imagenet.train.config.schedule import BatchParts
from convnext_imagenet.train.config.sections import TrainSection
from convnext_imagenet.train.config.source import load_config
from convnext_imagenet.train.run import plan as planning
from convnext_imagenet.train.run.run import RunRequest, train

LAST = "epoch-0004"

# Runs the command line in a process of its own that asks itself to stop after epoch STOP. Always the same file:
# MindSpore compiles again if the script has changed.
STOPPED_AFTER = """
import os, signal
from convnext_imagenet.train import cli
from convnext_imagenet.train.progress import Screen

on_epoch = Screen.on_epoch

def on_epoch_then_stop(self, report):
    on_epoch(self, report)
    if report.epoch == int(os.environ["STOP"]):
        os.kill(os.getpid(), signal.SIGTERM)

Screen.on_epoch = on_epoch_then_stop
cli.main()
"""


@dataclasses.dataclass(frozen=True)
class _LaterTrainSection(TrainSection):
    """The section as a later program has it; the default has changed once more since the key was added."""

    later: float = added_later(probability(0.5), neutral=0.0)


def _later(config: Config, **values: float) -> Config:
    return dataclasses.replace(config, train=_LaterTrainSection(**dataclasses.asdict(config.train), **values))


@pytest.fixture
def unfinished_run(finished_run: Path, tmp_path: Path) -> Path:
    """A RUN that was killed in its last epoch."""
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    for path in (run / "_SUCCESS", run / "manifest.json", *(run / "checkpoints").glob(f"{LAST}.*")):
        path.unlink()
    for pointer in ("last", "best"):
        (run / pointer).write_text("epoch-0003\n")
    return run


def _arrays(run: Path) -> dict[str, np.ndarray]:
    files = sorted((run / "checkpoints").glob(f"{LAST}.*.safetensors"))
    assert len(files) == 3
    return {name: array for file in files for name, array in safetensors.numpy.load_file(file).items()}


@pytest.mark.slow
def test_a_run_of_a_program_without_the_key_resumes_under_its_own_plan(
    unfinished_run: Path, finished_run: Path, records_root: Path, config: Config, recorder: Any
) -> None:
    later = _later(config, later=0.0)
    assert neutral_values(later) == {**neutral_values(config), "train.later": 0.0}
    before = (unfinished_run / "plan.json").read_bytes()
    train(later, RunRequest(records_root, unfinished_run, 1), recorder)
    assert (recorder.done.epoch, is_finished(unfinished_run)) == (3, True)
    assert (unfinished_run / "plan.json").read_bytes() == before
    expected, found = _arrays(finished_run), _arrays(unfinished_run)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert train(later, RunRequest(records_root, unfinished_run, 1), recorder).was_finished
    assert train(config, RunRequest(records_root, unfinished_run, 1), recorder).was_finished


def test_another_value_of_the_key_is_another_run(
    unfinished_run: Path, records_root: Path, config: Config, recorder: Any
) -> None:
    for values in ({}, {"later": 0.25}):
        with pytest.raises(ArtefactError, match=r"differs in: train\.later\): train\.later is 0\.0 in the directory"):
            train(_later(config, **values), RunRequest(records_root, unfinished_run, 1), recorder)


@pytest.fixture
def older_run(unfinished_run: Path) -> Path:
    """The RUN as programs wrote it whose plans held the number of micro-batches: also its receipts name that plan."""
    plan = read_json(unfinished_run / "plan.json")
    assert "accumulate_steps" not in plan["plan"]["config"]["optimizer"]
    plan["plan"]["config"]["optimizer"]["accumulate_steps"] = 2
    before, plan["plan_id"] = plan["plan_id"], sha256_json({name: plan[name] for name in ("kind", "protocol", "plan")})
    assert before != plan["plan_id"]
    write_json(unfinished_run / "plan.json", plan)
    receipts = list((unfinished_run / "checkpoints").glob("*.json"))
    assert receipts
    for path in receipts:
        receipt = read_json(path)
        assert receipt["plan_id"] == before
        write_json(path, {**receipt, "plan_id": plan["plan_id"]})
    return unfinished_run


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "micro_batches"), [(4, 2), (0, 1)])
def test_a_run_whose_plan_holds_the_micro_batches_resumes_with_any_number_of_them(
    older_run: Path,
    finished_run: Path,
    records_root: Path,
    tiny: tuple[str, ...],
    recorder: Any,
    rows: int,
    micro_batches: int,
) -> None:
    config = load_config("paper-tiny", [*tiny, "optimizer.accumulate_steps=0", f"data.device_batch_size={rows}"])
    before = (older_run / "plan.json").read_bytes()
    train(config, RunRequest(records_root, older_run, 1), recorder)
    assert (recorder.done.epoch, is_finished(older_run)) == (3, True)
    assert (older_run / "plan.json").read_bytes() == before
    assert recorder.parts == BatchParts(1, micro_batches, 8 // micro_batches)
    expected, found = _arrays(finished_run), _arrays(older_run)
    for name, value in expected.items():
        if micro_batches == 2:
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        else:  # the order of the sums
            np.testing.assert_allclose(found[name], value, rtol=2e-3, atol=2e-5, err_msg=name)


def test_an_older_run_is_still_refused_for_what_changes_numbers(
    older_run: Path, records_root: Path, tiny: tuple[str, ...], recorder: Any
) -> None:
    other = load_config("paper-tiny", [*tiny, "optimizer.beta1=0.8"])
    with pytest.raises(ArtefactError, match=r"in: optimizer\.beta1\): optimizer\.beta1 is 0\.9 in .*, now 0\.8;"):
        train(other, RunRequest(records_root, older_run, 1), recorder)


@pytest.mark.slow
def test_another_division_of_the_batch_never_loads_the_graph_of_the_first(
    records_root: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    """One run, stopped after each epoch; the second part has the division of the first, and loads its graph."""
    cached = []
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED_AFTER)
    for epoch, rows in ((1, 4), (2, 4), (3, 2), (4, 8)):
        changes = [*tiny, "optimizer.accumulate_steps=0", f"data.device_batch_size={rows}"]
        overrides = [word for change in changes for word in ("--set", change)]
        words = ["run", "paper-tiny", "--records", str(records_root), "--out", str(tmp_path / "run"), "--workers", "1"]
        command = [sys.executable, str(script), *words, *overrides]
        environment = os.environ | {"STOP": str(epoch)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=environment)
        assert done.returncode == (0 if epoch == 4 else 75), done.stderr
        assert f"x {rows} rows" in done.stdout
        cached.append("step loaded from the cache in" in done.stdout)
    assert cached == [False, True, False, False]


def test_a_run_that_has_a_key_which_this_program_lacks_is_refused(
    unfinished_run: Path, records_root: Path, config: Config, recorder: Any
) -> None:
    plan = read_json(unfinished_run / "plan.json")
    plan["plan"]["config"]["train"]["later"] = 0.0
    plan["plan_id"] = sha256_json({name: plan[name] for name in ("kind", "protocol", "plan")})
    write_json(unfinished_run / "plan.json", plan)
    with pytest.raises(ArtefactError, match=r"\): train\.later is 0\.0 in the directory, now missing; choose another"):
        train(config, RunRequest(records_root, unfinished_run, 1), recorder)


@pytest.mark.parametrize("rule", ["draws", "network", "step", "transform"])
def test_a_run_of_other_rules_is_refused_by_the_rule(
    unfinished_run: Path,
    records_root: Path,
    config: Config,
    recorder: Any,
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
) -> None:
    now = getattr(planning, f"{rule.upper()}_VERSION")
    before = {path: path.stat().st_mtime_ns for path in unfinished_run.rglob("*") if path.name != ".lock"}
    with monkeypatch.context() as newer:
        newer.setattr(planning, f"{rule.upper()}_VERSION", now + 1)
        with pytest.raises(ArtefactError) as refused:
            train(config, RunRequest(records_root, unfinished_run, 1), recorder)
    words = f"rules.{rule} is {now} in the directory, now {now + 1}; choose another directory, or resume it"
    words = f"(differs in: rules.{rule}): {words}"
    assert words in str(refused.value)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_the_ways_out_of_the_refusal_lead_out(
    unfinished_run: Path, records_root: Path, config: Config, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(planning, "STEP_VERSION", planning.STEP_VERSION + 1)
        words = "choose another directory, or resume it with the versions that started it"
        with pytest.raises(ArtefactError, match=words):
            train(config, RunRequest(records_root, unfinished_run, 1), recorder)
        another = unfinished_run.with_name("another")
        train(config, RunRequest(records_root, another, 1), recorder)
        assert (recorder.done.epoch, is_finished(another)) == (0, True)
    train(config, RunRequest(records_root, unfinished_run, 1), recorder)
    assert (recorder.done.epoch, is_finished(unfinished_run)) == (3, True), "the program that started it resumes it"


def test_a_run_of_the_first_version_is_refused_by_its_missing_rules(
    unfinished_run: Path, records_root: Path, config: Config, recorder: Any
) -> None:
    plan = read_json(unfinished_run / "plan.json")
    del plan["begun_by"], plan["plan"]["rules"]
    plan["plan"]["records"] = "5" * 64
    plan["plan_id"] = sha256_json({name: plan[name] for name in ("kind", "protocol", "plan")})
    write_json(unfinished_run / "plan.json", plan)
    words = (
        r"rules\.draws is missing in the directory, now 1; .*resume it with the versions that started it: "
        r"convnext_imagenet 0\.1\.0$"
    )
    with pytest.raises(ArtefactError, match=words):
        train(config, RunRequest(records_root, unfinished_run, 1), recorder)
