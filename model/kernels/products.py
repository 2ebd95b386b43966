"""What computes the products of the CPU kernels, and weights that are packed for it once.

The C++ side is `units.h` and the files `packed_*.cpp`. This file knows nothing of MindSpore.
"""

import ctypes
import enum
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from convnext_imagenet.model.errors import ModelError

# A block's parameters in the order that the kernel takes them; V1 has no GRN, V2 no layer scale (gamma).
_BLOCK = (
    "dwconv.weight", "dwconv.bias", "norm.weight", "norm.bias", "pwconv1.weight", "pwconv1.bias", "pwconv2.weight",
    "pwconv2.bias", "gamma", "grn.gamma", "grn.beta",
)  # fmt: skip


class Unit(enum.IntEnum):
    """A kind of instruction, with the numbers of `units.h`. A twin is plain C++ that adds in the same order."""

    FLOAT32 = 0
    AVX512_BF16 = 1
    AMX = 2
    AVX512_BF16_TWIN = 3
    AMX_TWIN = 4


def is_supported(library: Path, unit: Unit) -> bool:
    """Return whether processor and system allow the unit; the first question about AMX asks Linux for it."""
    return bool(_loaded(library).convnext_unit_supported(unit))


def choose_unit(precision: str, library: Path | None) -> Unit:
    """Return what computes products in "float32" or "bfloat16"; "auto" is bfloat16 where the processor has it.

    `library` is None where our kernels do not run. Raises ModelError where bfloat16 is asked for and is not there.
    """
    if precision == "float32":
        return Unit.FLOAT32
    if library is not None:
        for unit in (Unit.AMX, Unit.AVX512_BF16):
            if is_supported(library, unit):
                return unit
    if precision == "auto":
        return Unit.FLOAT32
    reason = "our CPU kernels do not run here" if library is None else "the processor has neither AMX nor AVX512-BF16"
    raise ModelError(f'precision "bfloat16": {reason}; pass --precision float32, or auto to use what there is')


def choose_low_unit(library: Path, unit: Unit | None) -> None:
    """Choose what the operators compute with that pack bfloat16 on each call; None for the processor's own."""
    _loaded(library).convnext_choose_low_unit(-1 if unit is None else unit)


def pack_block(library: Path, unit: Unit, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the packed weights of a block, uint8, from its parameters by Facebook's names: V1's or V2's."""
    hidden, channels = arrays["pwconv1.weight"].shape
    return _packed(library, "convnext_pack_block", (unit, channels, hidden), [arrays.get(name) for name in _BLOCK])


def pack_patch(
    library: Path,
    unit: Unit,
    product: Sequence[np.ndarray],
    norm: Sequence[np.ndarray] = (),
    last_norm: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Return a packed product over patches, uint8: its weight (D, C, k, k) or (D, C) and bias, the norms around it.

    A norm is its weight and bias, or empty.
    """
    out, channels, size = (*product[0].shape, 1)[:3]
    arrays = (*product, *(norm or (None, None)), *(last_norm or (None, None)))
    return _packed(library, "convnext_pack_patch", (unit, channels, out, size), arrays)


def _packed(library: Path, name: str, numbers: Sequence[int], arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    function = getattr(_loaded(library), name)
    function.restype = ctypes.c_int64
    function.argtypes = [ctypes.c_int64] * len(numbers) + [ctypes.c_void_p] * 2
    floats = [None if array is None else np.ascontiguousarray(array, np.float32) for array in arrays]
    pointers = (ctypes.c_void_p * len(floats))(*(None if array is None else array.ctypes.data for array in floats))
    packed = np.empty(function(*numbers, pointers, None), np.uint8)
    function(*numbers, pointers, packed.ctypes.data)
    return packed


@functools.cache
def _loaded(library: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library))
    loaded.convnext_unit_supported.argtypes = [ctypes.c_int64]
    loaded.convnext_choose_low_unit.argtypes = [ctypes.c_int64]
    return loaded
