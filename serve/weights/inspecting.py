"""Reads the card in the header of a weights file. Reads no value and loads no network, so it answers at once."""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convnext_imagenet.base.wording import plural
from convnext_imagenet.serve.errors import ServeError

_METADATA = "convnext_imagenet.weights"  # the entry that `model.weights` writes
_LENGTH = struct.Struct("<Q")  # a safetensors file begins with the length of its JSON header
_LONGEST_HEADER = 100_000_000  # the limit of the safetensors library
_WAY_OUT = "give a weights file that `convnext-train` or `convnext-serve weights import` wrote"


def inspect_weights(path: Path) -> dict[str, Any]:
    """Return what the header of a weights file says: parameters, and the model card's network, classes, transform.

    The values are not checked; `convnext-serve eval` does that. Raises ServeError for another kind of file, and for one
    that is truncated or whose header is damaged.
    """
    header = _header(path)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or _METADATA not in metadata:
        raise ServeError(f"{path}: a safetensors file without our model card; `convnext-serve weights import` reads it")
    try:
        return _inspected(path, header, json.loads(metadata[_METADATA]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ServeError(f"{path}: its header is damaged ({type(error).__name__}: {error}); {_WAY_OUT}") from error


def _inspected(path: Path, tensors: dict[str, Any], stated: dict[str, Any]) -> dict[str, Any]:
    card = json.loads(stated["card"])
    for name, kind in (("config", dict), ("transform", dict), ("classes", list), ("provenance", dict)):
        if not isinstance(card[name], kind):
            raise TypeError(f"{name} is {type(card[name]).__name__}")
    if any(len(entry) != 2 for entry in card["classes"]):
        raise ValueError("a class is no pair of wnid and name")
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        "format_version": stated["version"],
        "values_sha256": stated["sha256"],
        "tensors": len(tensors),
        "parameters": sum(math.prod(tensor["shape"]) for tensor in tensors.values()),
        **card,
    }


def inspection_lines(found: dict[str, Any]) -> list[str]:
    """Return what `inspect_weights` found as lines of text."""
    network, transform = (
        ", ".join(f"{name} {_words(value)}" for name, value in _leaves(found[key])) for key in ("config", "transform")
    )
    classes = [f"{wnid} ({name})" if wnid else str(name) for wnid, name in found["classes"][:3]]
    return [
        f"{found['path']}: {found['bytes'] / 2**20:,.1f} MiB, {found['parameters']:,} parameters in "
        f"{plural(found['tensors'], 'tensor')}",
        f"  network: {network}",
        f"  evaluation: {transform}",
        f"  {plural(len(found['classes']), 'class')}: {', '.join(classes)}{', ...' * (len(found['classes']) > 3)}",
        *(f"  {name}: {_words(value)}" for name, value in _leaves(found["provenance"])),
    ]


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values inside JSON objects with dotted names; objects in a list are numbered from 1."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{name}" if prefix else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value, 1):
            yield from _leaves(item, f"{prefix}.{number}")
    else:
        yield prefix, value


def _words(value: Any) -> str:
    """Return a JSON value as a person would write it."""
    if isinstance(value, list):
        return " ".join(map(_words, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)


def _header(path: Path) -> dict[str, Any]:
    """Return the JSON header of a whole safetensors file. Raises ServeError for anything else."""
    if not path.is_file():
        raise ServeError(f"{path}: no such file; {_WAY_OUT}")
    with path.open("rb") as file:
        start = file.read(_LENGTH.size)
        length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else 0
        text = file.read(length) if 0 < length <= _LONGEST_HEADER else b""
    try:
        header = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        is_whole = path.stat().st_size == _LENGTH.size + length + max(ends, default=0)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        is_whole = False
    if not is_whole:
        raise ServeError(f"{path}: truncated, or not a safetensors file; {_WAY_OUT}")
    return header
