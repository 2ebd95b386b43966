"""Which RUN resumes under which program: rules that changed refuse it by name, a neutral key added later does not."""

import dataclasses
import shutil
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
from convnext_imagenet.train.config.sections import TrainSection
from convnext_imagenet.train.run import run as running
from convnext_imagenet.train.run.run import RunRequest, train

LAST = "epoch-0004"


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
    assert neutral_values(later) == {"train.later": 0.0}
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
        with pytest.raises(
            ArtefactError, match=r"differs in: config\.train\.later\): config\.train\.later is 0\.0 in the directory"
        ):
            train(_later(config, **values), RunRequest(records_root, unfinished_run, 1), recorder)


def test_a_run_that_has_a_key_which_this_program_lacks_is_refused(
    unfinished_run: Path, records_root: Path, config: Config, recorder: Any
) -> None:
    plan = read_json(unfinished_run / "plan.json")
    plan["plan"]["config"]["train"]["later"] = 0.0
    plan["plan_id"] = sha256_json({name: plan[name] for name in ("kind", "protocol", "plan")})
    write_json(unfinished_run / "plan.json", plan)
    with pytest.raises(
        ArtefactError, match=r"config\.train\.later is 0\.0 in the directory, now missing; choose another"
    ):
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
    now = getattr(running, f"{rule.upper()}_VERSION")
    before = {path: path.stat().st_mtime_ns for path in unfinished_run.rglob("*") if path.name != ".lock"}
    with monkeypatch.context() as newer:
        newer.setattr(running, f"{rule.upper()}_VERSION", now + 1)
        with pytest.raises(ArtefactError) as refused:
            train(config, RunRequest(records_root, unfinished_run, 1), recorder)
    words = f"rules.{rule} is {now} in the directory, now {now + 1}; choose another directory, or delete this one"
    words = f"(differs in: rules.{rule}): {words}"
    assert words in str(refused.value)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_the_ways_out_of_the_refusal_lead_out(
    unfinished_run: Path, records_root: Path, config: Config, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(running, "STEP_VERSION", running.STEP_VERSION + 1)
        words = "choose another directory, or delete this one, or resume it with the versions that started it"
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
