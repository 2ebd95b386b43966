"""A set of numbered files of which some are missing is refused, before anything of it is read."""

from pathlib import Path

import pytest

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.detect import scan_data
from convnext_imagenet.ingest.source.parts import require_all_parts
from convnext_imagenet.ingest.source.unpack import Unpacker

from ..own_images import FORMS, make_images

ROOT = Path("data")


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "all.parquet"],
        ["data/train-00000-of-00002-9f0c.parquet", "data/train-00001-of-00002-77aa.parquet"],
        ["a-1-of-2.tar", "a-2-of-2.tar", "b-1-of-1.tar"],
    ],
)
def test_whole_sets_and_names_without_a_number_are_taken(names: list[str]):
    require_all_parts(ROOT, names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"],
            r"data: 2 of 3 files train-\*-of-00003\.parquet are there, without train-00001-of-00003; download",
        ),
        (["a-2-of-2.tar"], r"1 of 2 files a-\*-of-2\.tar are there, without a-1-of-2; download"),
        (["a-0-of-1024.tar.gz"], r"without a-0001-of-1024, a-0002-of-1024, a-0003-of-1024, \.\.\.; download"),
    ],
)
def test_missing_files_are_named(names: list[str], message: str):
    with pytest.raises(IngestError, match=message):
        require_all_parts(ROOT, names)


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_a_download_that_stopped_is_refused(form: str, tmp_path: Path):
    root = tmp_path / "data"
    FORMS[form](root, make_images(20))
    for path in root.glob("*.tar"):
        path.rename(path.with_name(f"train-{path.stem}-of-2.tar"))
    next(root.rglob("*-*1-of-*2.*")).unlink()
    with pytest.raises(IngestError, match=r"1 of 2 files .* are there"):
        scan_data(root, Unpacker(tmp_path / "unpacked"))
