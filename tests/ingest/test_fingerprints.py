"""`build --fingerprints`: a picture beside each JPEG, and everything else as without it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from convnext_imagenet.base.files import sha256_file
from convnext_imagenet.ingest.cli import main as ingest
from convnext_imagenet.records import jpeg_warnings
from convnext_imagenet.records.audit.sources import open_source
from convnext_imagenet.records.cli import main as records
from convnext_imagenet.records.images import check_image_and_luminance
from convnext_imagenet.records.small_picture import small_picture

pytestmark = pytest.mark.usefixtures("write_here")


def _build(data, out, *options):
    done = CliRunner().invoke(ingest, ["build", str(data), "--out", str(out), "--workers", "1", *options])
    return done.exit_code, " ".join(done.output.split())


def _tables(root):
    return sorted(root.glob("*/*.parquet"))


@pytest.fixture(scope="module")
def data(_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw tree, with a PNG and an image that --max-side makes smaller."""
    root = Path(shutil.copytree(_template, tmp_path_factory.mktemp("source") / "raw"))
    first, second, *_ = sorted((root / "train" / "n00000010").iterdir())
    with Image.open(first) as image:
        image.save(first, "PNG")
    pixels = np.random.default_rng(1).integers(0, 256, (6, 9, 3), np.uint8)
    Image.fromarray(pixels).resize((90, 60), Image.Resampling.BICUBIC).save(second, "JPEG", quality=95)
    return root


@pytest.fixture(scope="module")
def stored(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stored") / "records"
    code, output = _build(data, out, "--classes", "found", "--fingerprints", "--max-side", "64")
    assert code == 0, output
    return out


def test_each_stored_jpeg_has_its_picture_and_a_png_has_none(stored):
    source = open_source(stored)
    pictures = {row["key"]: row["small"] for path in _tables(stored) for row in pq.read_table(path).to_pylist()}
    lights = [check_image_and_luminance(image)[1] for image in source.read(range(source.rows.num_rows))]
    expected = [None if light is None else small_picture(light).tobytes() for light in lights]
    assert pictures == dict(zip(source.rows["key"].to_pylist(), expected, strict=True))
    assert expected.count(None) == 1, "the PNG has none"


def test_without_the_option_the_bytes_are_as_before(data, stored, tmp_path):
    code, output = _build(data, tmp_path / "records", "--classes", "found", "--max-side", "64")
    assert code == 0, output
    names = sorted(str(path.relative_to(stored)) for path in stored.rglob("*.mindrecord*"))
    assert [sha256_file(tmp_path / "records" / name) for name in names] == [
        sha256_file(stored / name) for name in names
    ]
    for path in _tables(stored):
        plain = pq.read_table(tmp_path / "records" / path.relative_to(stored))
        assert plain.schema.names == pq.read_table(path).schema.names[:-1]
        assert plain.equals(pq.read_table(path).drop_columns(["small"]))
    manifests = [json.loads((root / "manifest.json").read_text()) for root in (tmp_path / "records", stored)]
    treatments = [manifest["source"]["treatment"] for manifest in manifests]
    assert treatments[1] == treatments[0] | {"small_pictures": 1}
    assert sha256_file(tmp_path / "records" / "index.parquet") == sha256_file(stored / "index.parquet")
    code, output = _build(data, tmp_path / "records", "--classes", "found", "--max-side", "64", "--fingerprints")
    assert (code, "small_pictures" in output) == (1, True), "another plan"


def test_verify_reads_and_repair_writes_the_pictures_again(data, stored, tmp_path):
    root = Path(shutil.copytree(stored, tmp_path / "records"))
    assert CliRunner().invoke(records, ["verify", str(root)]).exit_code == 0
    table = _tables(root)[0]
    before = table.read_bytes()
    table.write_bytes(before[:200] + b"\0" + before[201:])
    found = CliRunner().invoke(records, ["verify", str(root)])
    assert (found.exit_code, table.name in found.output) == (1, True)
    code, output = _build(data, root, "--classes", "found", "--fingerprints", "--max-side", "64", "--repair")
    assert code == 0, output
    assert table.read_bytes() == before


def test_records_grow_only_with_the_same_option(data, tmp_path, pieces):
    parent, more = tmp_path / "parent", tmp_path / "more"
    assert _build(data, parent, "--classes", "found", "--fingerprints")[0] == 0
    folder = more / "train" / "n00000010"
    folder.mkdir(parents=True)
    shutil.copy(data / "ILSVRC2012_devkit_t12.tar.gz", more)
    (folder / "n00000010_77.JPEG").write_bytes(pieces.jpeg(901))
    code, output = _build(more, tmp_path / "grown", "--onto", str(parent))
    assert (code, "--fingerprints" in output) == (1, True)
    code, output = _build(more, tmp_path / "grown", "--onto", str(parent), "--fingerprints")
    assert code == 0, output
    pictures = open_source(tmp_path / "grown").pictures
    rows = open_source(tmp_path / "grown").rows.num_rows
    assert rows == open_source(parent).rows.num_rows + 1
    assert sum(picture.small is not None for picture in pictures.read(range(rows))) == rows - 1


def test_a_library_that_hides_its_coefficients_is_refused_before_any_work(data, tmp_path, monkeypatch):
    monkeypatch.setattr(jpeg_warnings, "luminance", lambda decoder, arrays: None)
    code, output = _build(data, tmp_path / "records", "--classes", "found", "--fingerprints")
    assert (code, "leave --fingerprints out" in output) == (1, True)
    assert not (tmp_path / "records").exists()
