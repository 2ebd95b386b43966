"""Atomic files: the old content or the new, never a piece."""

import os
import stat
from pathlib import Path

import pytest

from convnext_imagenet.base import files
from convnext_imagenet.base.errors import ArtefactError


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    files.write_json(path, {"old": 1})

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"new": 1})
    assert files.read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_an_expected_error(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ArtefactError, match="damaged"):
        files.read_json(tmp_path / "x.json")


def test_equal_values_have_equal_hashes_and_bytes(tmp_path):
    one, other = {"a": 1, "b": [1, 2], "c": "é"}, {"c": "é", "b": [1, 2], "a": 1}
    assert files.sha256_json(one) == files.sha256_json(other) != files.sha256_json({**one, "a": 2})
    files.write_json(tmp_path / "1.json", one)
    files.write_json(tmp_path / "2.json", other)
    assert files.sha256_file(tmp_path / "1.json") == files.sha256_file(tmp_path / "2.json")


def test_a_pipe_is_written_into_and_stays_a_pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        files.write_output(path, b"bytes")
        assert os.read(reader, 10) == b"bytes"
    finally:
        os.close(reader)
    assert path.is_fifo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_a_folder_in_the_way_of_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="a file is in the way"):
        files.make_folder(tmp_path / "file" / "below")


@pytest.mark.parametrize(("name", "is_fine"), [("plain", True), ("plâce", True), (os.fsdecode(b"\xff"), False)])
def test_paths_that_are_no_utf8_are_named_before_mindspore_misses_them(name, is_fine):
    if is_fine:
        files.require_utf8(Path(name))
    else:
        with pytest.raises(ArtefactError, match=r"'\\udcff': MindSpore finds only paths"):
            files.require_utf8(Path(name))


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_are_readable_by_others_as_far_as_the_umask_lets_them(tmp_path, mask, mode):
    path = tmp_path / "file"
    path.touch(0o600)
    before = os.umask(mask)
    try:
        files.make_readable(path)
        files.write_json(tmp_path / "plan.json", {})
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {mode}


def test_publishing_twice_changes_nothing_and_something_else_is_refused(tmp_path):
    assert files.publish_new(tmp_path / "f", b"abc")
    assert not files.publish_new(tmp_path / "f", b"abc")
    with pytest.raises(ArtefactError, match="exists with other content"):
        files.publish_new(tmp_path / "f", b"abd")
    assert (tmp_path / "f").read_bytes() == b"abc"
    with pytest.raises(ArtefactError, match="there is no folder"):
        files.publish_new(tmp_path / "absent" / "f", b"abc")
    with pytest.raises(ArtefactError, match="exists with other content"):
        files.publish_new(tmp_path, b"abc")
