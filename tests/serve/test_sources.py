"""Every file becomes an input, every input a sample or a reason."""

import os
import socket
import sys

import pytest

from convnext_imagenet.records.images import LARGEST_FILE_BYTES
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.sources import list_inputs, read_sample, source_text

from .conftest import SIZE_PX, TRANSFORM, picture

EXPECTED = [
    ("a.jpg", "ok", "RGB"),
    ("b/cmyk.JPEG", "ok", "CMYK"),
    ("b/gray.jpg", "ok", "L"),
    ("b/named.JPEG", "ok", "RGB"),
    ("cut.jpg", "decode_error", None),
    ("dead.jpg", "read_error", None),
    ("empty.jpg", "decode_error", None),
    ("extensionless", "ok", "RGB"),
    ("page.jpg", "unsupported", None),
    ("z.png", "ok", "RGB"),
    (r"\xff.gif", "unsupported", None),
]


def test_every_visible_file_is_an_input_in_the_order_of_its_bytes(folder):
    names = list_inputs(folder).names
    assert [source_text(name) for name in names] == [source for source, _, _ in EXPECTED]
    assert sorted(names, key=os.fsencode) == list(names)


def test_each_input_is_read_or_says_why_not(folder):
    samples = [read_sample(folder, name, k, TRANSFORM) for k, name in enumerate(list_inputs(folder).names)]
    assert [(s.source, s.status, s.info and s.info.mode) for s in samples] == EXPECTED
    for sample in samples:
        assert (sample.pixels is None) == (sample.status != "ok") == (sample.error is not None)
        assert (sample.sha256 is None) == (sample.status == "read_error")
        if sample.pixels is not None:
            assert sample.pixels.shape == (SIZE_PX, SIZE_PX, 3)
            assert (sample.info.width, sample.info.height) == (40, 30)


def test_a_file_of_too_many_bytes_is_not_read_into_memory(tmp_path):
    with (tmp_path / "big.jpg").open("wb") as file:
        file.truncate(LARGEST_FILE_BYTES + 1)
    sample = read_sample(tmp_path, "big.jpg", 0, TRANSFORM)
    assert (sample.status, sample.sha256) == ("too_large", None)
    assert str(LARGEST_FILE_BYTES) in sample.error


def test_a_header_that_claims_a_huge_picture_is_not_decoded(tmp_path):
    data = bytearray(picture(0))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (29_000).to_bytes(2, "big") * 2
    (tmp_path / "bomb.jpg").write_bytes(data)
    sample = read_sample(tmp_path, "bomb.jpg", 0, TRANSFORM)
    assert sample.status == "too_large"
    assert "29000 x 29000" in sample.error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_the_right_to_read_it_is_a_row(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(0))
    (tmp_path / "a.jpg").chmod(0)
    assert read_sample(tmp_path, "a.jpg", 0, TRANSFORM).status == "read_error"


def test_a_file_that_became_a_folder_is_a_row(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    sample = read_sample(tmp_path, "a.jpg", 0, TRANSFORM)
    assert (sample.status, sample.error) == ("read_error", "Is a directory")


def test_the_fingerprint_follows_names_and_sizes(folder):
    before = list_inputs(folder).sha256
    assert list_inputs(folder).sha256 == before
    (folder / ".secret.jpg").unlink()
    assert list_inputs(folder).sha256 == before
    (folder / "empty.jpg").write_bytes(b"x")
    grown = list_inputs(folder).sha256
    (folder / "empty.jpg").rename(folder / "other.jpg")
    assert len({before, grown, list_inputs(folder).sha256}) == 3


def test_linked_folders_are_followed_and_loops_refused(tmp_path, folder):
    root = tmp_path / "links"
    root.mkdir()
    (root / "again").symlink_to(folder)
    assert len(list_inputs(root).names) == len(EXPECTED)
    (root / "loop").symlink_to(root)
    with pytest.raises(ServeError, match="link to a folder above"):
        list_inputs(root)


def test_a_pipe_or_socket_is_left_out(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    if sys.platform == "linux":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "s.jpg"))
    (tmp_path / "a.jpg").write_bytes(picture(0))
    assert list_inputs(tmp_path).names == ("a.jpg",)


def test_nothing_to_predict_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.jpg").write_bytes(b"")
    for path, text in (("empty", "no files"), ("file.jpg", "convnext-serve infer"), ("missing", "no such directory")):
        with pytest.raises(ServeError, match=text):
            list_inputs(tmp_path / path)
