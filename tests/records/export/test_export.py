"""Exports hold every row, byte by byte and every time the same; what was begun is resumed, what is damaged refused."""

import json
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.records.cli import main
from convnext_imagenet.records.export.card import card_text, croissant_text
from convnext_imagenet.records.export.checksums import read_checksums
from convnext_imagenet.records.export.formats import FORMATS, label_names, tar_key
from convnext_imagenet.records.export.job import export_records
from convnext_imagenet.records.export.verify import verify_export
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.places import place_of
from convnext_imagenet.records.schema import Row

from ..conftest import build_records, make_rows

ROWS = [*make_rows(7)[0::2], *make_rows(7)[1::2]]  # as two shards hold them


def tree(root: Path) -> dict[str, bytes]:
    """All files by their paths, without locks."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def rows_in(out: Path, format_name: str) -> list[tuple[str, int, bytes]]:
    """Key, label and image of all rows of an export, in its order."""
    if format_name == "parquet":
        tables = [pq.read_table(path).to_pylist() for path in sorted(out.glob("data/*.parquet"))]
        return [(row["key"], row["label"], row["image"]["bytes"]) for table in tables for row in table]
    if format_name == "webdataset":
        rows = []
        for path in sorted(out.glob("data/*.tar")):
            with tarfile.open(path) as archive:
                members = [(member.name, archive.extractfile(member).read()) for member in archive]
            for (name, image), (_, label) in zip(members[::2], members[1::2], strict=True):
                rows.append((name.removesuffix(".jpg"), int(label), image))
        return rows
    return [(row.key, row.label, (out / "train" / row.key).read_bytes()) for row in ROWS]


@pytest.fixture
def foldered(tmp_path) -> Path:
    """Records whose keys are paths, as those of unverified trees are."""
    rows = [Row(row.image, row.label, row.sample_id, f"n{row.label}/{row.key}.jpg", 12, 20) for row in make_rows(7)]
    return build_records(tmp_path / "foldered", rows, is_verified=False)


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_row_is_there_and_a_second_export_has_the_same_bytes(records_root, tmp_path, format_name):
    outs = [tmp_path / "a", tmp_path / "b"]
    for out in outs:
        command = ["export", str(records_root), "--format", format_name, "--out", str(out)]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        assert f"finished, 7 train images as {format_name}" in result.output
    if format_name != "folder":
        assert rows_in(outs[0], format_name) == [(row.key, row.label, row.image) for row in ROWS]
    else:
        names = {f"{row.key.partition('_')[0]}/{row.key}.JPEG": row.image for row in ROWS}
        assert {name: (outs[0] / "train" / name).read_bytes() for name in names} == names
    assert tree(outs[0]) == tree(outs[1])
    assert "nothing to do" in CliRunner().invoke(main, command).output


def test_keys_that_are_paths_become_paths(foldered, tmp_path):
    export_records(foldered, tmp_path / "out", "folder")
    found = sorted(path.relative_to(tmp_path / "out/train").as_posix() for path in (tmp_path / "out/train").glob("*/*"))
    assert found == sorted(f"n{row.label}/{row.key}.jpg" for row in ROWS)


@pytest.mark.parametrize("key", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "x.jpg", "a//x.jpg"])
def test_a_key_that_leads_out_of_the_folder_is_refused(tmp_path, key):
    root = build_records(tmp_path / "records", [Row(ROWS[0].image, 0, 0, key, 12, 20)], 1, is_verified=False)
    with pytest.raises(ArtefactError, match="cannot be a path in a class folder"):
        export_records(root, tmp_path / "out", "folder")
    assert not list(tmp_path.glob("**/x.jpg"))


@pytest.mark.parametrize("format_name", FORMATS)
def test_what_was_begun_is_resumed(records_root, tmp_path, format_name):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    export_records(records_root, whole, format_name)
    export_records(records_root, resumed, format_name)
    (resumed / "_SUCCESS").unlink()
    next(resumed.rglob("_train-00001*.json")).unlink()
    (resumed / ".staging").mkdir()
    (resumed / ".staging" / "train-00001-of-00002.tar").write_bytes(b"half")
    assert export_records(records_root, resumed, format_name).written == 1
    assert tree(resumed) == tree(whole)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", FORMATS)
def test_killed_exports_end_with_the_same_bytes(tmp_path, format_name):
    records = build_records(tmp_path / "records", make_rows(3000), shards=6)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    started = time.monotonic()
    export_records(records, whole, format_name)
    seconds = time.monotonic() - started
    program = "from convnext_imagenet.records.cli import main; main()"
    command = [sys.executable, "-c", program, "export", str(records), "--format", format_name, "--out", str(killed)]
    for number in range(6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.9 + seconds * number / 6)
        process.kill()
        process.wait()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert tree(killed) == tree(whole)


@pytest.mark.parametrize("format_name", FORMATS)
def test_what_a_killed_writer_left_is_gone_at_the_end(records_root, tmp_path, format_name):
    whole, out = tmp_path / "whole", tmp_path / "out"
    export_records(records_root, whole, format_name)
    export_records(records_root, out, format_name)
    receipt = next(out.rglob("_train-*.json"))
    for path in (out / ".README.md.7.tmp", receipt.with_name(f".{receipt.name}.7.tmp")):
        path.write_text("half")
    receipt.unlink()
    (out / "_SUCCESS").unlink()
    assert export_records(records_root, out, format_name).written == 1
    assert tree(out) == tree(whole)


@pytest.mark.parametrize("format_name", FORMATS)
def test_what_was_deleted_cut_or_changed_later_is_noticed(records_root, tmp_path, format_name):
    whole, out = tmp_path / "whole", tmp_path / "out"
    export_records(records_root, whole, format_name)
    export_records(records_root, out, format_name)
    assert verify_export(out).problems == ()
    files = sorted(path for path in out.rglob("*") if path.suffix in (".parquet", ".tar", ".JPEG"))
    lists = sorted(out.rglob("*.sha256"))
    assert len(files) == (7 if format_name == "folder" else 2)
    for path in (files[0], files[-1], *lists[:1]):
        data = path.read_bytes()
        path.unlink()
        result = CliRunner().invoke(main, ["verify", str(out)])
        assert (result.exit_code, f"{path}: missing" in result.output) == (1, True), result.output
        assert export_records(records_root, out, format_name).written == 1
        assert tree(out) == tree(whole)
        path.write_bytes(data[:-1])
        assert export_records(records_root, out, format_name).written == 1
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        (problem,) = verify_export(out).problems
        assert problem.startswith(f"{path}: its content has changed")
        path.unlink()  # as the message says
        export_records(records_root, out, format_name)
        assert tree(out) == tree(whole)
    assert verify_export(out).rows == 7


def test_sha256sum_reads_the_list_of_an_exported_folder(tmp_path):
    rows = [Row(make_rows(1)[0].image, 0, 0, f"n0/{name}.jpg", 12, 20) for name in ("a b", "c\\d", "\\e", "f\\")]
    records = build_records(tmp_path / "records", rows, 1, is_verified=False)
    export_records(records, tmp_path / "out", "folder")
    (listed,) = (tmp_path / "out").rglob("*.sha256")
    command = ["sha256sum", "--check", "--strict", str(listed)]
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(name for name, _ in read_checksums(listed)) == sorted(f"train/{row.key}" for row in rows)
    assert verify_export(tmp_path / "out").problems == ()


def test_predictions_and_unfinished_exports_are_not_verified_as_exports(records_root, tmp_path):
    export_records(records_root, tmp_path / "out", "folder")
    (tmp_path / "out" / "_SUCCESS").unlink()
    result = CliRunner().invoke(main, ["verify", str(tmp_path / "out")])
    assert (result.exit_code, "run the same `convnext-records export` again" in result.output) == (1, True)
    (tmp_path / "out" / "_plan.json").write_text('{"kind": "predictions"}')
    result = CliRunner().invoke(main, ["verify", str(tmp_path / "out")])
    assert (result.exit_code, "not a records directory" in result.output) == (1, True)


def test_other_records_and_damaged_ones_are_refused(records_root, tmp_path):
    export_records(records_root, tmp_path / "out", "parquet")
    other = build_records(tmp_path / "other", make_rows(5))
    with pytest.raises(ArtefactError, match="belongs to another run"):
        export_records(other, tmp_path / "out", "parquet")
    with pytest.raises(ArtefactError, match="is inside the records"):
        export_records(other, other / "out", "parquet")
    shard = min((other / "train").glob("*.mindrecord"))
    data = bytearray(shard.read_bytes())
    data[data.index(make_rows(1)[0].image) + 60] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ArtefactError, match="the image of row 0 is damaged"):
        export_records(other, tmp_path / "new", "parquet")
    assert not list((tmp_path / "new").glob("data/*.parquet"))


@pytest.mark.parametrize(
    ("key", "name"), [("n01_1", "n01_1"), ("a.b/c.d.jpg", "a.b/c%2Ed%2Ejpg"), ("50%.jpg", "50%25%2Ejpg")]
)
def test_names_of_samples_have_no_dot(key, name):
    assert tar_key(key) == name


def test_classes_of_one_name_are_told_apart():
    classes = [ClassEntry(0, "n1", "crane"), ClassEntry(1, "n2", "owl"), ClassEntry(2, "n3", "crane")]
    assert label_names(classes) == ["crane (n1)", "owl", "crane (n3)"]


def test_features_and_metadata_name_what_the_files_hold(records_root, tmp_path):
    export_records(records_root, tmp_path / "out", "parquet")
    files = sorted((tmp_path / "out" / "data").glob("*.parquet"))
    features = json.loads(pq.read_schema(files[0]).metadata[b"huggingface"])["info"]["features"]
    assert features["label"] == {"_type": "ClassLabel", "names": ["name 0", "name 1"]}
    croissant = json.loads((tmp_path / "out" / "croissant.json").read_text())
    assert [part["contentUrl"] for part in croissant["distribution"][:2]] == [f"data/{path.name}" for path in files]
    assert "path: data/train-*.parquet" in (tmp_path / "out" / "README.md").read_text()
    manifest = place_of(records_root).manifest()
    assert json.loads(croissant_text(manifest, []))["recordSet"][0]["data"][1] == {
        "labels/index": 1,
        "labels/name": "name 1",
    }


def test_only_images_of_imagenet_get_its_licence(records_root):
    manifest = place_of(records_root).manifest()
    own = replace(manifest, classes=[replace(entry, wnid=f"cat{entry.index}") for entry in manifest.classes])
    for stated, is_imagenet in ((manifest, True), (own, False)):
        croissant = json.loads(croissant_text(stated, []))
        assert [name in croissant for name in ("citeAs", "license", "url")] == [is_imagenet] * 3
        assert ("image-net.org" in card_text(stated, "parquet")) == is_imagenet


def test_the_card_says_where_labels_come_from(records_root):
    manifest = place_of(records_root).manifest()
    folders = {"verified": False, "layout": {"train": "unpacked"}}
    table = {**folders, "labels": "as given", "layout": {"train": "table train.csv", "val": "table train.csv"}}
    for source, words in (
        ({"verified": True, "devkit_sha256": "0"}, "verified against the devkit."),
        (folders, "the names of folders, not verified."),
        (table, "as given by the source (table train.csv), not verified."),
    ):
        assert f"; labels: {words}" in card_text(replace(manifest, source=source), "parquet")


def test_libraries_read_them(records_root, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    export_records(records_root, tmp_path / "out", "parquet")
    query = f"SELECT key, label, image.bytes FROM '{tmp_path}/out/data/*.parquet' ORDER BY key"
    assert duckdb.sql(query).fetchall() == sorted((row.key, row.label, row.image) for row in ROWS)


def test_hugging_face_reads_it(records_root, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    export_records(records_root, tmp_path / "out", "parquet")
    found = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "hub"))["train"]
    assert found.features["label"].names == ["name 0", "name 1"]
    plain = found.cast_column("image", datasets.Image(decode=False))
    assert [(row["image"]["bytes"], row["label"]) for row in plain] == [(row.image, row.label) for row in ROWS]


def test_croissant_is_valid_and_loads_rows(records_root, tmp_path):
    mlcroissant = pytest.importorskip("mlcroissant")
    export_records(records_root, tmp_path / "out", "parquet")
    dataset = mlcroissant.Dataset(str(tmp_path / "out" / "croissant.json"))
    assert [row["train/label"] for row in dataset.records("train")] == [row.label for row in ROWS]


def test_webdataset_reads_it(records_root, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    export_records(records_root, tmp_path / "out", "webdataset")
    shards = sorted(map(str, (tmp_path / "out" / "data").glob("*.tar")))
    rows = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [(row["__key__"], int(row["cls"]), row["jpg"]) for row in rows] == [
        (row.key, row.label, row.image) for row in ROWS
    ]
