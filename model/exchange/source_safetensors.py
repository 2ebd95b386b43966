"""Reads the tensors of a safetensors file of any program but this one."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.weights import FORMAT


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
