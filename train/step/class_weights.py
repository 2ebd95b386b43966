"""The weights of classes in the loss. Pure."""

from collections.abc import Sequence

import numpy as np


def class_weights(rows_per_class: Sequence[int], power: float) -> np.ndarray:
    """Return float32 (K,) proportional to n ** -power for a class of n rows; their mean over all rows is 1.

    So the size of the loss, and with it the learning rate, stays comparable. A class without rows counts as if it had
    one.
    """
    rows = np.maximum(np.array(rows_per_class, np.float64), 1.0)
    weights = rows**-power
    return (weights * rows.sum() / (weights * rows).sum()).astype(np.float32)
