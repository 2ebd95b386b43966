"""Multinomial logistic regression with an L2 penalty, to its optimum. Knows features and labels, no networks.

The loss is the mean cross entropy in nats plus strength / 2 times the sum of all squared weights; biases are free. So
scikit-learn's C is 1 / (rows * strength).
N rows, C channels, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

_BLOCK_ROWS = 65_536  # converted to float64 at a time: the features of ImageNet would fill the memory
_KEPT_BYTES = 1 << 30  # fewer features are converted once
_MOST_STEPS = 2_000
_GRADIENT = 1e-6  # of the largest derivative at the optimum


@dataclass(frozen=True)
class LinearHead:
    """Weight (K, C) and bias (K,), float64; `loss` is what was minimised, and `is_optimal` whether it was reached."""

    weight: np.ndarray
    bias: np.ndarray
    loss: float
    is_optimal: bool
    steps: int

    def logits(self, features_NC: np.ndarray) -> np.ndarray:
        """Return the logits (N, K), float64."""
        return features_NC.astype(np.float64) @ self.weight.T + self.bias


def fit_logistic(
    features_NC: np.ndarray, labels_N: np.ndarray, classes: int, strength: float, start: LinearHead | None = None
) -> LinearHead:
    """Return the head that minimises the loss, by L-BFGS in float64 from zeros or from `start`.

    It searches over weights in the axes of the loss's curvature, which changes the path but not the optimum.
    """
    rows, channels = features_NC.shape
    mean_C = features_NC.mean(axis=0, dtype=np.float64)
    blocks = _Blocks(features_NC, mean_C)
    axes_CC = _axes(blocks, classes, strength)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        u_KC, b_K = flat[: classes * channels].reshape(classes, channels), flat[classes * channels :]
        w_KC = u_KC @ axes_CC.T
        loss, dw_KC, db_K = 0.0, np.zeros_like(w_KC), np.zeros_like(b_K)
        for first, x_NC in blocks:
            y_N = labels_N[first : first + len(x_NC)]
            logits_NK = x_NC @ w_KC.T + b_K
            logits_NK -= logits_NK.max(axis=1, keepdims=True)
            powers_NK = np.exp(logits_NK)
            sums_N = powers_NK.sum(axis=1)
            index = np.arange(len(y_N))
            loss += float((np.log(sums_N) - logits_NK[index, y_N]).sum())
            powers_NK /= sums_N[:, None]
            powers_NK[index, y_N] -= 1
            dw_KC += powers_NK.T @ x_NC
            db_K += powers_NK.sum(axis=0)
        loss = loss / rows + strength / 2 * float((w_KC**2).sum())
        return loss, np.concatenate([((dw_KC / rows + strength * w_KC) @ axes_CC).ravel(), db_K / rows])

    x0 = np.zeros(classes * channels + classes)
    if start is not None:
        u_KC = np.linalg.solve(axes_CC, start.weight.T).T
        x0 = np.concatenate([u_KC.ravel(), start.bias + start.weight @ mean_C])
    options = {"maxiter": _MOST_STEPS, "maxfun": 2 * _MOST_STEPS, "gtol": _GRADIENT, "ftol": 1e-12, "maxcor": 20}
    found = minimize(objective, x0, jac=True, method="L-BFGS-B", options=options)
    weight_KC = found.x[: classes * channels].reshape(classes, channels) @ axes_CC.T
    bias_K = found.x[classes * channels :] - weight_KC @ mean_C
    return LinearHead(weight_KC, bias_K, float(found.fun), bool(found.success), int(found.nit))


class _Blocks:
    """The features minus their mean, float64, in blocks (first row, rows); kept between passes if they are few."""

    def __init__(self, features_NC: np.ndarray, mean_C: np.ndarray) -> None:
        self._features_NC, self._mean_C = features_NC, mean_C
        self._kept = list(self._made()) if 8 * features_NC.size <= _KEPT_BYTES else None

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        return iter(self._kept) if self._kept is not None else self._made()

    def _made(self) -> Iterator[tuple[int, np.ndarray]]:
        for first in range(0, len(self._features_NC), _BLOCK_ROWS):
            yield first, self._features_NC[first : first + _BLOCK_ROWS].astype(np.float64) - self._mean_C


def _axes(blocks: _Blocks, classes: int, strength: float) -> np.ndarray:
    """Return the axes of the curvature, one a column, divided by its root: (C, C).

    The curvature at equal probabilities p is the covariance times p (1 - p), plus the strength.
    """
    rows, total_CC = 0, np.zeros(())
    for _, x_NC in blocks:
        rows, total_CC = rows + len(x_NC), total_CC + x_NC.T @ x_NC
    values_C, axes_CC = np.linalg.eigh(total_CC / rows / classes * (1 - 1 / classes))
    return axes_CC / np.sqrt(np.maximum(values_C, 0) + strength)
