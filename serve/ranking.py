"""From logits to ranks, probabilities and the best classes: NumPy on the host, exact and with a stated tie rule.

Among equal logits the class with the lower index comes first, here and in Parquet, so that one definition of
"top-1" serves accuracy and predictions. This file knows nothing of networks.
"""

import numpy as np


def true_label_ranks(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """The rank 0..K-1 of each row's true class among its logits, int64; 0 is the best.

    Classes with a greater logit come before, and so do those with an equal logit and a lower index. A row that
    holds a NaN has rank K: it is never correct.
    """
    classes = logits_NK.shape[1]
    if labels_N.size and not 0 <= labels_N.min() <= labels_N.max() < classes:
        raise ValueError(f"labels {labels_N.min()}..{labels_N.max()}, the network knows 0..{classes - 1}")
    true_N1 = np.take_along_axis(logits_NK, labels_N[:, None], axis=1)
    before_NK = np.arange(classes) < labels_N[:, None]
    ahead_NK = (logits_NK > true_N1) | ((logits_NK == true_N1) & before_NK)
    ranks_N = ahead_NK.sum(axis=1, dtype=np.int64)
    return np.where(np.isnan(logits_NK).any(axis=1), classes, ranks_N)


def best_classes(logits_NK: np.ndarray, k: int) -> np.ndarray:
    """The indices (N, k) of the k greatest logits of each row, best first, the lower index first among equals."""
    return np.argsort(-logits_NK, axis=1, kind="stable")[:, :k]


def probabilities(logits_NK: np.ndarray) -> np.ndarray:
    """The softmax of each row, computed in float64 and returned as float32."""
    shifted_NK = logits_NK.astype(np.float64) - logits_NK.max(axis=1, keepdims=True)
    exponentials_NK = np.exp(shifted_NK)
    return (exponentials_NK / exponentials_NK.sum(axis=1, keepdims=True)).astype(np.float32)
