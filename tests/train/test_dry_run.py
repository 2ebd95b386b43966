"""The command of a dry run: what it refuses, and that for the CPU it needs neither stand-ins nor records."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from convnext_imagenet.train.cli import main
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.dry_run import plan_dry_run
from convnext_imagenet.train.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--dry-run", "--device-target", "GPU"], 1, "--device-target GPU: a dry run is not possible"),
        (["--dry-run", "--device-target", "CPU", "--devices", "2"], 1, "--devices 2: a dry run for the CPU compiles"),
        (["--dry-run", "--devices", "32"], 1, "data.global_batch_size=64"),
        (["--dry-run", "--records", "absent"], 1, "absent"),
        (["--dry-run", "--set", "model.depth=[1]"], 1, "did you mean model.depths"),
        (["--json", "kernels.json", "--records", "r", "--out", "o"], 2, "--json needs --dry-run"),
        (["--out", "o"], 2, "Missing option '--records'"),
        (["--records", "r"], 2, "Missing option '--out'"),
    ],
)
def test_what_cannot_be_done_is_one_line(words: list[str], code: int, text: str) -> None:
    result = CliRunner().invoke(main, ["run", "demo", *words])
    assert (result.exit_code, text in result.output) == (code, True), result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("has_records", [False, True])
def test_a_batch_that_the_devices_cannot_divide_is_refused_as_by_the_run(
    has_records: bool, records_root: Path, config: Config
) -> None:
    records = records_root if has_records else None
    with pytest.raises(ConfigError, match=r"global_batch_size = 8: 8 devices take pairs .* pass --set .*size=32$"):
        plan_dry_run(config, records, "Ascend", 8)
    assert plan_dry_run(config, records, "Ascend", 2).devices == 2


@pytest.mark.slow
def test_a_dry_run_for_the_cpu_counts_kernels(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    sets = [word for value in tiny for word in ("--set", value)]
    report = tmp_path / "kernels.json"
    words = ["run", "demo", "--dry-run", "--device-target", "CPU", "--json", str(report), *sets]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "not proven by a dry run" in result.output
    assert report.exists()
    assert not (tmp_path / "run").exists()
