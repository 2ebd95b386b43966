"""Where the launchers' token comes from: the environment, or a private file that lives as long as the job."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks.job_token import JOB_TOKEN, TOKEN_FILE, JobToken, job_token
from convnext_imagenet.launch.ranks.rank import Layout

FIRST, SECOND = Layout(1, "CPU", nodes=2), Layout(1, "CPU", nodes=2, node_rank=1)


def test_machine_0_writes_a_private_file_that_the_others_read_and_removes_it(tmp_path: Path) -> None:
    shared = tmp_path / "run" / "logs"
    with job_token(SECOND, shared, {}) as second:
        assert second.read() is None
        with job_token(FIRST, shared, {}) as first:
            assert not shared.exists(), "nothing is written before the port is bound"
            first.publish()
            path = shared / TOKEN_FILE
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert first.source == second.source == str(path)
            token = second.read()
            assert token is not None
            assert len(token) == 64
            assert token == first.read()
        assert not list(shared.iterdir())
        assert second.read() is None


def test_each_job_has_another_token_and_an_old_file_is_replaced(tmp_path: Path) -> None:
    path, tokens = tmp_path / TOKEN_FILE, set()
    for _ in range(3):
        path.write_text("a token of an earlier job, whose launcher was killed")
        path.chmod(0o644)
        with job_token(FIRST, tmp_path, {}) as first, job_token(SECOND, tmp_path, {}) as second:
            first.publish()
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert first.read() == second.read()
            tokens.add(first.read())
    assert len(tokens) == 3


def test_a_link_in_the_place_of_the_file_is_replaced_and_never_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("t" * 64)
    (tmp_path / TOKEN_FILE).symlink_to(target)
    with job_token(FIRST, tmp_path, {}) as first, job_token(SECOND, tmp_path, {}) as second:
        assert second.read() is None
        first.publish()
        assert second.read() == first.read() is not None
    assert target.read_text() == "t" * 64


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, Path.touch], ids=["folder", "pipe", "empty"])
def test_what_is_no_token_is_not_read_and_blocks_nobody(tmp_path: Path, make) -> None:
    make(tmp_path / TOKEN_FILE)
    with job_token(SECOND, tmp_path, {}) as second:
        assert second.read() is None


def test_a_confirmed_token_stays_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / TOKEN_FILE
    path.write_text("a" * 64)
    with job_token(SECOND, tmp_path, {}) as second:
        second.read()
        path.write_text("b" * 64)
        assert second.read() == b"b" * 64
        second.confirm()
        path.write_text("c" * 64)
        assert second.read() == b"b" * 64
    assert path.exists(), "only machine 0 removes it"


def test_the_file_of_a_later_job_is_not_removed(tmp_path: Path) -> None:
    with job_token(FIRST, tmp_path, {}) as early:
        early.publish()
        with job_token(FIRST, tmp_path, {}) as late:
            late.publish()
            early.publish()  # the next attempt of the earlier job
            early.withdraw()
            with job_token(SECOND, tmp_path, {}) as second:
                assert second.read() == late.read()


def test_the_environment_comes_first_and_needs_no_file(tmp_path: Path) -> None:
    text = "a secret with ü and blanks, 32 characters"
    for layout in (FIRST, SECOND):
        with job_token(layout, tmp_path, {JOB_TOKEN: f" {text}\n"}) as token:
            token.publish()
            assert token.read() == text.encode()
            assert token.source == JOB_TOKEN
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", " " * 40, "x" * 31, "x" * 5000])
def test_a_token_that_could_be_guessed_is_refused(text: str) -> None:
    with (
        pytest.raises(LaunchError, match=rf"{JOB_TOKEN} has {len(text.strip())} characters: must have 32 to 4096"),
        job_token(FIRST, None, {JOB_TOKEN: text}),
    ):
        pytest.fail("refused")


@pytest.mark.parametrize("layout", [FIRST, SECOND])
def test_a_command_without_a_shared_folder_needs_the_variable(layout: Layout) -> None:
    with (
        pytest.raises(LaunchError, match=rf"--nodes 2: this command has no folder .*; set {JOB_TOKEN} to"),
        job_token(layout, None, {}),
    ):
        pytest.fail("refused")


def test_a_job_on_one_machine_needs_neither_variable_nor_file(tmp_path: Path) -> None:
    with job_token(Layout(8, "CPU"), tmp_path, {JOB_TOKEN: "short"}) as token:
        token.publish()
        assert token.read()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    with (
        job_token(FIRST, tmp_path / "logs", {}) as token,
        pytest.raises(LaunchError, match=rf"logs/{TOKEN_FILE}: the job's token cannot be written .*; set {JOB_TOKEN}"),
    ):
        token.publish()


def test_a_file_system_that_shows_the_file_to_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a CIFS mount, where every file has the mode of the mount."""
    make = tempfile.mkstemp

    def make_readable(**options) -> tuple[int, str]:
        descriptor, name = make(**options)
        os.fchmod(descriptor, 0o644)
        return descriptor, name

    monkeypatch.setattr(tempfile, "mkstemp", make_readable)
    with (
        job_token(FIRST, tmp_path, {}) as token,
        pytest.raises(LaunchError, match=rf"{TOKEN_FILE}: other users could read it .*; set {JOB_TOKEN}"),
    ):
        token.publish()
    assert not list(tmp_path.iterdir())


def test_advice_names_the_variable_and_for_a_file_the_folder() -> None:
    assert JobToken(b"x" * 32).advice.startswith(f"set {JOB_TOKEN} to the same random text on all machines")
    assert JobToken(None, Path("logs/job-token")).advice.startswith("share this folder between the machines")
