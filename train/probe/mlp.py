"""A perceptron with one hidden layer on features: what more than a linear head could read from them.

It is measured only; the checkpoint of a probe has the linear head. Knows features and labels, no networks.
N rows, C channels, H hidden units, K classes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import erf

_BATCH, _EPOCHS, _LEAST_STEPS, _RATE = 256, 20, 600, 1e-3
_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # Adam's, 1412.6980

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Mlp:
    """Weights and biases (H, C), (H,), (K, H), (K,), float32, for features minus `mean` over `scale`."""

    mean: np.ndarray
    scale: np.ndarray
    parameters: tuple[np.ndarray, ...]

    def logits(self, features_NC: np.ndarray) -> np.ndarray:
        """Return the logits (N, K), float32."""
        return _forward((features_NC - self.mean) / self.scale, self.parameters)[-1]


def fit_mlp(
    features_NC: np.ndarray, labels_N: np.ndarray, classes: int, hidden: int, decay: float, rng: np.random.Generator
) -> Mlp:
    """Return a perceptron trained by AdamW: batches of 256, 20 epochs but at least 600 steps, a rate of 1e-3
    that falls to 0 by a cosine.

    `decay` is the decoupled weight decay of the two matrices. The same arguments give the same values.
    """
    mean_C = features_NC.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale_C = np.maximum(features_NC.std(axis=0, dtype=np.float64), 1e-6).astype(np.float32)
    x_NC = (features_NC - mean_C) / scale_C
    parameters = [
        rng.standard_normal((hidden, x_NC.shape[1]), np.float32) / np.float32(x_NC.shape[1] ** 0.5),
        np.zeros(hidden, np.float32),
        rng.standard_normal((classes, hidden), np.float32) / np.float32(hidden**0.5),
        np.zeros(classes, np.float32),
    ]
    first, second = ([np.zeros_like(array) for array in parameters] for _ in range(2))
    batch, step = min(_BATCH, len(x_NC)), 0
    steps = max(_EPOCHS * (len(x_NC) // batch), _LEAST_STEPS)
    while step < steps:
        order = rng.permutation(len(x_NC))
        for begin in range(0, len(order) - batch + 1, batch)[: steps - step]:
            rows = order[begin : begin + batch]
            gradients = _gradients(x_NC[rows], labels_N[rows], parameters)
            rate = _RATE * (1 + np.cos(np.pi * step / steps)) / 2
            step += 1
            _update(parameters, gradients, first, second, rate, decay, step)
    return Mlp(mean_C, scale_C, tuple(parameters))


def _forward(
    x_NC: np.ndarray, parameters: Arrays | tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the hidden values before GELU and the share that it passes (N, H), and the logits (N, K)."""
    into_HC, bias_H, out_KH, bias_K = parameters
    before_NH = x_NC @ into_HC.T + bias_H
    share_NH = _normal_share(before_NH)
    return before_NH, share_NH, (before_NH * share_NH) @ out_KH.T + bias_K


def _gradients(x_NC: np.ndarray, labels_N: np.ndarray, parameters: Arrays) -> Arrays:
    """Return the derivatives of the mean cross entropy."""
    before_NH, share_NH, logits_NK = _forward(x_NC, parameters)
    powers_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    error_NK = powers_NK / powers_NK.sum(axis=1, keepdims=True)
    error_NK[np.arange(len(labels_N)), labels_N] -= 1
    error_NK /= len(labels_N)
    density_NH = np.exp(-(before_NH**2) / 2) * np.float32((2 * np.pi) ** -0.5)
    error_NH = error_NK @ parameters[2] * (share_NH + before_NH * density_NH)
    return [error_NH.T @ x_NC, error_NH.sum(axis=0), error_NK.T @ (before_NH * share_NH), error_NK.sum(axis=0)]


def _update(
    parameters: Arrays, gradients: Arrays, first: Arrays, second: Arrays, rate: float, decay: float, step: int
) -> None:
    for index, gradient in enumerate(gradients):
        first[index] = _BETAS[0] * first[index] + (1 - _BETAS[0]) * gradient
        second[index] = _BETAS[1] * second[index] + (1 - _BETAS[1]) * gradient**2
        mean = first[index] / (1 - _BETAS[0] ** step)
        size = np.sqrt(second[index] / (1 - _BETAS[1] ** step)) + _EPSILON
        shrink = decay if parameters[index].ndim > 1 else 0.0
        parameters[index] = (parameters[index] * (1 - rate * shrink) - rate * mean / size).astype(np.float32)


def _normal_share(x: np.ndarray) -> np.ndarray:
    """Return the share of a normal distribution below x, of GELU."""
    return ((1 + erf(x * np.float32(0.5**0.5))) / 2).astype(np.float32)
