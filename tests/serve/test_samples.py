"""Every input becomes a sample, with its pixels or with the reason why not."""

import os
import threading
from functools import partial

import pytest

from convnext_imagenet.records.image_headers import LARGEST_FILE_BYTES
from convnext_imagenet.serve.inputs.files import list_folder, read_file
from convnext_imagenet.serve.inputs.inputs import Item
from convnext_imagenet.serve.samples import (
    Decoding,
    decode_sample,
    decode_timed_out,
    load_sample,
    load_timed_out,
    read_sample,
)

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
    (r"\xff.gif", "decode_error", None),
]


def _read(path, label=None):
    return read_sample(Item(path.name, partial(read_file, path), label), 0, TRANSFORM)


def test_each_input_is_read_or_says_why_not(folder):
    inputs = list_folder(folder)
    samples = [read_sample(item, k, TRANSFORM) for k, item in enumerate(inputs.items(range(inputs.count)))]
    assert [(s.source, s.status, s.info and s.info.mode) for s in samples] == EXPECTED
    assert [sample.sample_id for sample in samples] == list(range(len(EXPECTED)))
    for sample in samples:
        assert (sample.pixels is None) == (sample.status != "ok") == (sample.error is not None)
        assert (sample.sha256 is None) == (sample.status == "read_error")
        if sample.pixels is not None:
            assert sample.pixels.shape == (SIZE_PX, SIZE_PX, 3)
            assert (sample.info.width, sample.info.height) == (40, 30)


def test_a_file_of_too_many_bytes_is_not_read_into_memory(tmp_path):
    with (tmp_path / "big.jpg").open("wb") as file:
        file.truncate(LARGEST_FILE_BYTES + 1)
    sample = _read(tmp_path / "big.jpg")
    assert (sample.status, sample.sha256) == ("too_large", None)
    assert str(LARGEST_FILE_BYTES) in sample.error


def test_a_header_that_claims_a_huge_picture_is_not_decoded(tmp_path):
    data = bytearray(picture(0))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (29_000).to_bytes(2, "big") * 2
    (tmp_path / "bomb.jpg").write_bytes(data)
    sample = _read(tmp_path / "bomb.jpg")
    assert sample.status == "too_large"
    assert "29000 x 29000" in sample.error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_the_right_to_read_it_is_a_row(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(0))
    (tmp_path / "a.jpg").chmod(0)
    assert _read(tmp_path / "a.jpg").status == "read_error"


def test_a_file_that_became_a_folder_is_a_row(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    sample = _read(tmp_path / "a.jpg")
    assert (sample.status, sample.error) == ("read_error", "Is a directory")


def test_a_file_that_became_a_pipe_is_a_row_and_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    samples = []
    reader = threading.Thread(target=lambda: samples.append(_read(tmp_path / "a.jpg")), daemon=True)
    reader.start()
    reader.join(20)
    assert [(s.status, s.error) for s in samples] == [("unsupported", "unsupported: not a regular file")]


def test_a_path_with_a_zero_byte_is_a_row(tmp_path):
    assert _read(tmp_path / "a\0.jpg").status == "read_error"


def test_a_label_stays_with_its_input_whatever_becomes_of_it(tmp_path):
    (tmp_path / "good.jpg").write_bytes(picture(0))
    (tmp_path / "bad.jpg").write_bytes(b"bad")
    samples = [_read(tmp_path / name, label=5) for name in ("good.jpg", "bad.jpg", "missing.jpg")]
    assert [(sample.status, sample.label) for sample in samples] == [("ok", 5), ("unsupported", 5), ("read_error", 5)]


def test_an_error_without_words_of_the_system_still_says_something():
    def fail(error):
        raise error

    samples = [read_sample(Item("x", partial(fail, e)), 0, TRANSFORM) for e in (OSError("from\na store"), OSError())]
    assert [sample.error for sample in samples] == ["from a store", "OSError"]


def test_an_input_that_took_too_long_is_a_row_with_its_number_and_label():
    item = Item("slow.jpg", lambda: picture(0), 3)
    late = decode_sample(load_timed_out(item, 8, 0.5), TRANSFORM), decode_timed_out(load_sample(item, 8), 0.5)
    for sample in late:
        assert (sample.sample_id, sample.source, sample.status, sample.label) == (8, "slow.jpg", "timeout", 3)
    assert [sample.error for sample in late] == ["not read within 0.5 s", "not decoded within 0.5 s"]
    assert [sample.is_unread for sample in late] == [True, False]


def test_a_jpeg_whose_scan_ends_early_is_damaged_and_is_not_scored():
    pytest.importorskip("convnext_imagenet.records.jpeg_warnings")
    whole = picture(3, 160, 120)
    scan = whole.index(b"\xff\xda")
    half = whole[: scan + (len(whole) - scan) // 2] + b"\xff\xd9"
    kept, lost = (read_sample(Item("x", lambda data=data: data), 0, TRANSFORM) for data in (whole, half))
    assert (kept.status, lost.status) == ("ok", "damaged")
    assert lost.pixels is None
    assert "a part is lost" in lost.error
    assert (lost.info.width, lost.info.height) == (160, 120)
    loose = Decoding(refuses_damage=False)
    assert read_sample(Item("x", lambda: half), 0, TRANSFORM, loose).status == "ok"
