"""One row for every input, the same bytes however often the job was stopped, and nothing mixed."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import list_folder
from convnext_imagenet.serve.predict.job import open_job
from convnext_imagenet.serve.predict.schema import METADATA_KEY, SCHEMA
from convnext_imagenet.serve.settings import PredictOptions

from ..conftest import picture, write_checkpoint

OPTIONS = PredictOptions(topk=3, part_rows=4, batch_size=3, workers=2)


def _predict(checkpoint, folder, out, options=OPTIONS, on_progress=lambda count: None):
    with open_job(checkpoint, list_folder(folder), out, options) as job:
        return job.run(on_progress)


def _bytes(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_there_is_a_row_for_every_input_in_their_order(fake, folder, tmp_path):
    summary = _predict(fake, folder, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["sample_id"] for row in rows] == list(range(11))
    assert [(row["source"], row["status"], row["mode"]) for row in rows] == [
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
    assert summary.statuses == {"ok": 6, "decode_error": 3, "read_error": 1, "unsupported": 1}
    assert (summary.rows, summary.error_rows, summary.parts, summary.parts_made) == (11, 5, 3, 3)


def test_answers_stand_in_the_rows_of_their_own_inputs(fake, folder, tmp_path):
    _predict(fake, folder, tmp_path / "out")
    for row in pq.read_table(tmp_path / "out").to_pylist():
        if row["status"] != "ok":
            assert row["error"]
            assert [row[name] for name in ("top1_index", "top1_wnid", "top1_name", "top1_score", "topk")] == [None] * 5
            continue
        alone = tmp_path / "alone" / str(row["sample_id"])
        alone.mkdir(parents=True)
        (alone / "x").write_bytes((folder / row["source"]).read_bytes())
        _predict(fake, alone, tmp_path / "single" / str(row["sample_id"]))
        (single,) = pq.read_table(tmp_path / "single" / str(row["sample_id"])).to_pylist()
        assert single["topk"] == row["topk"]
        best = row["topk"][0]
        assert [row["top1_index"], row["top1_wnid"], row["top1_name"], row["top1_score"]] == list(best.values())
        assert len(row["topk"]) == 3
        assert row["error"] is None


def test_equal_scores_are_listed_by_index(fake, folder, tmp_path):
    level = dataclasses.replace(fake, logits=lambda pixels_NHWC: np.zeros((len(pixels_NHWC), 7), np.float32))
    _predict(level, folder, tmp_path / "out")
    row = pq.read_table(tmp_path / "out").to_pylist()[0]
    assert [guess["class_index"] for guess in row["topk"]] == [0, 1, 2]
    assert [guess["score"] for guess in row["topk"]] == [np.float32(1 / 7)] * 3


def test_parts_are_zstd_with_checksums_statistics_and_provenance(fake, folder, tmp_path):
    _predict(fake, folder, tmp_path / "out")
    path = tmp_path / "out" / "part-00001.parquet"
    file = pq.ParquetFile(path, page_checksum_verification=True)
    assert file.schema_arrow.remove_metadata().equals(SCHEMA)
    assert file.read().num_rows == 4
    column = file.metadata.row_group(0).column(0)
    assert (column.compression, column.statistics.min, column.statistics.max) == ("ZSTD", 3, 6)
    provenance = json.loads(file.schema_arrow.metadata[METADATA_KEY.encode()])
    assert provenance["model"]["sha256"] == fake.sha256
    assert provenance["inputs"] == {"count": 11, "sha256": list_folder(folder).sha256}
    assert provenance["topk"] == 3
    assert set(provenance) >= {"transform", "classes", "versions"}
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 1
    with pytest.raises(OSError, match=r"CRC|corrupt|checksum"):
        pq.ParquetFile(pa.BufferReader(bytes(damaged)), page_checksum_verification=True).read()


def test_the_bytes_do_not_depend_on_workers_or_on_the_folder_names(fake, folder, tmp_path):
    _predict(fake, folder, tmp_path / "one", dataclasses.replace(OPTIONS, workers=1))
    folder.rename(tmp_path / "moved")
    _predict(fake, tmp_path / "moved", tmp_path / "two", dataclasses.replace(OPTIONS, workers=5))
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


class _Stop(Exception):
    pass


@pytest.mark.parametrize(("calls", "parts", "batches_left"), [(1, 0, 3), (2, 1, 2), (3, 1, 2), (4, 2, 1), (5, 2, 1)])
def test_a_job_stopped_anywhere_and_run_again_ends_with_the_same_bytes(
    fake, folder, tmp_path, calls, parts, batches_left
):
    """11 inputs, parts of 3, 4 and 4, batches of 3: a stop after each of the five, one without a picture."""
    _predict(fake, folder, tmp_path / "whole")
    remaining = iter(range(calls - 1))

    def stop(count):
        if next(remaining, None) is None:
            raise _Stop

    out = tmp_path / "out"
    with pytest.raises(_Stop):
        _predict(fake, folder, out, on_progress=stop)
    assert not protocol.is_finished(out)
    assert len(list(out.glob("part-*.parquet"))) == parts
    before = len(fake.seen)
    summary = _predict(fake, folder, out)
    assert summary.parts_made == 3 - parts
    assert len(fake.seen) - before == batches_left, "finished parts are not scored again"
    assert _bytes(out) == _bytes(tmp_path / "whole")
    assert not (out / ".staging").exists()


def test_what_a_kill_in_the_middle_of_a_receipt_leaves_is_removed(fake, folder, tmp_path):
    out = tmp_path / "out"
    _predict(fake, folder, out)
    whole = _bytes(out)
    (out / "_part-00001.json").unlink()
    (out / "._part-00001.json.4711.tmp").write_text("{")
    _predict(fake, folder, out)
    assert _bytes(out) == whole


def test_a_finished_job_is_not_scored_again_and_a_damaged_part_is(fake, folder, tmp_path):
    out = tmp_path / "out"
    _predict(fake, folder, out)
    whole, calls = _bytes(out), len(fake.seen)
    assert _predict(fake, folder, out).parts_made == 0
    assert len(fake.seen) == calls
    part = out / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    assert _predict(fake, folder, out).parts_made == 1
    assert _bytes(out) == whole


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"topk": 2}, "topk"),
        ({"part_rows": 5}, r"parts\.most_rows"),
        ({"batch_size": 2}, "batch_size"),
        ({"flip": True}, "flip"),
        ({"extras": ("logits",)}, "extras"),
        ({"device_target": "Ascend"}, "device_target"),
        ({"topk": 2, "flip": True, "extras": ("features",)}, "extras, flip, topk"),
    ],
)
def test_other_options_in_the_same_directory_are_refused(fake, folder, tmp_path, change, differs):
    _predict(fake, folder, tmp_path / "out")
    before = _bytes(tmp_path / "out")
    with pytest.raises(ArtefactError, match=rf"differs in: {differs}\)"):
        _predict(fake, folder, tmp_path / "out", dataclasses.replace(OPTIONS, **change))
    assert _bytes(tmp_path / "out") == before


def test_other_inputs_or_another_model_in_the_same_directory_are_refused(fake, folder, tmp_path):
    _predict(fake, folder, tmp_path / "out")
    other = dataclasses.replace(fake, sha256="0" * 64)
    with pytest.raises(ArtefactError, match=r"model\.sha256"):
        _predict(other, folder, tmp_path / "out")
    (folder / "new.jpg").write_bytes(picture(9))
    with pytest.raises(ArtefactError, match=r"inputs\.count, inputs\.sha256"):
        _predict(fake, folder, tmp_path / "out")


def test_predictions_inside_the_inputs_or_in_a_foreign_directory_are_refused(fake, folder, tmp_path):
    with pytest.raises(ServeError, match="lies inside"):
        _predict(fake, folder, folder / "out")
    assert not (folder / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ArtefactError, match=r"not empty, and not created by this program .*thesis"):
        _predict(fake, folder, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_two_jobs_at_once_are_refused(fake, folder, tmp_path):
    with (
        open_job(fake, list_folder(folder), tmp_path / "out", OPTIONS),
        pytest.raises(ArtefactError, match="another process"),
    ):
        _predict(fake, folder, tmp_path / "out")


def test_topk_above_the_number_of_classes_means_all_of_them(fake, folder, tmp_path):
    _predict(fake, folder, tmp_path / "out", dataclasses.replace(OPTIONS, topk=50))
    row = pq.read_table(tmp_path / "out").to_pylist()[0]
    assert sorted(guess["class_index"] for guess in row["topk"]) == list(range(7))
    assert sum(guess["score"] for guess in row["topk"]) == pytest.approx(1, abs=1e-6)
    assert _predict(fake, folder, tmp_path / "out", dataclasses.replace(OPTIONS, topk=7)).parts_made == 0


def test_a_network_of_nan_ends_the_job_before_anything_is_published(fake, folder, tmp_path):
    broken = dataclasses.replace(fake, logits=lambda pixels_NHWC: np.full((len(pixels_NHWC), 7), np.nan, np.float32))
    with pytest.raises(ServeError, match=r"a\.jpg: .*NaN"):
        _predict(broken, folder, tmp_path / "out")
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_file_that_vanishes_during_the_run_is_a_row(fake, folder, tmp_path):
    inputs = list_folder(folder)
    (folder / "a.jpg").unlink()
    with open_job(fake, inputs, tmp_path / "out", OPTIONS) as job:
        assert job.run(lambda count: None).statuses["read_error"] == 2
    assert pq.read_table(tmp_path / "out").num_rows == 11


def test_only_bad_inputs_still_give_rows(fake, tmp_path):
    (tmp_path / "bad").mkdir()
    for name in "abc":
        (tmp_path / "bad" / name).write_bytes(b"")
    summary = _predict(fake, tmp_path / "bad", tmp_path / "out")
    assert (summary.rows, summary.error_rows) == (3, 3)
    assert fake.seen == []


def test_another_class_count_changes_the_plan(tmp_path, fake, folder):
    from convnext_imagenet.serve.checkpoint import load_checkpoint

    _predict(fake, folder, tmp_path / "out")
    other = load_checkpoint(write_checkpoint(tmp_path / "w", classes=6))
    with pytest.raises(ArtefactError, match=r"classes\.count"):
        _predict(other, folder, tmp_path / "out")
