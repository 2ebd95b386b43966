"""The last step of writing RECORDS: its files are in the manifest, and nothing is finished before the mark."""

import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import sha256_file
from convnext_imagenet.records.build import mark_finished, write_summary_files
from convnext_imagenet.records.reader import Records


def test_summary_files_are_in_the_manifest_with_their_digests(records_root):
    manifest = Records.open(records_root).manifest
    assert manifest.files.keys() == {"index.parquet", "quarantine.parquet", "report.html"}
    assert manifest.files == {name: sha256_file(records_root / name) for name in manifest.files}


def test_the_quarantine_table_is_stored_as_given_and_its_rows_are_in_the_report(records_root):
    row = {"split": "train", "key": "k", "path": "train/k.JPEG", "label": 1, "reason": "empty", "detail": "no bytes"}
    write_summary_files(records_root, Records.open(records_root).manifest, b"a table", [row])
    assert (records_root / "quarantine.parquet").read_bytes() == b"a table"
    assert "train/k.JPEG" in (records_root / "report.html").read_text()


def test_records_are_finished_by_the_mark_only(records_root):
    manifest = Records.open(records_root).manifest
    for name in ("_SUCCESS", "manifest.json"):
        (records_root / name).unlink()
    write_summary_files(records_root, manifest, b"", [])
    with pytest.raises(ArtefactError, match="unfinished"):
        Records.open(records_root)
    mark_finished(records_root, manifest)
    assert Records.open(records_root).manifest == manifest
