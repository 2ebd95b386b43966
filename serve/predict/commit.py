"""Finished PREDICTIONS -> one snapshot of a table in Delta Lake, Iceberg or Lance; a second commit changes nothing.

The snapshot carries the SHA-256 of the manifest, so a commit that was killed can be run again: either the snapshot is
there, or nothing of it is visible.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.base.files import sha256_file
from convnext_imagenet.base.protocol import bookkeeping_name, read_finished
from convnext_imagenet.serve.errors import ServeError

_PROPERTY = "convnext_imagenet.predictions"  # of the snapshot
_MOST_TRANSACTIONS = 10_000  # of a Lance table that are searched for it, the newest first


def commit_predictions(root: Path, table_format: str, table: str) -> bool:
    """Append the rows of finished PREDICTIONS to `table` in one snapshot; return False if it has them already.

    `table` is a URI, or for Iceberg CATALOG.NAMESPACE.TABLE. Raises ArtefactError for an unfinished directory,
    ServeError without the library of the format.
    """
    manifest = read_finished(root, "predictions")
    names = [root / part["name"] for part in manifest["parts"]]
    schema = pq.read_schema(names[0]).remove_metadata()
    reader = pa.RecordBatchReader.from_batches(schema, _batches(names))
    sha256 = sha256_file(root / bookkeeping_name("predictions", "manifest.json"))
    return COMMITS[table_format](table, reader, sha256)


def _batches(paths: list[Path]) -> Iterator[pa.RecordBatch]:
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches():
            yield batch.replace_schema_metadata(None)


def _commit_delta(uri: str, reader: pa.RecordBatchReader, sha256: str) -> bool:
    delta = _library("deltalake", "delta")
    history = delta.DeltaTable(uri).history() if delta.DeltaTable.is_deltatable(uri) else []
    if any(entry.get(_PROPERTY) == sha256 for entry in history):
        return False
    properties = delta.CommitProperties(custom_metadata={_PROPERTY: sha256})
    delta.write_deltalake(uri, reader, mode="append", commit_properties=properties)
    return True


def _commit_iceberg(name: str, reader: pa.RecordBatchReader, sha256: str) -> bool:
    catalog_name, _, identifier = name.partition(".")
    namespace, _, short = identifier.rpartition(".")
    if not catalog_name or not namespace or not short:
        raise ServeError(f"{name}: pass CATALOG.NAMESPACE.TABLE for Iceberg, with a catalog of .pyiceberg.yaml")
    catalog = _library("pyiceberg.catalog", "iceberg").load_catalog(catalog_name)
    catalog.create_namespace_if_not_exists(namespace)
    table = catalog.create_table_if_not_exists(identifier, schema=reader.schema)
    if any(snapshot.summary and snapshot.summary.get(_PROPERTY) == sha256 for snapshot in table.snapshots()):
        return False
    table.append(reader, snapshot_properties={_PROPERTY: sha256})
    return True


def _commit_lance(uri: str, reader: pa.RecordBatchReader, sha256: str) -> bool:
    lance = _library("lance", "lance")
    try:
        transactions = lance.dataset(uri).get_transactions(recent_transactions=_MOST_TRANSACTIONS)
    except ValueError:  # there is no such table
        transactions, mode = [], "create"
    else:
        mode = "append"
    if any((each.transaction_properties or {}).get(_PROPERTY) == sha256 for each in transactions if each):
        return False
    lance.write_dataset(reader, uri, mode=mode, transaction_properties={_PROPERTY: sha256})
    return True


COMMITS: dict[str, Callable[[str, pa.RecordBatchReader, str], bool]] = {
    "delta": _commit_delta,
    "iceberg": _commit_iceberg,
    "lance": _commit_lance,
}


def _library(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ServeError(f"--to {extra} needs pip install 'convnext_imagenet[{extra}]' ({error})") from None
