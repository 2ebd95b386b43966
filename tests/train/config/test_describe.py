"""The table of presets says what their headers say; a printed configuration is one, with a reason for each key."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from convnext_imagenet.train.cli import main
from convnext_imagenet.train.cli_config import complete_config, complete_set
from convnext_imagenet.train.config.config import dotted_keys
from convnext_imagenet.train.config.describe import described_toml, preset_lines, preset_table
from convnext_imagenet.train.config.source import load_config, preset_names

from ...json_page import documented


def test_the_table_has_what_the_headers_say() -> None:
    table = {entry.name: entry for entry in preset_table()}
    assert list(table) == preset_names()
    assert (table["nette96"].hours, table["nette96"].top1) == (17 / 60, 0.572)
    assert (table["demo"].hours, table["demo"].size_px, table["demo"].epochs) == (0.02, 32, 8)
    assert (table["paper-tiny"].hours, table["paper-tiny"].top1_of) == (None, "the paper's")
    assert (table["seed"].hours, table["seed"].top1_of) == (25, "the example's")
    assert table["finetune"].top1 == 0.851
    assert {entry.name for entry in table.values() if entry.top1 is None} == set()
    assert re.search(r"^nette96 +convnext_atto +64 +10 +0\.28 +57\.2%$", "\n".join(preset_lines(table.values())), re.M)


def test_the_table_as_json() -> None:
    done = CliRunner().invoke(main, ["presets", "--json"])
    (entry, *_) = json.loads(done.stdout)["presets"]
    assert entry.keys() == documented("convnext-train presets").keys()


@pytest.mark.parametrize("name", preset_names())
def test_a_printed_configuration_reads_back_as_itself(name: str, tmp_path: Path) -> None:
    file = tmp_path / "printed.toml"
    file.write_text(described_toml(name, ["train.seed=7"]))
    assert load_config(str(file)) == load_config(name, ["train.seed=7"])


def test_each_key_says_where_it_comes_from_its_default_and_its_rule() -> None:
    lines = described_toml("nette96", ["train.epochs=3", "data.size_px=64"]).splitlines()
    comments = {line.split(" = ")[0]: line.split(" # ")[1] for line in lines if " = " in line}
    assert comments["epochs"] == "--set; default 300; must be at least 1"
    assert comments["size_px"] == "nette96; default 224; must be at least 32", "the same value as the preset's"
    assert comments["min_lr"] == "default; must be at least 0"
    assert comments["kind"] == 'default; must be "cosine" or "step" or "constant"'


def test_the_command_prints_it_and_refuses_in_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["config", "demo", "--set", "train.epochs=9"])
    assert tomllib.loads(done.stdout)["train"]["epochs"] == 9
    (tmp_path / "config.toml").write_text("[train]\nepochs = 50\n")
    assert tomllib.loads(CliRunner().invoke(main, ["config", str(tmp_path)]).stdout)["train"]["epochs"] == 50
    refused = CliRunner().invoke(main, ["config", "demo", "--set", "train.epochs=0"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)


def test_presets_and_keys_complete() -> None:
    def words(complete, begun):  # type: ignore[no-untyped-def]
        return [item.value for item in complete(None, None, begun)]

    assert words(complete_config, "paper-t") == ["paper-tiny"]
    assert words(complete_config, "own") == ["own"]
    assert complete_config(None, None, "own")[0].type == "file"  # type: ignore[arg-type]
    assert words(complete_set, "train.b") == ["train.best_by=top1", "train.best_by=loss"]
    assert words(complete_set, "train.epochs=") == ["train.epochs=300"]
    assert {word.split("=")[0] for word in words(complete_set, "")} == dotted_keys().keys()
