"""Audits of records with stored pictures: the same pairs as by decoding everything, and few images are decoded."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from convnext_imagenet.base.errors import ArtefactError, Interrupted
from convnext_imagenet.records.audit import parts, stored
from convnext_imagenet.records.audit.evidence import Asked
from convnext_imagenet.records.audit.job import open_audit
from convnext_imagenet.records.audit.sources import open_source, unused_pictures
from convnext_imagenet.records.cli import main
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.schema import SMALL_VERSION, Row

from ...records_of import finished_records
from .conftest import jpeg, picture, planted_copies
from .test_job import _digests

PER_KIND = 2
WIDTH, HEIGHT = 240, 180
CLASSES = [ClassEntry(0, "n00000001", "name")]


def _framed(seed):
    """A picture whose outermost lines are not even: it shows no border."""
    image = picture(seed, WIDTH, HEIGHT)
    noise = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), np.uint8)
    pixels = np.asarray(image).copy()
    grown = np.asarray(image.resize((10, 8))) // 2 + noise // 2
    large = np.kron(grown, np.ones((24, 24, 1), np.uint8))[:HEIGHT, :WIDTH]
    for part in (np.s_[:12], np.s_[-12:], np.s_[:, :12], np.s_[:, -12:]):
        pixels[part] = large[part]
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Images, and one copy of each of eight kinds; one image is a PNG, one is flat."""
    rng, rows = np.random.default_rng(2), []
    for seed in range(PER_KIND * len(planted_copies.KINDS)):
        kind = list(planted_copies.KINDS)[seed % len(planted_copies.KINDS)]
        scene = _framed(seed)
        rows += [(f"{seed:03d}", jpeg(scene)), (f"{seed:03d}-{kind}", planted_copies.KINDS[kind](scene, rng))]
    rows += [(f"{900 + seed}", jpeg(_framed(900 + seed))) for seed in range(20)]
    rows.append(("flat", jpeg(_framed(1).point(lambda value: 90))))
    stored_rows = [Row(image, 0, number, key, HEIGHT, WIDTH) for number, (key, image) in enumerate(rows)]
    root = tmp_path_factory.mktemp("with") / "records"
    return finished_records(root, {"train": stored_rows}, CLASSES, {}, shards=2, has_pictures=True)


def _audit(root, out, uses_pictures=True, is_stopped=lambda: False):
    source = open_source(root, uses_pictures)
    with open_audit(source, Asked(), root, out, 2) as job:
        job.write_parts(lambda count: None, is_stopped)
        summary = job.finish((), job.compare(is_stopped=is_stopped))
    return summary, pq.read_table(out / "pairs.parquet").to_pylist()


def test_the_same_pairs_are_found_and_few_images_are_decoded(tmp_path, records):
    whole, expected = _audit(records, tmp_path / "whole", uses_pictures=False)
    summary, pairs = _audit(records, tmp_path / "audit")
    assert pairs == expected
    assert summary["flags"] == whole["flags"]
    assert whole["decoded"] == whole["images"]["train"]
    in_pairs = {pair[f"key_{side}"] for pair in pairs for side in "ab"}
    assert len(in_pairs) <= summary["decoded"] <= len(in_pairs) + 8


def test_a_stopped_audit_resumes_with_the_same_bytes(tmp_path, records, monkeypatch):
    monkeypatch.setattr(parts, "PART_ROWS", 16)
    monkeypatch.setattr(parts, "_AT_A_TIME", 4)
    out, checks = tmp_path / "stopped", []
    _audit(records, tmp_path / "whole", is_stopped=lambda: bool(checks.append(None)))
    for limit in (1, len(checks) - 3):
        checks.clear()
        with pytest.raises(Interrupted, match="resume"):
            _audit(records, out, is_stopped=lambda limit=limit: bool(checks.append(None)) or len(checks) > limit)
    assert list((out / "fingerprints").glob("decoded-*.json")), "it was stopped among the images that came second"
    _audit(records, out)
    assert _digests(out) == _digests(tmp_path / "whole")


def _table(root):
    return next((root / "train").glob("*.parquet"))


def test_a_damaged_table_is_refused(tmp_path, records):
    root = shutil.copytree(records, tmp_path / "records")
    data = bytearray(_table(root).read_bytes())
    data[len(data) // 2] ^= 1
    _table(root).write_bytes(data)
    result = CliRunner().invoke(main, ["audit", str(root), "--out", str(tmp_path / "audit")])
    assert (result.exit_code, "its content has changed" in result.output) == (1, True)
    assert "--repair" in result.output
    assert not (tmp_path / "audit").exists()


def test_a_table_that_is_not_what_the_manifest_promises_is_refused(tmp_path, monkeypatch):
    rows = [Row(jpeg(picture(seed)), 0, seed, str(seed), 120, 160) for seed in range(3)]
    root = finished_records(tmp_path / "records", {"train": rows}, CLASSES, {})
    monkeypatch.setattr(stored, "pictures_version", lambda records: SMALL_VERSION)
    with pytest.raises(ArtefactError, match="no column `small`, which the manifest promises"):
        open_source(root)
    table = pq.read_table(_table(root))
    short = table.append_column("small", pa.array([b"x"] * 3, pa.binary()))
    pq.write_table(short, tmp_path / "short.parquet")
    group = stored._Group(tmp_path / "short.parquet", 0, 0, 3)
    with pytest.raises(ArtefactError, match="a picture of 1 bytes"):
        list(stored.StoredPictures((group,)).read(range(3)))


def test_pictures_of_another_version_are_said_and_not_used(tmp_path, records, monkeypatch):
    monkeypatch.setattr(stored, "SMALL_VERSION", SMALL_VERSION + 1)
    source = open_source(records)
    assert source.pictures is None
    assert "of version 1, this program uses" in unused_pictures(source)
    result = CliRunner().invoke(main, ["audit", str(records), "--out", str(tmp_path / "audit")])
    assert result.exit_code == 0, result.output
    assert "every image is decoded" in result.output
    assert "decoded" not in result.output.replace("every image is decoded", "")


def test_the_command_says_how_many_images_it_decoded(tmp_path, records):
    command = ["audit", str(records), "--json", "--out"]
    result = CliRunner().invoke(main, [*command, str(tmp_path / "audit")])
    found = json.loads(result.stdout)
    assert found["decoded"] < found["images"]["train"]
    assert f"decoded {found['decoded']} of {found['images']['train']} images" in result.stderr
    result = CliRunner().invoke(main, [*command, str(tmp_path / "audit"), "--decode-all"])
    assert result.exit_code == 1
    assert "belongs to another run" in result.output
    result = CliRunner().invoke(main, [*command, str(tmp_path / "all"), "--decode-all"])
    assert json.loads(result.stdout)["decoded"] == found["images"]["train"]
