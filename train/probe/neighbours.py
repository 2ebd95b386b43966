"""k nearest neighbours by the cosine of features: a measure of features that trains nothing."""

from collections.abc import Sequence

import numpy as np

_BLOCK_ROWS = 1024


def neighbour_votes(
    train_NC: np.ndarray, labels_N: np.ndarray, query_MC: np.ndarray, classes: int, counts: Sequence[int]
) -> dict[int, np.ndarray]:
    """Return for each k the best class of each query row, int (M,): every one of the k nearest rows votes alike.

    Of classes with equal votes the one whose nearest vote is nearest wins. A k above the number of rows is left out.
    """
    usable = sorted({k for k in counts if k <= len(train_NC)})
    most = max(usable, default=0)
    unit_NC = _unit(train_NC)
    best: dict[int, list[np.ndarray]] = {k: [] for k in usable}
    for first in range(0, len(query_MC), _BLOCK_ROWS) if most else ():
        likeness_MN = _unit(query_MC[first : first + _BLOCK_ROWS]) @ unit_NC.T
        nearest_Mk = np.argsort(-likeness_MN, axis=1, kind="stable")[:, :most]
        voted_Mk = labels_N[nearest_Mk]
        for k in usable:
            best[k].append(_winners(voted_Mk[:, :k], classes))
    return {k: np.concatenate(parts) for k, parts in best.items()}


def _winners(voted_Mk: np.ndarray, classes: int) -> np.ndarray:
    rows, k = voted_Mk.shape
    votes = np.zeros((rows, classes))
    for place in range(k):  # less than one vote in all, so that it only decides between equal votes
        np.add.at(votes, (np.arange(rows), voted_Mk[:, place]), 1.0 + 0.5 ** (place + 2) if place < 50 else 1.0)
    return votes.argmax(axis=1)


def _unit(x_NC: np.ndarray) -> np.ndarray:
    x_NC = x_NC.astype(np.float32)
    return x_NC / np.maximum(np.linalg.norm(x_NC, axis=1, keepdims=True), 1e-12)
