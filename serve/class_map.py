"""Which outputs of a network mean each class of RECORDS: by wnid, by a table that maps several outputs to a class, or
by the numbers of ImageNet-V2's folders.

So a network of 1000 or 21,841 classes is evaluated on records of fewer. This file computes no network.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from convnext_imagenet.base.wording import plural
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.serve.checkpoint import Checkpoint, check_classes
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.scoring import true_label_ranks

_LISTED = 5
_OFFICIAL_CLASSES = 1000
_WNID = re.compile(r"n[0-9]{8}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,2}")
BY_WNID = "wnid"
BY_NUMBER = "number, as ImageNet-V2 names its folders: class N of the records is the Nth wnid, from 0"


@dataclass(frozen=True)
class ClassMap:
    """For each class of the records the outputs that mean it, ascending; none for a class that the network lacks.

    `rule` says in words what was compared.
    """

    wnids: tuple[str, ...]
    outputs: tuple[tuple[int, ...], ...]
    network_outputs: int
    rule: str = BY_WNID

    @property
    def lacking(self) -> tuple[str, ...]:
        """Return the wnids of classes that the network lacks."""
        return tuple(wnid for wnid, found in zip(self.wnids, self.outputs, strict=True) if not found)

    @cached_property
    def is_known(self) -> np.ndarray:
        """Return whether the network has each class, bool (K,)."""
        return np.array([bool(found) for found in self.outputs])

    @cached_property
    def _used(self) -> np.ndarray:
        """Return the outputs that mean any class of the records, sorted."""
        return np.array(sorted({output for found in self.outputs for output in found}))

    def measure(self, logits_NK: np.ndarray, labels_N: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (rank, cross entropy) of each row among all outputs, then among those of the records' classes.

        A class has the rank of its best output, where its other outputs do not count, and the sum of the probabilities
        of its outputs. The restricted answer ranks classes, each by its best output.
        """
        best_N = self._best_outputs(logits_NK, labels_N)
        own_NK = np.zeros(logits_NK.shape, bool)
        for row, label in enumerate(labels_N):
            own_NK[row, list(self.outputs[label])] = True
        ranks_N = true_label_ranks(logits_NK, best_N)
        share_N = _log_share(logits_NK, own_NK)
        best_NC = np.stack([self._best_of(logits_NK, found) for found in self.outputs if found], axis=1)
        position = np.cumsum(self.is_known) - 1
        restricted_N = true_label_ranks(best_NC, position[labels_N])
        used_NU = logits_NK[:, self._used]
        return [(ranks_N, share_N), (restricted_N, _log_share(used_NU, own_NK[:, self._used]))]

    def _best_outputs(self, logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
        """Return the output with the greatest logit of each row's class; the lower index wins a tie."""
        pairs = zip(logits_NK, labels_N, strict=True)
        return np.array([self.outputs[n][int(row[list(self.outputs[n])].argmax())] for row, n in pairs], int)

    @staticmethod
    def _best_of(logits_NK: np.ndarray, outputs: Sequence[int]) -> np.ndarray:
        return logits_NK[:, list(outputs)].max(axis=1)


def map_classes(
    checkpoint: Checkpoint, classes: Sequence[ClassEntry], records: Path, table: Path | None = None
) -> ClassMap | None:
    """Return which outputs mean the records' classes; None if they are the network's own, in their order.

    `table` is a text file of lines "wnid-of-the-network wnid-of-the-records". Without it, classes that are all numbers
    from 0 to 999 are the ranks of the wnids of a network of the 1000 classes, as in ImageNet-V2. Raises ServeError for
    a network without classifier or wnids, for records that share no class with it, and for a table that names what
    neither has.
    """
    checkpoint.require_classifier()
    known, wanted = [wnid for wnid, _ in checkpoint.card.classes], [entry.wnid for entry in classes]
    if table is None and known == wanted:
        return None
    if not any(known) or len(set(known)) < len(known):
        check_classes(checkpoint, classes, records)
    pairs = [(wnid, wnid) for wnid in wanted] if table is None else _read_table(table, set(known), set(wanted))
    places = {wnid: index for index, wnid in enumerate(known)}
    outputs = tuple(tuple(sorted({places[a] for a, b in pairs if b == wnid and a in places})) for wnid in wanted)
    if not any(outputs):
        if _are_ranks(wanted, known):
            return ClassMap(tuple(wanted), tuple((int(number),) for number in wanted), len(known), BY_NUMBER)
        check_classes(checkpoint, classes, records)
    return ClassMap(tuple(wanted), outputs, len(known))


def _are_ranks(wanted: Sequence[str], known: Sequence[str]) -> bool:
    """Return whether classes are numbers, and the network's are the 1000 of ImageNet in the order of their wnids."""
    in_order = list(known) == sorted(known) and all(map(_WNID.fullmatch, known))
    return len(known) == _OFFICIAL_CLASSES and in_order and all(map(_NUMBER.fullmatch, wanted))


def class_map_lines(mapped: ClassMap, rows_left_out: int) -> list[str]:
    """Return what a user must know of the map: how many outputs mean how many classes, and what is left out."""
    used = sum(len(found) for found in mapped.outputs)
    lines = [
        f"classes matched by {mapped.rule}: {used:,} of the network's {mapped.network_outputs:,} outputs are "
        f"{plural(int(mapped.is_known.sum()), 'class')} of the records"
    ]
    if mapped.lacking:
        listed = ", ".join(mapped.lacking[:_LISTED]) + (" ..." if len(mapped.lacking) > _LISTED else "")
        lines.append(
            f"the network lacks {plural(len(mapped.lacking), 'class')} of the records ({listed}): their "
            f"{plural(rows_left_out, 'row')} are in neither number"
        )
    return lines


def _log_share(logits_NK: np.ndarray, own_NK: np.ndarray) -> np.ndarray:
    """Return -ln of the probability of the marked outputs together, float64 (N,)."""
    exact_NK = np.ascontiguousarray(logits_NK, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        best_N1 = exact_NK.max(axis=1, keepdims=True)
        powers_NK = np.exp(exact_NK - best_N1)
        return np.log(powers_NK.sum(axis=1)) - np.log(np.where(own_NK, powers_NK, 0).sum(axis=1))


def _read_table(path: Path, known: set[str], wanted: set[str]) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(
            f"{path}: cannot be read ({error}); give a text file of lines 'network-wnid records-wnid'"
        ) from error
    pairs: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        fault = ""
        if len(words) != 2:
            fault = f"has {plural(len(words), 'word')}, not two wnids"
        elif words[0] not in known:
            fault = f"{words[0]} is no class of the network"
        elif words[1] not in wanted:
            fault = f"{words[1]} is no class of the records"
        elif pairs.setdefault(words[0], words[1]) != words[1]:
            fault = f"{words[0]} is mapped twice"
        if fault:
            raise ServeError(f"{path}: line {number}: {fault}; correct the line")
    return list(pairs.items())
