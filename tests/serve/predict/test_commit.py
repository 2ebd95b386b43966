"""PREDICTIONS become one snapshot of a table, once."""

import importlib

import pyarrow as pa
import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import list_folder
from convnext_imagenet.serve.predict import commit
from convnext_imagenet.serve.predict.commit import COMMITS, commit_predictions
from convnext_imagenet.serve.predict.job import open_job
from convnext_imagenet.serve.settings import PredictOptions

LIBRARIES = {"delta": "deltalake", "iceberg": "pyiceberg", "lance": "lance"}


@pytest.fixture
def predictions(fake, folder, tmp_path):
    with open_job(fake, list_folder(folder), tmp_path / "out", PredictOptions(part_rows=4, batch_size=2)) as job:
        job.run(lambda count: None)
    return tmp_path / "out"


def _rows(name, table):
    if name == "delta":
        return importlib.import_module("deltalake").DeltaTable(table).to_pyarrow_table()
    if name == "lance":
        return importlib.import_module("lance").dataset(table).to_table()
    catalog, _, identifier = table.partition(".")
    return importlib.import_module("pyiceberg.catalog").load_catalog(catalog).load_table(identifier).scan().to_arrow()


@pytest.mark.parametrize("name", LIBRARIES)
def test_rows_are_there_once_however_often_they_are_committed(predictions, tmp_path, monkeypatch, name):
    pytest.importorskip(LIBRARIES[name])
    table = str(tmp_path / "table")
    if name == "iceberg":
        monkeypatch.setenv("PYICEBERG_CATALOG__TEST__URI", f"sqlite:///{tmp_path}/catalog.db")
        monkeypatch.setenv("PYICEBERG_CATALOG__TEST__WAREHOUSE", f"file://{tmp_path}/warehouse")
        table = "test.scores.rows"
    assert commit_predictions(predictions, name, table)
    assert not commit_predictions(predictions, name, table)
    rows = _rows(name, table)
    assert sorted(rows["sample_id"].to_pylist()) == list(range(11))
    assert rows["status"].to_pylist().count("ok") == 6


def test_what_is_missing_is_named(predictions, tmp_path, monkeypatch):
    def fail(module):
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(commit, "import_module", fail)
    for name in COMMITS:
        with pytest.raises(ServeError, match=rf"--to {name} needs pip install 'convnext_imagenet\[{name}\]'"):
            commit_predictions(predictions, name, "a.b.c")
    with pytest.raises(ServeError, match=r"pass CATALOG\.NAMESPACE\.TABLE"):
        commit_predictions(predictions, "iceberg", "rows")
    (predictions / "_SUCCESS").unlink()
    with pytest.raises(ArtefactError, match="unfinished"):
        commit_predictions(predictions, "delta", str(tmp_path / "table"))


def test_the_rows_come_in_their_order_without_our_metadata(predictions, monkeypatch):
    seen = []
    monkeypatch.setitem(COMMITS, "delta", lambda table, reader, sha256: seen.append(reader.read_all()) or True)
    assert commit_predictions(predictions, "delta", "x")
    assert isinstance(seen[0], pa.Table)
    assert seen[0]["sample_id"].to_pylist() == list(range(11))
    assert seen[0].schema.metadata is None
