"""Labels that inputs bring along, as class indices of the network: from folders, and from columns of tables."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from convnext_imagenet.base.image_tables import is_text, without_views
from convnext_imagenet.serve.errors import ServeError


@dataclass(frozen=True)
class ClassLookup:
    """The network's classes by wnid and by name; `count` is their number."""

    count: int = 0
    indices: Mapping[str, int] = field(default_factory=dict)

    def index_of(self, text: str) -> int | None:
        """Return the class of a wnid or of a name in any case, or None."""
        return self.indices.get(text.strip().lower().replace("_", " "))

    def of_folder(self, name: bytes) -> int | None:
        """Return the class that the folder of a file is named after, or None."""
        folder = name.rpartition(b"/")[0].rpartition(b"/")[2]
        return self.index_of(os.fsdecode(folder)) if folder and self.indices else None


NO_CLASSES = ClassLookup()


def class_lookup(wnids: Sequence[str], names: Sequence[str] = ()) -> ClassLookup:
    """Return the classes by wnid, by whole name and by each of a name's synonyms; a word of two classes is neither."""
    found: dict[str, set[int]] = {}
    for index, name in enumerate(names):
        for word in {name, *name.split(",")}:
            if word.strip():
                found.setdefault(word.strip().lower().replace("_", " "), set()).add(index)
    indices = {word: next(iter(classes)) for word, classes in found.items() if len(classes) == 1}
    return ClassLookup(len(wnids), indices | {wnid: index for index, wnid in enumerate(wnids) if wnid})


def label_reader(field_: pa.Field, schema: pa.Schema, lookup: ClassLookup, table: str) -> Callable[[Any], int | None]:
    """Return a function from a value of a label column to a class index; None for a value without a class here.

    Text is a wnid or a name. A number is the index of a name, if Hugging Face has stored names with the column, and
    else the index of the network's class. Raises ServeError for a column of anything else.
    """
    kind = field_.type
    if is_text(without_views(kind)):
        return lambda value: None if value is None else lookup.index_of(value)
    if not pa.types.is_integer(kind):
        raise ServeError(f"{table}: --label-column {field_.name!r} holds {kind}; it must hold whole numbers or text")
    if names := _names_of(field_.name, schema):
        known = [lookup.index_of(name) for name in names]
        return lambda value: known[value] if value is not None and 0 <= value < len(known) else None
    return lambda value: value if value is not None and 0 <= value < lookup.count else None


def _names_of(column: str, schema: pa.Schema) -> list[str]:
    """Return the class names that Hugging Face's `datasets` has stored with a column, or none."""
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return stored if isinstance(stored, list) and all(isinstance(name, str) for name in stored) else []
