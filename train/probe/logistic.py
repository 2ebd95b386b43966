"""Multinomial logistic regression with an L2 penalty, to its optimum. Knows features and labels, no networks.

The loss is the mean cross entropy in nats plus strength / 2 times the sum of all squared weights; biases are free. So
scikit-learn's C is 1 / (rows * strength).
N rows, C channels, K classes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

_BLOCK_ROWS = 65_536  # converted to float64 at a time: the features of ImageNet would fill the memory
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

    Channels are centred, and scaled by the root of the loss's curvature, which changes the path but not the optimum.
    """
    mean_C, scale_C = _moments(features_NC, classes, strength)
    rows, channels = features_NC.shape

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        u_KC, b_K = flat[: classes * channels].reshape(classes, channels), flat[classes * channels :]
        loss, du_KC, db_K = 0.0, np.zeros_like(u_KC), np.zeros_like(b_K)
        for first in range(0, rows, _BLOCK_ROWS):
            x_NC = (features_NC[first : first + _BLOCK_ROWS].astype(np.float64) - mean_C) / scale_C
            y_N = labels_N[first : first + _BLOCK_ROWS]
            logits_NK = x_NC @ u_KC.T + b_K
            logits_NK -= logits_NK.max(axis=1, keepdims=True)
            powers_NK = np.exp(logits_NK)
            sums_N = powers_NK.sum(axis=1)
            index = np.arange(len(y_N))
            loss += float((np.log(sums_N) - logits_NK[index, y_N]).sum())
            powers_NK /= sums_N[:, None]
            powers_NK[index, y_N] -= 1
            du_KC += powers_NK.T @ x_NC
            db_K += powers_NK.sum(axis=0)
        w_KC = u_KC / scale_C
        loss = loss / rows + strength / 2 * float((w_KC**2).sum())
        return loss, np.concatenate([(du_KC / rows + strength * w_KC / scale_C).ravel(), db_K / rows])

    x0 = np.zeros(classes * channels + classes)
    if start is not None:
        x0 = np.concatenate([(start.weight * scale_C).ravel(), start.bias + start.weight @ mean_C])
    options = {"maxiter": _MOST_STEPS, "maxfun": 2 * _MOST_STEPS, "gtol": _GRADIENT, "ftol": 1e-12, "maxcor": 20}
    found = minimize(objective, x0, jac=True, method="L-BFGS-B", options=options)
    weight_KC = found.x[: classes * channels].reshape(classes, channels) / scale_C
    bias_K = found.x[classes * channels :] - weight_KC @ mean_C
    return LinearHead(weight_KC, bias_K, float(found.fun), bool(found.success), int(found.nit))


def _moments(features_NC: np.ndarray, classes: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and scale (C,): the curvature of a weight is the variance times p (1 - p), plus the strength."""
    mean_C = features_NC.mean(axis=0, dtype=np.float64)
    variance_C = features_NC.var(axis=0, dtype=np.float64)
    return mean_C, np.sqrt(variance_C * (1 / classes) * (1 - 1 / classes) + strength)
