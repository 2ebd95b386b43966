"""Tensors of a safetensors file, whoever wrote it."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.weights import FORMAT


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], None]:
    """All tensors by name; bfloat16 becomes float32, exactly. The format holds one set of weights.

    Raises ModelError for a file that is truncated or damaged, or holds a type that NumPy lacks.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            if FORMAT in (file.metadata() or {}):
                raise ModelError(f"{path}: a checkpoint of ours already; use it as it is")
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
    """The named tensors, the upper halves of float32 values; the file has been read whole before."""
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
