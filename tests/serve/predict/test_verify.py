"""Whatever is changed in finished predictions is named, and nothing else is."""

import json
import os
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import read_json, sha256_file, write_json
from convnext_imagenet.serve.inputs.files import list_folder
from convnext_imagenet.serve.predict.job import open_job
from convnext_imagenet.serve.predict.verify import verify_predictions
from convnext_imagenet.serve.settings import PredictOptions

from ..conftest import picture

OPTIONS = PredictOptions(topk=2, part_rows=4, batch_size=3, workers=2)


@pytest.fixture
def out(fake, folder, tmp_path):
    """Finished predictions of eleven inputs in parts of 3, 4 and 4."""
    with open_job(fake, list_folder(folder), tmp_path / "out", OPTIONS) as job:
        job.run(lambda count: None)
    return tmp_path / "out"


def _part(out, number):
    return out / f"part-{number:05d}.parquet"


def _reseal(out):
    """Make receipts, manifest and mark agree with the files again, as a forger would."""
    manifest = read_json(out / "_manifest.json")
    for file in manifest["parts"]:
        path = out / file["name"]
        file |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        receipt = read_json(out / f"_{path.stem}.json")
        write_json(out / f"_{path.stem}.json", receipt | {"files": [file]})
    write_json(out / "_manifest.json", manifest)
    write_json(out / "_SUCCESS", {"manifest_sha256": sha256_file(out / "_manifest.json")})


def test_whole_predictions_are_read_to_the_last_row(out):
    moved = []
    found = verify_predictions(out, moved.append)
    assert (found.rows, found.problems) == (11, ())
    assert moved == [3, 4, 4]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_flipped_bit_is_found_in_its_own_part_alone(out, number):
    whole = _part(out, number).read_bytes()
    for place in (0, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        _part(out, number).write_bytes(damaged)
        (problem,) = verify_predictions(out).problems
        assert problem.startswith(f"{_part(out, number)}: its content has changed")


@pytest.mark.parametrize("number", [0, 2])
def test_a_missing_or_cut_part_is_found(out, number):
    os.truncate(_part(out, number), 100)
    (problem,) = verify_predictions(out).problems
    assert problem.startswith(f"{_part(out, number)}: 100 bytes, expected ")
    _part(out, number).unlink()
    assert verify_predictions(out).problems == (f"{_part(out, number)}: missing",)


def test_two_parts_in_each_others_places_are_found(out):
    first, second = _part(out, 0), _part(out, 1)
    first.rename(out / "x")
    second.rename(first)
    (out / "x").rename(second)
    problems = verify_predictions(out).problems
    assert [problem.split(":")[0] for problem in problems] == [str(first), str(second)]
    _reseal(out)
    assert verify_predictions(out).problems == (
        f"{first}: its rows are not inputs 0 to 2 in order",
        f"{second}: its rows are not inputs 3 to 6 in order",
    )


def test_a_deleted_receipt_is_found(out):
    (out / "_part-00001.json").unlink()
    (problem,) = verify_predictions(out).problems
    assert problem.startswith(f"{_part(out, 1)}: its receipt is missing")


@pytest.mark.parametrize("change", [{"plan_id": "0" * 64}, {"unit": "_part-00002"}, {"files": []}])
def test_an_edited_receipt_is_found(out, change):
    path = out / "_part-00001.json"
    write_json(path, read_json(path) | change)
    (problem,) = verify_predictions(out).problems
    assert problem.startswith(f"{_part(out, 1)}: its receipt ")


@pytest.mark.parametrize("name", ["part-00003.parquet", "a.parquet", "sub/part-00000.parquet", "sub/deep/x.parquet"])
def test_a_foreign_table_that_readers_would_take_for_a_part_is_found(out, name):
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(_part(out, 0), out / name)
    assert verify_predictions(out).problems == (f"{out / name}: not a part that the manifest lists",)


def test_an_edited_manifest_is_refused(out):
    manifest = read_json(out / "_manifest.json")
    write_json(out / "_manifest.json", manifest | {"rows": 12})
    with pytest.raises(ArtefactError, match="changed since the directory was finished"):
        verify_predictions(out)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rows": 12}, "holds 11 rows, the manifest lists 12 rows of 11 inputs"),
        ({"statuses": {"ok": 11}}, r"the statuses are \{.*'ok': 6.*\}, the manifest lists \{'ok': 11\}"),
    ],
)
def test_counts_that_are_not_those_of_the_rows_are_found(out, change, says):
    write_json(out / "_manifest.json", read_json(out / "_manifest.json") | change)
    _reseal(out)
    problems = verify_predictions(out).problems
    assert len(problems) == 1
    assert re.search(says, problems[0])


def _rewrite(path, change):
    table = pq.read_table(path)
    pq.write_table(change(table), path)


def _with_ids(table, ids):
    return table.set_column(0, table.schema.field(0), pa.array(ids, pa.int64()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: _with_ids(table, [3, 4, 4, 6]), "not inputs 3 to 6 in order"),
        (lambda table: _with_ids(table, [4, 3, 5, 6]), "not inputs 3 to 6 in order"),
        (lambda table: table.replace_schema_metadata({}), "its provenance differs from the manifest's"),
        (
            lambda table: table.replace_schema_metadata({"convnext_imagenet": json.dumps({"inputs": 11})}),
            "its provenance differs from the manifest's",
        ),
    ],
    ids=["repeated", "out of order", "no provenance", "other provenance"],
)
def test_rows_and_provenance_are_compared_even_where_all_hashes_agree(out, change, says):
    _rewrite(_part(out, 1), change)
    _reseal(out)
    (problem,) = verify_predictions(out).problems
    assert says in problem


def test_a_lost_row_is_found_even_where_all_hashes_agree(out):
    _rewrite(_part(out, 2), lambda table: table.slice(0, 2))
    _reseal(out)
    (problem,) = verify_predictions(out).problems
    assert "part-00002.parquet: its rows are not inputs 7 to 10 in order" in problem


def test_a_part_that_the_manifest_leaves_out_is_found(out):
    manifest = read_json(out / "_manifest.json")
    write_json(out / "_manifest.json", manifest | {"parts": manifest["parts"][:2]})
    _reseal(out)
    rows, statuses, stranger = verify_predictions(out).problems
    assert "holds 7 rows, the manifest lists 11 rows of 11 inputs" in rows
    assert "the manifest lists" in statuses
    assert "part-00002.parquet: not a part that the manifest lists" in stranger


def test_unfinished_foreign_and_missing_directories_are_refused(out, tmp_path):
    (out / "_SUCCESS").unlink()
    with pytest.raises(ArtefactError, match=r"unfinished .*convnext-serve predict"):
        verify_predictions(out)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "a.jpg").write_bytes(picture(0))
    with pytest.raises(ArtefactError, match="not a predictions directory"):
        verify_predictions(tmp_path / "foreign")
    with pytest.raises(ArtefactError, match="no such directory"):
        verify_predictions(tmp_path / "missing")


def test_the_advice_to_delete_what_is_named_and_run_again_makes_it_whole(fake, folder, out):
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    _part(out, 0).write_bytes(b"damaged")
    (problem,) = verify_predictions(out).problems
    assert "part-00000" in problem
    for name in ("part-00000.parquet", "_part-00000.json", "_SUCCESS"):
        (out / name).unlink()
    with open_job(fake, list_folder(folder), out, OPTIONS) as job:
        assert job.run(lambda count: None).parts_made == 1
    assert verify_predictions(out).problems == ()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
