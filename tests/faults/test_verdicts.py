"""From a bad image to the exit code: what ends in quarantine, with which reason, and what is refused."""

import io
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from convnext_imagenet.base.files import read_json
from convnext_imagenet.base.protocol import read_finished
from convnext_imagenet.records.image_headers import REASONS
from convnext_imagenet.records.reader import Records


def _progressive(side_px: int, mode: str = "L", extra_scans: int = 0) -> bytes:
    """A progressive JPEG of one colour, whose last scan is repeated."""
    buffer = io.BytesIO()
    Image.new(mode, (side_px, side_px)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()[:-2]
    return data + data[data.rindex(b"\xff\xda") :] * extra_scans + b"\xff\xd9"


def _reasons(out: Path) -> dict[str, str]:
    table = pq.read_table(out / "quarantine.parquet").to_pylist()
    return {row["key"]: row["reason"] for row in table}


def _jpeg_of(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (10, 200, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def _make_one_of_each(folder: Path) -> dict[str, str]:
    """Replace images of a class by one for each reason that bytes alone can give; the reasons by key."""
    wide = _jpeg_of((16, 16))
    at = wide.index(b"\xff\xc0") + 5
    bad = {
        "empty": b"",
        "unsupported": b"<html>",
        "damaged": b"\xff\xd8\xff\xd9",
        "dimensions": wide[:at] + b"\xff" * 4 + wide[at + 4 :],
        "timeout": _progressive(4000, extra_scans=3000),
        "memory": _progressive(8000, "RGB"),  # coefficients of 192 MB
    }
    for number, data in enumerate(bad.values()):
        (folder / f"{folder.name}_{number}.JPEG").write_bytes(data)
    with (folder / f"{folder.name}_6.JPEG").open("r+b") as file:
        file.truncate((64 << 20) + 1)
    (folder / f"{folder.name}_7.JPEG").unlink()
    os.mkfifo(folder / f"{folder.name}_7.JPEG")
    (folder / "notes.txt").write_bytes(b"x")
    named = {f"{folder.name}_{number}": reason for number, reason in enumerate([*bad, "too_large", "not_a_file"])}
    return named | {f"train/{folder.name}/notes.txt": "misnamed"}


@pytest.mark.slow
def test_each_reason_but_a_crash_ends_in_the_table(bench, own_tree: Path, tmp_path: Path):
    """A decoder that crashes has to be made for that: test_checking does so. What --drop names is no verdict."""
    out = tmp_path / "out"
    limits = ("--image-timeout", "1", "--image-memory", "128")
    expected = _make_one_of_each(own_tree / "train" / "n00000020") | {"n00000010_7": "truncated"}
    assert set(expected.values()) == REASONS.keys() - {"crashed", "dropped"}
    code, log = bench.run(out, *limits)
    assert code == 3, log
    assert _reasons(out) == expected
    assert not (out / "_SUCCESS").exists()
    code, log = bench.run(out, *limits, "--max-quarantine", str(len(expected)))
    assert code == 0, log
    assert Records.open(out).manifest.splits["train"].quarantined == len(expected)


def test_quarantine_within_the_limit_is_done(bench, reference: Path):
    assert _reasons(reference) == {"n00000010_7": "truncated"}
    assert read_finished(reference, "records")["splits"]["train"]["quarantined"] == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--max-quarantine", "0"], 3),
        (["--classes", "all"], 1),
        (["--max-side", "22", "--quality", "101"], 2),
        (["--quality", "80"], 2),
    ],
)
def test_exit_codes_tell_quarantine_refusal_and_wrong_usage_apart(bench, tmp_path: Path, options, expected: int):
    code, log = bench.run(tmp_path / "out", *options)
    assert code == expected, log
    assert "Traceback" not in log


def test_larger_images_are_stored_smaller_and_the_records_say_so(bench, tree: Path, tmp_path: Path):
    options = ("--max-side", "25", "--quality", "70")
    assert bench.run(tmp_path / "one", *options)[0] == 0
    assert bench.run(tmp_path / "two", *options, "--workers", "1")[0] == 0
    assert bench.digests(tmp_path / "one") == bench.digests(tmp_path / "two")
    records = Records.open(tmp_path / "one")
    split = records.split("train")
    for row in split.read(range(split.rows), ["key", "image", "width", "height"]):
        assert Image.open(io.BytesIO(row["image"])).size == (row["width"], row["height"])
        number = int(row["key"].rpartition("_")[2])
        assert row["width"] == min(20 + number, 25)
        if number <= 5:
            assert row["image"] == next(tree.glob(f"train/*/{row['key']}.JPEG")).read_bytes()
    source = records.manifest.source
    assert source["reencoded"] == {"train": 7, "val": 0}
    assert source["treatment"]["reencoding"]["max_side_px"] == 25
    assert read_json(tmp_path / "one" / "plan.json")["plan"]["treatment"] == source["treatment"]


def test_another_treatment_is_another_run(bench, tmp_path: Path):
    assert bench.run(tmp_path / "out", "--max-side", "25")[0] == 0
    code, log = bench.run(tmp_path / "out", "--max-side", "24")
    assert (code, "differs in: treatment.reencoding.max_side_px" in log) == (1, True)
