"""Reads text embeddings of classes, which make a classifier of an image tower of CLIP: Parquet or safetensors.

Parquet has a row for each prompt, with a column `embedding` (a list of floats) and `wnid`, `name` or both. Safetensors
has a tensor `embeddings` (K, E) or (K, P, E), and in its metadata `classes`, a JSON list of wnids, names or pairs of
both. Both may state `logit_scale` in their metadata. Source of the rule for several prompts: OpenCLIP's
`build_zero_shot_classifier`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.class_names import WNID, ClassTable

_TENSOR, _COLUMN = "embeddings", "embedding"
_WAY_OUT = (
    f"give a Parquet with columns wnid or name, and {_COLUMN}, or a safetensors with a tensor {_TENSOR} and its classes"
)
_LISTED = 3  # names that a message quotes


@dataclass(frozen=True)
class TextEmbeddings:
    """Unit vectors (K, E), float64, of `classes`; each is the mean of `fewest` to `most` prompts.

    `logit_scale` is what the file states: the factor itself, not its logarithm.
    """

    classes: ClassTable
    vectors: np.ndarray
    fewest: int
    most: int
    logit_scale: float | None = None


def read_text_embeddings(path: Path, classes: ClassTable | None = None) -> TextEmbeddings:
    """Return the embedding of each class: prompts are scaled to length 1, averaged, and scaled again.

    With `classes`, those in that order; other classes of the file are left out. Without, the file's own: by wnid where
    all have one, else in the file's order. Raises ModelError, in one line, for a file that cannot be read, and for
    embeddings that are missing, not finite, zero, or of different lengths, and for classes that are named twice.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file; {_WAY_OUT}")
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    entries, prompts, scale = _from_parquet(path) if is_parquet else _from_safetensors(path, classes)
    if not entries:
        raise ModelError(f"{path}: holds no embeddings; {_WAY_OUT}")
    places = _places(path, entries, classes)
    chosen = [prompts[place] for place in places]
    vectors = np.stack([_unit_mean(path, entries[place], rows) for place, rows in zip(places, chosen, strict=True)])
    named = classes if classes is not None else tuple(entries[place] for place in places)
    counts = [len(rows) for rows in chosen]
    return TextEmbeddings(named, vectors, min(counts), max(counts), _scale(path, scale))


Read = tuple[list[tuple[str, str]], list[np.ndarray], str | None]  # classes, prompts (P, E) of each, logit scale


def _from_parquet(path: Path) -> Read:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ModelError(f"{path}: truncated or damaged ({str(error)[:80]}); copy it again") from error
    keys = [name for name in ("wnid", "name") if name in table.column_names]
    if _COLUMN not in table.column_names or not keys:
        raise ModelError(f"{path}: has columns {', '.join(table.column_names)}; {_WAY_OUT}")
    rows = table.select(keys).to_pylist()
    names: dict[str, str] = {}
    found: dict[str, list[Any]] = {}
    # Arrow's scalars, as 80 prompts of 1000 classes are 50 million floats
    for number, (row, vector) in enumerate(zip(rows, table[_COLUMN], strict=True)):
        key, name = str(row[keys[0]] or ""), str(row.get("name") or row[keys[0]] or "")
        if not key or not vector.is_valid:
            raise ModelError(f"{path}: row {number} has no {keys[0] if not key else _COLUMN}; fill it, or leave it out")
        if names.setdefault(key, name) != name:
            raise ModelError(f"{path}: {key} is named {names[key]!r} and {name!r}; give each class one name")
        found.setdefault(key, []).append(vector)
    entries = [(key if keys[0] == "wnid" else "", name) for key, name in names.items()]
    try:
        lengths = sorted({len(vector.values) for vectors in found.values() for vector in vectors})
        if len(lengths) > 1:
            raise ModelError(
                f"{path}: its embeddings have {lengths[0]} and {lengths[-1]} values; give those of one network"
            )
        prompts = [
            np.stack([np.asarray(vector.values, np.float64) for vector in vectors]) for vectors in found.values()
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: {_COLUMN} holds no lists of numbers ({error}); {_WAY_OUT}") from error
    metadata = table.schema.metadata or {}
    return entries, prompts, metadata.get(b"logit_scale", b"").decode(errors="replace") or None


def _from_safetensors(path: Path, classes: ClassTable | None) -> Read:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _TENSOR not in file.keys():  # noqa: SIM118
                raise ModelError(f"{path}: holds no tensor {_TENSOR!r}; {_WAY_OUT}")
            values = file.get_tensor(_TENSOR)
    except (SafetensorError, OSError, TypeError) as error:
        raise ModelError(f"{path}: neither Parquet nor whole safetensors ({str(error)[:80]}); {_WAY_OUT}") from error
    if values.ndim not in (2, 3) or not values.size or values.dtype not in (np.float16, np.float32, np.float64):
        raise ModelError(
            f"{path}: {_TENSOR} is {values.dtype} {values.shape}; it must be float, (classes, values) or (classes, "
            f"prompts, values)"
        )
    entries = _entries(path, metadata, classes)
    if len(entries) != len(values):
        raise ModelError(
            f"{path}: has {len(values)} embeddings, but {len(entries)} classes are named; give one for each"
        )
    prompts = values.astype(np.float64).reshape(len(values), -1, values.shape[-1])
    return entries, list(prompts), metadata.get("logit_scale")


def _entries(path: Path, metadata: Mapping[str, str], classes: ClassTable | None) -> list[tuple[str, str]]:
    if "classes" not in metadata:
        if classes is None:
            raise ModelError(
                f"{path}: its metadata name no `classes`; pass --classes with those of its rows, in their order"
            )
        return list(classes)
    try:
        listed = json.loads(metadata["classes"])
        pairs = [entry if isinstance(entry, list) else [entry] for entry in listed]
        return [_entry(*map(str, pair)) for pair in pairs]
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"{path}: `classes` in its metadata is no JSON list of classes ({error}); {_WAY_OUT}"
        ) from error


def _entry(key: str, name: str = "") -> tuple[str, str]:
    return (key, name or key) if WNID.fullmatch(key) else ("", name or key)


def _places(path: Path, entries: Sequence[tuple[str, str]], classes: ClassTable | None) -> list[int]:
    """Return the position of each class to make."""
    has_wnids = all(wnid for wnid, _ in entries)
    keys = [wnid if has_wnids else name for wnid, name in entries]
    if twice := sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []:
        raise ModelError(f"{path}: {_quote(twice)} named twice; give each class one name, or wnids")
    if odd := [wnid for wnid, _ in entries if wnid and not WNID.fullmatch(wnid)]:
        raise ModelError(f"{path}: {_quote(odd)}: no wnid such as n01440764; give wnids, or a column name alone")
    if classes is None:
        return sorted(range(len(keys)), key=keys.__getitem__) if has_wnids else list(range(len(keys)))
    positions = {key: place for place, key in enumerate(keys)}
    wanted = [wnid if has_wnids else _known_name(name, positions) for wnid, name in classes]
    if missing := [
        f"{wnid} ({name})" for key, (wnid, name) in zip(wanted, classes, strict=True) if key not in positions
    ]:
        raise ModelError(
            f"{path}: lacks {len(missing)} of the {len(classes)} classes ({_quote(missing)}); add their embeddings, or "
            f"pass --classes with fewer"
        )
    if not has_wnids and len(set(wanted)) < len(wanted):
        twice = sorted({key for key in wanted if wanted.count(key) > 1})
        raise ModelError(f"{path}: {_quote(twice)} is the name of several classes; give a column wnid")
    return [positions[key] for key in wanted]


def _known_name(name: str, positions: Mapping[str, int]) -> str:
    """Return the whole name of a class, or its first synonym if only that is known."""
    return name if name in positions else name.split(",")[0].strip()


def _unit_mean(path: Path, entry: tuple[str, str], prompts_PE: np.ndarray) -> np.ndarray:
    """Return the mean of the prompts, each of length 1, scaled to length 1."""
    what = entry[0] or repr(entry[1])
    if not prompts_PE.size or not np.isfinite(prompts_PE).all():
        raise ModelError(f"{path}: the embedding of {what} holds NaN or infinity, or nothing; compute it again")
    lengths_P1 = np.linalg.norm(prompts_PE, axis=1, keepdims=True)
    mean_E = (prompts_PE / np.where(lengths_P1 == 0, 1, lengths_P1)).mean(axis=0)
    length = float(np.linalg.norm(mean_E))
    if lengths_P1.min() == 0 or length < 1e-6:
        raise ModelError(f"{path}: the embedding of {what} is zero, so it has no direction; compute it again")
    return mean_E / length


def _scale(path: Path, stated: str | None) -> float | None:
    if stated is None:
        return None
    try:
        scale = float(stated)
    except ValueError:
        scale = math.nan
    if not 0 < scale < math.inf:
        raise ModelError(f"{path}: states logit_scale {stated[:20]!r}; it must be a number above 0, such as 100")
    return scale


def _quote(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
