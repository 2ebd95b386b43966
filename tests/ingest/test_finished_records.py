"""What a finished ingest carries beside its shards, and what `convnext-records` shows of it."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from convnext_imagenet.ingest.cli import main as ingest
from convnext_imagenet.records.cli import main as records


def _run(command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(wide_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of the wide tree: 1,028 train images of 40 different contents, 6 of val, 2 bad ones."""
    out = tmp_path_factory.mktemp("finished") / "records"
    done = _run(ingest, "build", wide_tree, "--out", out, "--classes", "found", "--max-quarantine", 2)
    assert done.exit_code == 0, done.output
    return out


def test_the_index_has_one_row_for_each_stored_image_as_the_source_has_it(finished, wide_tree):
    rows = pq.read_table(finished / "index.parquet").to_pylist()
    assert [sum(row["split"] == split for row in rows) for split in ("train", "val")] == [1028, 6]
    for row in rows[::97]:
        image = (wide_tree / row["split"] / row["wnid"] / f"{row['key']}.JPEG").read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(image), hashlib.sha256(image).hexdigest())
        assert (row["width"], row["height"], row["mode"]) == (16, 16, "RGB")
        assert (finished / row["split"] / row["shard"]).is_file()


def test_the_manifest_holds_the_digests_of_index_and_report(finished):
    files = json.loads((finished / "manifest.json").read_text())["files"]
    assert set(files) == {"index.parquet", "report.html", "quarantine.parquet"}
    for name, digest in files.items():
        assert hashlib.sha256((finished / name).read_bytes()).hexdigest() == digest


def test_the_report_tells_counts_duplicates_quarantine_and_shows_pictures(finished):
    text = (finished / "report.html").read_text()
    assert "2 classes, 1,034 images" in text
    assert "2 classes with other counts than the devkit's; 40 sets of exact duplicates; 2 images in quarantine." in text
    assert "train/n00000010/n00000010_7.JPEG</td><td>truncated" in text
    assert "train/n00000020/n00000020_9.JPEG</td><td>empty" in text
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(pictures) == 12
    assert all(base64.b64decode(picture).startswith(b"\xff\xd8") for picture in pictures)


def test_gallery_draws_the_classes_asked_for(finished, tmp_path):
    sheet = tmp_path / "sheet.png"
    done = _run(records, "gallery", finished, "--out", sheet, "--per-class", 3, "--side", 32)
    assert (done.exit_code, "6 images of 2 classes of train" in done.output) == (0, True)
    with Image.open(sheet) as drawn:
        assert drawn.format == "PNG"
    done = _run(records, "gallery", finished, "--out", sheet, "--class", "n00000010", "--split", "val")
    assert "3 images of 1 class of val" in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "n99999999"], "not a class of these records"),
        (["--per-class", 100_000], "megapixels"),
        (["--split", "test"], "test"),
    ],
)
def test_gallery_refuses_with_one_line(finished, tmp_path, options, message):
    done = _run(records, "gallery", finished, "--out", tmp_path / "sheet.png", *options)
    assert done.exit_code == 1
    assert message in done.output
    assert not (tmp_path / "sheet.png").exists()


def test_peek_finds_a_row_by_its_key_in_either_split(finished, wide_tree, tmp_path):
    for split, key in (("train", "n00000020_77"), ("val", "ILSVRC2012_val_00000002")):
        done = _run(records, "peek", finished, "--key", key, "--image", tmp_path / "row.jpg")
        (source,) = (wide_tree / split).glob(f"*/{key}.JPEG")
        assert (tmp_path / "row.jpg").read_bytes() == source.read_bytes()
        assert done.output.startswith(f"{split} ")
        assert hashlib.sha256(source.read_bytes()).hexdigest() in done.output


def test_peek_refuses_an_unknown_key_and_two_ways_to_say_which_row(finished):
    assert "no such row" in _run(records, "peek", finished, "--key", "n00000010_7").output
    assert _run(records, "peek", finished, "--key", "n00000010_8", "--row", 1).exit_code == 2


def test_a_changed_index_is_refused(finished):
    path = finished / "index.parquet"
    kept = path.read_bytes()
    try:
        path.write_bytes(kept[:100] + b"\0" + kept[101:])
        done = _run(records, "peek", finished, "--key", "n00000020_77")
        assert (done.exit_code, "changed since the records were finished" in done.output) == (1, True)
    finally:
        path.write_bytes(kept)


def _warned(data: bytes) -> bytes:
    return data.replace(b"JFIF\0\1", b"JFIF\0\7")  # a revision that libjpeg does not know


def test_an_image_of_which_a_part_is_lost_is_stored_only_when_asked_for(raw_tree, tmp_path, pieces):
    """A JPEG that is cut and closed again decodes everywhere, half of it in gray."""
    folder, whole = raw_tree / "train" / "n00000010", pieces.jpeg(5, size_px=64)
    (folder / "n00000010_0.JPEG").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    (folder / "n00000010_1.JPEG").write_bytes(_warned(whole))
    options = ("build", raw_tree, "--classes", "found", "--workers", 1, "--out")
    done = _run(ingest, *options, tmp_path / "strict")
    assert done.exit_code == 0, done.output
    assert "libjpeg warned of 1 stored image: column warnings of index.parquet" in done.output
    (bad,) = pq.read_table(tmp_path / "strict" / "quarantine.parquet").to_pylist()
    assert (bad["reason"], bad["detail"]) == ("damaged", "Corrupt JPEG data: premature end of data segment")
    for out, more, warned in (
        ("strict", (), {"n00000010_1": 1}),
        ("all", ("--accept-warnings",), {"n00000010_0": 1, "n00000010_1": 1}),
    ):
        done = _run(ingest, *options, tmp_path / out, *more)
        assert done.exit_code == 0, done.output
        rows = pq.read_table(tmp_path / out / "index.parquet").to_pylist()
        assert {row["key"]: row["warnings"] for row in rows if row["warnings"]} == warned
        assert _run(records, "verify", tmp_path / out).exit_code == 0
        assert f"libjpeg warned of {len(warned)} image" in (tmp_path / out / "report.html").read_text()
    assert json.loads((tmp_path / "all" / "manifest.json").read_text())["source"]["treatment"]["accept_warnings"]


def _count_files(root: Path) -> int:
    return sum(path.is_file() for path in root.rglob("*"))


def test_every_file_is_stored_or_in_quarantine_or_named_as_junk(tmp_path, pieces):
    """Sound images with endings of phones and browsers, files that are none, and what file managers leave."""
    data, out = tmp_path / "data", tmp_path / "out"
    sound = ("a.jfif", "b.jpe", "c.pjpeg", "d.jpg_large", "e", ".f.jpg", "g.heic", "h.JPG", "i.txt")
    bad = {
        "j.avif": b"\0\0\0\x20ftypavif",
        "k.gif": b"GIF89a",
        "notes.md": b"# cats",
        "l.jpg": b"<!DOCTYPE html>",
    }
    for folder in ("train/cat", "val/cat"):
        (data / folder / "@eaDir").mkdir(parents=True)
        for number, name in enumerate(sound):
            (data / folder / name).write_bytes(pieces.jpeg(number))
        for name, content in {**bad, "Thumbs.db": b"x", "._a.jfif": b"x", ".DS_Store": b"x"}.items():
            (data / folder / name).write_bytes(content)
    (data / "train" / "labels.csv").write_bytes(b"x")
    done = _run(
        ingest, "build", data, "--out", out, "--unverified", "--classes", "found", "--max-quarantine", 8, "--workers", 1
    )
    assert done.exit_code == 0, done.output
    manifest = json.loads((out / "manifest.json").read_text())
    for split in ("train", "val"):
        entry, junk = manifest["splits"][split], manifest["source"]["junk"][split]
        assert (entry["rows"], entry["quarantined"]) == (len(sound), len(bad))
        files = sum(count for name, count in junk.items() if not name.endswith("/"))
        assert entry["rows"] + entry["quarantined"] + files == _count_files(data / split)
        assert junk["@eaDir/"] == 1
    reasons = {row["path"]: row["detail"] for row in pq.read_table(out / "quarantine.parquet").to_pylist()}
    for path, kind in (
        ("j.avif", "AVIF"),
        ("k.gif", "GIF"),
        ("notes.md", "an unknown kind"),
        ("l.jpg", "an HTML page"),
    ):
        assert reasons[f"train/cat/{path}"].startswith(f"{kind}, neither JPEG, PNG nor WebP")


def test_a_file_without_an_official_name_is_not_stored_in_verified_records(raw_tree, tmp_path, pieces):
    for folder in ("train/n00000010", "train/n00000020", "val"):
        (raw_tree / folder / "extra").write_bytes(pieces.jpeg(1))
    (raw_tree / "train" / "n00000010" / "n00000010_6.JPEG").rename(raw_tree / "train/n00000010/n00000010_6.jfif")
    done = _run(ingest, "build", raw_tree, "--out", tmp_path / "out", "--classes", "found", "--max-quarantine", 3)
    assert done.exit_code == 0, done.output
    rows = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert [(row["path"], row["label"], row["reason"]) for row in rows] == [
        ("train/n00000010/extra", 0, "misnamed"),
        ("train/n00000020/extra", 1, "misnamed"),
        ("val/extra", -1, "misnamed"),
    ]
    keys = pq.read_table(tmp_path / "out" / "index.parquet")["key"].to_pylist()
    assert "n00000010_6" in keys
    assert len(keys) == 25
