"""`convnext-records` as a user calls it."""

import json
import logging

import pytest
from click.testing import CliRunner

from convnext_imagenet.base.console import expected_errors, show_log_lines
from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.records.cli import main

from .conftest import make_rows


def _run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_show_prints_what_is_there(records_root):
    result = _run("show", records_root)
    assert result.exit_code == 0
    assert "train: 7 rows in 2 shards" in result.output
    assert json.loads(_run("show", records_root, "--json").output)["splits"]["train"]["rows"] == 7


def test_verify_says_how_many_rows(records_root):
    result = _run("verify", records_root)
    assert result.exit_code == 0
    assert "images verified; 7 rows read" in result.output


def test_peek_prints_rows_and_saves_the_image(records_root, tmp_path):
    result = _run("peek", records_root, "--row", 6, "--image", tmp_path / "row.jpg")
    assert result.exit_code == 0
    assert "n00000002_5" in result.output
    assert (tmp_path / "row.jpg").read_bytes() == make_rows(7)[5].image


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "missing"], "no such directory"),
        (["verify", "missing"], "no such directory"),
        (["peek", "missing"], "no such directory"),
    ],
)
def test_a_missing_directory_is_one_line_and_exit_code_1(arguments, message):
    result = _run(*arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert result.output.count("\n") == 1


def test_peek_outside_the_split(records_root):
    result = _run("peek", records_root, "--row", 7)
    assert result.exit_code == 1
    assert "rows 0..6" in result.output


def test_expected_errors_carry_their_exit_code_and_bugs_pass():
    with pytest.raises(SystemExit) as caught, expected_errors():
        raise Interrupted("stopped")
    assert caught.value.code == 75
    with pytest.raises(ZeroDivisionError), expected_errors():
        _ = 1 / 0
    with pytest.raises(SystemExit) as caught, expected_errors():
        raise ModelError("of another room")
    assert caught.value.code == 1


def test_log_lines_of_our_packages_reach_the_screen_once(capsys):
    ours = logging.getLogger("convnext_imagenet")
    before, level = list(ours.handlers), ours.level
    try:
        show_log_lines()
        show_log_lines()
        logging.getLogger("convnext_imagenet.model.any").info("which path runs and why")
        assert capsys.readouterr().err == "which path runs and why\n"
    finally:
        ours.handlers[:] = before
        ours.setLevel(level)


def test_an_image_is_saved_under_a_name_of_its_kind(records_root, tmp_path):
    result = _run("peek", records_root, "--image", tmp_path / "row.png")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path / 'row.png'}: the image is stored as JPEG; name the file row.jpg\n"
    assert not (tmp_path / "row.png").exists()
