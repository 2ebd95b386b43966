"""The command line: one clear line for each mistake, nothing written, and the log lines of a run."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convnext_imagenet.train.cli import main


def _run(*words: object) -> Result:
    return CliRunner().invoke(main, ["run", *(str(word) for word in words)])


def _overrides(tiny: tuple[str, ...]) -> list[str]:
    return [word for override in tiny for word in ("--set", override)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dmo"], ["unknown preset dmo; did you mean demo?", "paper-tiny"]),
        (["nothing.toml"], ["nothing.toml: cannot be read"]),
        (["demo", "--set", "schedule.base_learning_rate=1"], ["did you mean schedule.base_lr?"]),
        (["demo", "--devices", "2"], ["--devices 2", "one device"]),
        (["demo", "--workers", "999"], ["--workers 999: must not exceed the", "cores"]),
        (["demo"], ["absent: no such RECORDS directory", "make records DATA=", "make demo"]),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(words: list[str], said: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = _run(*words, "--records", tmp_path / "absent", "--out", out)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    for text in said:
        assert text in result.stderr
    assert not out.exists()


def test_missing_options_are_a_usage_error() -> None:
    assert _run("demo").exit_code == 2


def test_a_run_prints_the_examples_lines_and_what_comes_next(finished_output: Result, finished_run: Path) -> None:
    said = finished_output.stdout
    assert re.search(r"^epoch: 1 step: 4, loss is \d+\.\d+$", said, re.MULTILINE)
    assert len(re.findall(r"^epoch time: [\d.]+ ms, per step time: [\d.]+ ms$", said, re.MULTILINE)) == 4
    assert len(re.findall(r"^epoch: [34] Top1-Acc: [01]\.\d+, Top3-Acc: 1\.0+$", said, re.MULTILINE)) == 2
    assert re.search(r"^best top-1 on val: [01]\.\d+ \(epoch [34]\)$", said, re.MULTILINE)
    assert f"next: make eval RUN={finished_run} RECORDS=" in said
    assert "img/s" in finished_output.stderr


def test_a_finished_run_says_so(finished_run: Path, records_root: Path, tiny: tuple[str, ...]) -> None:
    result = _run("paper-tiny", "--records", records_root, "--out", finished_run, *_overrides(tiny))
    assert result.exit_code == 0, result.stderr
    assert "was finished before; nothing to do" in result.stdout
    other = _run("paper-tiny", "--records", records_root, "--out", finished_run, *_overrides((*tiny, "train.epochs=9")))
    assert other.exit_code == 1
    assert "config.train.epochs" in other.stderr
