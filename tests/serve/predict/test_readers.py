"""Finished predictions as others open them: the whole directory as one table, whatever tool reads it."""

import json

import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.serve.inputs.files import list_folder
from convnext_imagenet.serve.predict.job import open_job
from convnext_imagenet.serve.predict.schema import METADATA_KEY
from convnext_imagenet.serve.settings import PredictOptions

SOURCES = ["a.jpg", "b/cmyk.JPEG", "b/gray.jpg", "b/named.JPEG", "cut.jpg", "dead.jpg", "empty.jpg", "extensionless"]
SOURCES += ["page.jpg", "z.png", r"\xff.gif"]


@pytest.fixture
def out(fake, folder, tmp_path):
    """Predictions of eleven inputs in three parts, with both extra columns."""
    options = PredictOptions(topk=2, part_rows=4, batch_size=3, extras=("features", "logits"))
    with open_job(fake, list_folder(folder), tmp_path / "out", options) as job:
        job.run(lambda count: None)
    return tmp_path / "out"


def test_pyarrow_reads_the_directory_as_one_data_set(out):
    dataset = pa_dataset.dataset(out, format="parquet")
    assert len(dataset.files) == 3
    assert dataset.count_rows() == 11
    assert dataset.to_table(columns=["source"])["source"].to_pylist() == SOURCES
    good = dataset.to_table(filter=pa_dataset.field("status") == "ok", columns=["topk", "features", "logits"])
    assert {(len(row["topk"]), len(row["features"]), len(row["logits"])) for row in good.to_pylist()} == {(2, 3, 7)}
    assert pq.read_table(out).equals(dataset.to_table())


def test_an_unfinished_directory_reads_as_the_parts_it_has(fake, folder, tmp_path):
    options = PredictOptions(topk=2, part_rows=4, batch_size=4)
    done = []

    def stop_in_the_third_part(count):
        done.append(count)
        if len(done) == 3:
            raise KeyboardInterrupt

    with open_job(fake, list_folder(folder), tmp_path / "out", options) as job, pytest.raises(KeyboardInterrupt):
        job.run(stop_in_the_third_part)
    assert (tmp_path / "out" / ".staging").is_dir()
    assert pa_dataset.dataset(tmp_path / "out").to_table()["source"].to_pylist() == SOURCES[:8]


def test_the_whole_provenance_travels_with_each_part_and_names_no_folder(out, folder):
    texts = {pq.read_schema(part).metadata[METADATA_KEY.encode()] for part in out.glob("part-*.parquet")}
    (text,) = texts
    assert json.loads(text) == json.loads((out / "_plan.json").read_bytes())["plan"]
    assert str(folder).encode() not in text


def test_pandas(out):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(out)
    assert frame["source"].tolist() == SOURCES
    assert frame["status"].value_counts()["ok"] == 6
    assert frame["top1_index"].isna().sum() == 5


def test_duckdb(out):
    duckdb = pytest.importorskip("duckdb")
    query = f"select source, topk[1].score = top1_score, len(logits) from '{out}/part-*.parquet' order by sample_id"
    rows = duckdb.sql(query).fetchall()
    assert [row[0] for row in rows] == SOURCES
    assert {row[1:] for row in rows} == {(True, 7), (None, None)}


def test_spark(out):
    sql = pytest.importorskip("pyspark.sql")
    session = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        frame = session.read.parquet(str(out)).orderBy("sample_id")
        rows = frame.selectExpr("source", "status", "topk[0].score = top1_score", "size(logits)").collect()
    finally:
        session.stop()
    assert [row[0] for row in rows] == SOURCES
    assert {tuple(row)[2:] for row in rows if row[1] == "ok"} == {(True, 7)}


def test_polars(out):
    polars = pytest.importorskip("polars")
    frame = polars.scan_parquet(f"{out}/part-*.parquet").collect()
    assert frame["source"].to_list() == SOURCES
    assert frame.filter(polars.col("status") == "ok")["topk"].list.len().to_list() == [2] * 6
