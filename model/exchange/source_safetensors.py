"""Reads the tensors of a safetensors file of any program but this one."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from convnext_imagenet.model.card import ModelCard, card_from_json
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.export_names import EXPORTED_CARD
from convnext_imagenet.model.weights import FORMAT

INDEX_SUFFIX = ".safetensors.index.json"


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], None]:
    """Return all tensors by name, and None, because the format holds one set of weights; bfloat16 becomes float32.

    Raises ModelError for a file that is truncated, damaged, quantised or already a checkpoint of ours.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            if FORMAT in (file.metadata() or {}):
                raise ModelError(f"{path}: already a checkpoint of this program; use it as it is")
            # safe_open has no iterator of its own
            dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            if odd := sorted(name for name, dtype in dtypes.items() if dtype.startswith(("F8", "F4"))):
                raise ModelError(f"{path}: {odd[0]} is {dtypes[odd[0]]}, a quantised type; give float weights")
            tensors = {name: file.get_tensor(name) for name, dtype in dtypes.items() if dtype != "BF16"}
        if brain := {name for name, dtype in dtypes.items() if dtype == "BF16"}:
            tensors |= _read_bfloat16(path, brain)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: truncated or damaged ({error}); copy it again") from error
    return tensors, None


def read_exported_card(path: Path) -> ModelCard | None:
    """Return the model card in a safetensors file that we exported for another program; None in any other.

    Raises ModelError for a card that cannot be read.
    """
    with safe_open(path, framework="numpy") as file:
        text = (file.metadata() or {}).get(EXPORTED_CARD)
    try:
        return None if text is None else card_from_json(text)
    except ModelError as error:
        raise ModelError(f"{path}: {error}; export the network again") from None


def read_shards(index: Path) -> dict[str, np.ndarray]:
    """Return the tensors of all files that an index, `*.safetensors.index.json`, names.

    Raises ModelError for an index that is damaged, names a file that is missing or lies elsewhere, or does not agree
    with the files.
    """
    try:
        places = json.loads(index.read_bytes())["weight_map"]
        files = sorted({str(name) for name in places.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: no index of safetensors files ({type(error).__name__}); copy it again") from error
    if odd := next((name for name in files if Path(name).name != name), None):
        raise ModelError(f"{index}: names {odd!r}, which lies in another folder; give an index of files beside it")
    if missing := [name for name in files if not (index.parent / name).is_file()]:
        raise ModelError(
            f"{index}: {len(missing)} of its {len(files)} files are missing ({missing[0]}); copy them beside it"
        )
    tensors: dict[str, np.ndarray] = {}
    for name in files:
        tensors |= read_safetensors(index.parent / name)[0]
    if tensors.keys() != places.keys():
        differing = sorted(tensors.keys() ^ places.keys())
        raise ModelError(
            f"{index}: does not agree with its files about {len(differing)} tensors ({differing[0]}); copy all again"
        )
    return tensors


def _read_bfloat16(path: Path, names: set[str]) -> dict[str, np.ndarray]:
    """Return the named tensors, whose values are upper halves of float32; `safe_open` has checked the file before."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
        arrays = {}
        for name in names:
            begin, end = entries[name]["data_offsets"]
            file.seek(8 + length + begin)
            upper = np.frombuffer(file.read(end - begin), "<u2").astype(np.uint32) << 16
            arrays[name] = upper.view(np.float32).reshape(entries[name]["shape"])
    return arrays
