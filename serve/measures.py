"""Numbers that say how sure a network is of an image, from its logits. Pure: NumPy in, numbers out."""

from collections.abc import Callable

import numpy as np


def margins(logits_NK: np.ndarray) -> np.ndarray:
    """Return the probability of the best class minus that of the second, (N,); 1 with a single class."""
    probabilities_NK = np.exp(_log_softmax(logits_NK))
    if logits_NK.shape[1] == 1:
        return probabilities_NK[:, 0]
    second_N, first_N = np.partition(probabilities_NK, -2, axis=1)[:, -2:].T
    return first_N - second_N


def entropies(logits_NK: np.ndarray) -> np.ndarray:
    """Return the entropy of the probabilities in nats, (N,): 0 for a sure network, log K for one that knows nothing."""
    log_NK = _log_softmax(logits_NK)
    return -(np.exp(log_NK) * log_NK).sum(axis=1)


def energies(logits_NK: np.ndarray) -> np.ndarray:
    """Return the energy -log sum exp(logits), (N,); higher for images unlike those of the training.

    Liu et al. 2020, "Energy-based Out-of-distribution Detection" (arXiv 2010.03759), equation 4, temperature 1.
    """
    highest_N1 = logits_NK.max(axis=1, keepdims=True).astype(np.float64)
    return -(highest_N1[:, 0] + np.log(np.exp(logits_NK - highest_N1).sum(axis=1)))


def highest_logits(logits_NK: np.ndarray) -> np.ndarray:
    """Return the greatest logit, (N,); lower for images unlike those of the training (arXiv 1911.11132)."""
    return logits_NK.max(axis=1)


MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "margin": margins,
    "entropy": entropies,
    "energy": energies,
    "max_logit": highest_logits,
}


def _log_softmax(logits_NK: np.ndarray) -> np.ndarray:
    shifted_NK = logits_NK.astype(np.float64) - logits_NK.max(axis=1, keepdims=True)
    return shifted_NK - np.log(np.exp(shifted_NK).sum(axis=1, keepdims=True))
