"""How Hugging Face stores images in Parquet and Arrow: which columns hold them, what their classes are called.

The layout is that of `Features`, `Dataset.save_to_disk` and `DatasetDict.save_to_disk` in huggingface/datasets. Pure:
schemas and parsed JSON in; reads no file.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

STATE_FILE, SPLITS_FILE = "state.json", "dataset_dict.json"  # of a data set, and of one with several splits
STREAM_BEGIN, STREAM_END = b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\0\0\0\0"  # of Arrow's stream format
_SCHEMA_KEY = b"huggingface"


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column holds text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_binary(kind: pa.DataType) -> bool:
    """Return whether a column holds bytes."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def without_views(kind: pa.DataType) -> pa.DataType:
    """Return a type with Arrow's views, as Polars writes them, replaced by what they are views of."""
    if pa.types.is_struct(kind):
        return pa.struct([each.with_type(without_views(each.type)) for each in kind.fields])
    return {pa.binary_view(): pa.binary(), pa.string_view(): pa.string()}.get(kind, kind)


def is_image_struct(kind: pa.DataType) -> bool:
    """Return whether a column holds structs of the bytes and the path of an image."""
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and is_binary(kind.field("bytes").type)


def holds_image_bytes(kind: pa.DataType) -> bool:
    """Return whether a column may hold the bytes of images."""
    return is_binary(kind) or is_image_struct(kind)


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names of the classes by column, for each column of class numbers that the schema describes."""
    try:
        features = json.loads((schema.metadata or {}).get(_SCHEMA_KEY, b"{}"))["info"]["features"]
        return {
            name: list(feature["names"])
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and "names" in feature
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def split_names(dataset: Any) -> list[str]:
    """Return the splits that a parsed `dataset_dict.json` names; none for anything else."""
    splits = dataset.get("splits") if isinstance(dataset, dict) else None
    return splits if isinstance(splits, list) and all(isinstance(split, str) for split in splits) else []


def data_files(state: Any) -> list[str] | None:
    """Return the Arrow files that a parsed `state.json` names; None for anything else."""
    entries = state.get("_data_files") if isinstance(state, dict) else None
    names = [_file_name(entry) for entry in entries] if isinstance(entries, list) else []
    known = [name for name in names if name is not None]
    return known if known and len(known) == len(names) else None


def is_indexed(state: Any) -> bool:
    """Return whether a parsed `state.json` chooses rows by an index, so that its files hold others, too."""
    return isinstance(state, dict) and bool(state.get("_indices_data_files"))


def _file_name(entry: Any) -> str | None:
    name = entry.get("filename") if isinstance(entry, dict) else None
    return name if isinstance(name, str) and Path(name).name == name else None
