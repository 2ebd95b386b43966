"""Which changes of an existing RUN are accepted: more epochs, other versions, and settings that change no step."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner

from convnext_imagenet.base.errors import ArtefactError, Interrupted
from convnext_imagenet.base.files import read_json, sha256_json, write_json
from convnext_imagenet.base.plan_changes import differences
from convnext_imagenet.base.protocol import is_finished, read_finished
from convnext_imagenet.records.reader import Records
from convnext_imagenet.train.cli import main
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.schedule import learning_rate, plan_steps
from convnext_imagenet.train.config.source import load_config
from convnext_imagenet.train.errors import ConfigError
from convnext_imagenet.train.run.plan import Accepted, join_run, run_plan, stored_plan
from convnext_imagenet.train.run.run import RunRequest, train


@pytest.fixture
def unfinished(finished_run: Path, tmp_path: Path) -> Path:
    """A RUN that was killed in its last epoch."""
    run = Path(shutil.copytree(finished_run, tmp_path / "unfinished"))
    for path in (run / "_SUCCESS", run / "manifest.json", *(run / "checkpoints").glob("epoch-0004.*")):
        path.unlink()
    for pointer in ("last", "best"):
        (run / pointer).write_text("epoch-0003\n")
    return run


def _changed_plan(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Let the RUN look as if a program with another plan had begun it: also its receipts name that plan."""
    content = read_json(run / "plan.json")
    change(content["plan"])
    content["plan_id"] = sha256_json({name: content[name] for name in ("kind", "protocol", "plan")})
    write_json(run / "plan.json", content)
    for path in (run / "checkpoints").glob("*.json"):
        write_json(path, {**read_json(path), "plan_id": content["plan_id"]})


def _arrays(run: Path, unit: str) -> dict[str, np.ndarray]:
    files = sorted((run / "checkpoints").glob(f"{unit}.*.safetensors"))
    assert len(files) == 3
    return {f"{path.name} {name}": array for path in files for name, array in safetensors.numpy.load_file(path).items()}


def _assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow
def test_settings_that_change_no_step_may_change_and_are_noted(
    unfinished: Path, finished_run: Path, records_root: Path, tiny: tuple[str, ...], recorder: Any
) -> None:
    changes = ("train.keep_checkpoints=1", "train.eval_every_epochs=2", "data.eval_batch_size=3", "train.keep_best=2")
    train(load_config("paper-tiny", [*tiny, *changes]), RunRequest(records_root, unfinished, 1), recorder)
    _assert_same(_arrays(unfinished, "epoch-0004"), _arrays(finished_run, "epoch-0004"))
    (line,) = [json.loads(text) for text in (unfinished / "history.jsonl").open()]
    assert line["step"] == 12
    assert {change["key"]: (change["was"], change["now"]) for change in line["changes"]} == {
        "config.train.keep_checkpoints": (2, 1),
        "config.train.eval_every_epochs": (3, 2),
        "config.data.eval_batch_size": (4, 3),
        "config.train.keep_best": (1, 2),
    }
    assert any("after step 12: train.keep_checkpoints 2 -> 1" in text for text in recorder.warnings)
    assert read_finished(unfinished, "run")["changes"][0]["key"].startswith("config.")


@pytest.mark.slow
def test_a_finished_run_gets_more_epochs_and_resumes_bit_for_bit(
    finished_run: Path, records_root: Path, config: Config, tiny: tuple[str, ...], tmp_path: Path, recorder: Any
) -> None:
    longer = load_config("paper-tiny", [*tiny, "train.epochs=6", "train.keep_checkpoints=0"])
    runs = [Path(shutil.copytree(finished_run, tmp_path / name)) for name in ("whole", "stopped")]
    with pytest.raises(ArtefactError, match=r"epochs is 4 .*now 6; choose another directory, or accept .* --extend$"):
        train(longer, RunRequest(records_root, runs[0], 1), recorder)
    assert is_finished(runs[0])
    extend = Accepted(extend=True)
    train(longer, RunRequest(records_root, runs[0], 1, accepted=extend), recorder)
    assert recorder.done.step == 16
    plan = plan_steps(longer, 34)
    rates = [report.learning_rate for report in recorder.steps]
    assert rates == [learning_rate(step, plan, longer.schedule) for step in range(16, 24)]
    assert rates[0] > learning_rate(15, plan_steps(config, 34), config.schedule)
    assert [change["key"] for change in read_finished(runs[0], "run")["changes"]] == [
        "config.train.epochs",
        "config.train.keep_checkpoints",
    ]

    recorder.on_epoch = _stop_after(5)
    with pytest.raises(Interrupted):
        train(longer, RunRequest(records_root, runs[1], 1, accepted=extend), recorder)
    assert not is_finished(runs[1])
    recorder.on_epoch = lambda report: None
    train(longer, RunRequest(records_root, runs[1], 1), recorder)  # accepted once is enough
    _assert_same(_arrays(runs[1], "epoch-0006"), _arrays(runs[0], "epoch-0006"))

    shorter = load_config("paper-tiny", [*tiny, "train.epochs=5"])
    with pytest.raises(ConfigError, match=r"train\.epochs = 5: --extend makes a run longer, and .* has 6 epochs"):
        train(shorter, RunRequest(records_root, runs[0], 1, accepted=extend), recorder)


def _stop_after(epoch: int) -> Callable[[Any], None]:
    def stop(report: Any) -> None:
        if report.epoch == epoch:
            raise Interrupted("stopped")

    return stop


def test_a_rank_that_was_started_otherwise_learns_in_what(
    finished_run: Path, records_root: Path, tiny: tuple[str, ...]
) -> None:
    other = load_config("paper-tiny", [*tiny, "train.seed=5"])
    plan = run_plan(other, Records.open(records_root), stored=stored_plan(finished_run))
    with pytest.raises(
        ArtefactError, match=r"train\.seed\): .* 0 in .*, now 5; start the same command, .* every machine$"
    ):
        join_run(finished_run, plan, other, {})


def test_other_versions_that_decide_the_same_are_no_other_run(
    unfinished: Path, records_root: Path, config: Config
) -> None:
    def older(plan: dict[str, Any]) -> None:
        plan["versions"]["pillow"] = "9.0.0"

    _changed_plan(unfinished, older)
    records = Records.open(records_root)
    stored = read_json(unfinished / "plan.json")["plan"]
    assert differences(stored, run_plan(config, records, stored=stored)) == []
    assert run_plan(config, records)["versions"]["pillow"] != "9.0.0"
    del stored["decides"]  # of a program that compared versions only
    assert run_plan(config, records, stored=stored)["versions"]["pillow"] != "9.0.0"


@pytest.mark.slow
def test_other_decisions_are_refused_until_they_are_accepted(
    unfinished: Path, records_root: Path, config: Config, recorder: Any
) -> None:
    def older(plan: dict[str, Any]) -> None:
        plan["versions"]["pillow"] = "9.0.0"
        plan["decides"]["training_pixels"] = "0" * 64

    _changed_plan(unfinished, older)
    words = (
        r"decides\.training_pixels, versions\.pillow.* or accept the change with --accept-versions, or resume it with"
    )
    with pytest.raises(ArtefactError, match=words):
        train(config, RunRequest(records_root, unfinished, 1), recorder)
    train(config, RunRequest(records_root, unfinished, 1, accepted=Accepted(versions=True)), recorder)
    noted = {change["key"] for change in read_finished(unfinished, "run")["changes"]}
    assert noted == {"decides.training_pixels", "versions.pillow"}
    assert train(config, RunRequest(records_root, unfinished, 1), recorder).was_finished


@pytest.mark.parametrize("stored_as", ["copies-0123456789abcdef.csv", "/before/folds/copies-0123456789abcdef.csv"])
def test_a_file_of_copies_may_move_with_its_folder(
    records_root: Path, config: Config, tiny: tuple[str, ...], stored_as: str
) -> None:
    records = Records.open(records_root)
    moved = load_config("paper-tiny", [*tiny, "data.copies=/now/folds/copies-0123456789abcdef.csv"])
    plan = run_plan(moved, records)
    assert plan["config"]["data"]["copies"] == "copies-0123456789abcdef.csv"
    plan["config"]["data"]["copies"] = stored_as
    assert differences(plan, run_plan(moved, records, stored=plan)) == []
    (changed,) = differences(plan, run_plan(config, records, stored=plan))
    assert changed.key == "config.data.copies"


def test_what_the_libraries_decide_depends_on_the_configuration(
    records_root: Path, config: Config, tiny: tuple[str, ...]
) -> None:
    records = Records.open(records_root)
    here = run_plan(config, records)["decides"]
    assert run_plan(config, records)["decides"] == here
    other = run_plan(load_config("paper-tiny", [*tiny, "augment.interpolation=bilinear"]), records)["decides"]
    assert {name for name in here if here[name] != other[name]} == {"training_pixels"}
    seeded = run_plan(load_config("paper-tiny", [*tiny, "train.seed=9"]), records)["decides"]
    assert {name for name in here if here[name] == seeded[name]} == {"evaluation_pixels"}


@pytest.mark.slow
def test_a_run_can_start_with_the_moments_of_another(
    finished_run: Path, records_root: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    run, options = tmp_path / "run", [word for value in (*tiny, "train.epochs=1") for word in ("--set", value)]
    words = ["run", "paper-tiny", "--records", str(records_root), "--workers", "1", *options]
    begun = CliRunner().invoke(main, [*words, "--out", str(run), "--init-from", str(finished_run), "--with-optimizer"])
    assert begun.exit_code == 0, begun.stderr
    unit = (finished_run / "best").read_text().strip().removesuffix(".ema")
    before, after = (
        safetensors.numpy.load_file(folder / "checkpoints" / f"{name}.state.safetensors")
        for folder, name in ((finished_run, unit), (run, "epoch-0001"))
    )
    step = next(name for name in before if before[name].dtype == np.int32)
    assert after[step] == before[step] + 4
    assert set(read_json(run / "plan.json")["plan"]["start"]) == {"weights", "state"}
    weights = finished_run / "checkpoints" / f"{unit}.weights.safetensors"
    alone = Path(shutil.copy(weights, tmp_path / weights.name))
    refused = CliRunner().invoke(main, [*words, "--out", str(run), "--init-from", str(alone), "--with-optimizer"])
    assert (refused.exit_code, f"{unit}.state.safetensors: no such file" in refused.stderr) == (1, True)
