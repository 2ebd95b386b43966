"""Reads the tensors of a MindSpore checkpoint by MindSpore's own reader."""

from pathlib import Path
from tempfile import TemporaryDirectory

import mindspore
import numpy as np

from convnext_imagenet.model.errors import ModelError

_SUFFIX = ".ckpt"
_EMA = "ema."  # MindCV's prefix for the names of its moving average


def read_ckpt(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    """Return the parameters by name, with optimizer state and scalars, and MindCV's moving average or None.

    Raises ModelError for a file that is truncated or damaged.
    """
    try:
        with TemporaryDirectory() as folder:
            named = Path(folder) / f"weights{_SUFFIX}"  # MindSpore refuses any other ending
            named.symlink_to(path.resolve())
            parameters = mindspore.load_checkpoint(str(named))
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise ModelError(f"{path}: truncated, damaged or not a MindSpore checkpoint; copy it again") from error
    arrays = {
        name: _array(parameter) for name, parameter in parameters.items() if isinstance(parameter, mindspore.Tensor)
    }
    averages = {name.removeprefix(_EMA): array for name, array in arrays.items() if name.startswith(_EMA)}
    rest = {name: array for name, array in arrays.items() if not name.startswith(_EMA)}
    return rest, averages or None


def _array(tensor: mindspore.Tensor) -> np.ndarray:
    if tensor.dtype == mindspore.bfloat16:
        tensor = tensor.astype(mindspore.float32)
    return tensor.asnumpy()
