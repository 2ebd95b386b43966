"""The command: a configuration on standard output that a run takes, and `auto`, which does both."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from convnext_imagenet.base.protocol import read_finished
from convnext_imagenet.train.cli import main
from convnext_imagenet.train.config.source import load_config


@pytest.mark.slow
def test_what_is_printed_is_a_configuration_and_says_why(records_root: Path, tmp_path: Path) -> None:
    words = ["suggest", str(records_root), "--workers", "1"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.stderr
    assert "measuring a few steps" in result.stderr
    values = tomllib.loads(result.stdout)
    assert values["model"]["variant"] == "convnext_atto"
    assert "# Minutes:  " in result.stdout
    assert "#   data.size_px: the images' shorter side is 41 px" in result.stdout
    path = tmp_path / "own.toml"
    path.write_text(result.stdout)
    assert load_config(str(path)).data.size_px == 32


@pytest.mark.slow
def test_auto_writes_its_choice_once_and_trains(finished_run: Path, records_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "own"
    words = ["run", "auto", "--records", str(records_root), "--out", str(run), "--workers", "1"]
    words += ["--init-from", str(finished_run)]
    overrides = ["--set", "train.epochs=1", "--set", "schedule.warmup_epochs=0"]
    result = CliRunner().invoke(main, [*words, *overrides])
    assert result.exit_code == 0, result.stderr
    chosen = run.with_name("own.toml")
    text = chosen.read_text()
    assert "weights: ConvNeXt V1 (depths (1, 1, 1, 1), dims (8, 16, 24, 32)) with 3 classes: the network" in text
    assert read_finished(run, "run")["last"]["epoch"] == 1
    chosen.write_text(text + "# edited\n")
    again = CliRunner().invoke(main, [*words, *overrides])
    assert (again.exit_code, "already finished" in again.stdout) == (0, True)
    assert chosen.read_text().endswith("# edited\n")


@pytest.mark.parametrize(
    ("minutes", "said"), [([], "used; to"), (["--minutes", "9"], "used, and --minutes changes nothing;")]
)
def test_auto_says_that_it_uses_a_configuration_that_exists(
    minutes: list[str], said: str, records_root: Path, tmp_path: Path
) -> None:
    chosen = tmp_path / "own.toml"
    chosen.write_text("[train]\nepochs = 0\n")
    words = ["run", "auto", "--records", str(records_root), "--out", str(tmp_path / "own"), *minutes]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert f"{chosen} exists and is {said}" in result.stderr
    assert "train.epochs = 0: must be at least 1" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["suggest", "absent"], 1, "absent: no such RECORDS directory"),
        (["run", "demo", "--records", "r", "--out", "o", "--minutes", "2"], 2, "--minutes needs CONFIG auto"),
        (["run", "auto", "--records", "absent", "--out", "o"], 1, "absent: no such RECORDS directory"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], code: int, said: str) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code
    assert said in result.stderr
