"""Loads the weights that a CHECKPOINT argument means, and checks that their classes fit the records."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import nn

from convnext_imagenet.base.files import sha256_file, sha256_json
from convnext_imagenet.base.wording import as_word, plural
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.network import Classifier, FeatureClassifier
from convnext_imagenet.model.transform import changed
from convnext_imagenet.model.weights import build_inference_network, load_weights
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.pointers import resolve_checkpoint
from convnext_imagenet.serve.settings import Precision, TransformOptions, Weights


@dataclass(frozen=True)
class Checkpoint:
    """A weights file in memory: its parameters by name, its model card, and the SHA-256 of the file."""

    path: Path
    sha256: str
    card: ModelCard
    arrays: Mapping[str, np.ndarray]

    @property
    def classes_sha256(self) -> str:
        """Return the SHA-256 of the classes: wnids and names by index."""
        return sha256_json([list(entry) for entry in self.card.classes])

    @property
    def has_classifier(self) -> bool:
        """Return whether the network has a head that was trained."""
        return self.card.config.num_classes > 0

    def require_classifier(self) -> None:
        """Raise ServeError for a network of features, which can name no class."""
        if not self.has_classifier:
            raise ServeError(
                f"{self.path}: has no trained classifier, so it names no classes; train one by `convnext-train probe` "
                f"or `convnext-train run --init-from`, or write features by `convnext-serve predict --features`"
            )

    def classifier(self, with_features: bool = False, precision: Precision = "float32") -> nn.Cell:
        """Return the network: uint8 pixels (N, S, S, 3) -> logits (N, K), or with features also (N, C), all float32.

        Without a head it gives features only. Raises ModelError when bfloat16 is asked for and is not there.
        """
        kind = FeatureClassifier if with_features else Classifier
        classifier = kind(build_inference_network(self.card, self.arrays, precision), self.card.transform)
        classifier.set_train(False)
        return classifier

    def evaluated_with(self, options: TransformOptions) -> "Checkpoint":
        """Return the same weights with another evaluation transform. Raises ModelError for bad values."""
        transform = changed(self.card.transform, options.changes())
        return dataclasses.replace(self, card=dataclasses.replace(self.card, transform=transform))


def load_checkpoint(path: Path, weights: Weights = "best") -> Checkpoint:
    """Return the weights of `path`: a weights file, or a RUN directory (its best epoch).

    `weights` chooses in a RUN: the weights as trained ("raw"), their moving average ("ema"), or the better ("best").
    An imported file whose head is new and untrained is loaded without it.
    Raises ServeError when there is no such file, ModelError for a file that is truncated, damaged or not one of ours.
    """
    path = resolve_checkpoint(path, weights)
    arrays, card = load_weights(path)
    if card.provenance.get("imported", {}).get("head") == "new":  # a head that nobody trained names no classes
        card = dataclasses.replace(card, config=card.config.without_head, classes=())
        arrays = {name: array for name, array in arrays.items() if not name.startswith("head.")}
    return Checkpoint(path=path, sha256=sha256_file(path), card=card, arrays=arrays)


def check_classes(checkpoint: Checkpoint, classes: Sequence[ClassEntry], records: Path) -> None:
    """Raise ServeError unless the checkpoint and the records have the same wnid at every index."""
    checkpoint.require_classifier()
    known = [wnid for wnid, _ in checkpoint.card.classes]
    expected = [entry.wnid for entry in classes]
    if known == expected:
        return
    if not any(known):
        raise ServeError(
            f"{checkpoint.path}: has {plural(len(known), 'class')} without wnids, so labels cannot be compared; import "
            f"the weights again with --classes {as_word(records)}, or with the list of their classes"
        )
    shared = min(len(known), len(expected))
    first = next((index for index in range(shared) if known[index] != expected[index]), shared)
    here, there = (wnids[first] if first < len(wnids) else "nothing" for wnids in (known, expected))
    raise ServeError(
        f"{checkpoint.path}: has {plural(len(known), 'class')}, {records} has {len(expected)}. They differ first at "
        f"index {first}: {here} in the checkpoint, {there} in the records; evaluate on the records that the "
        f"checkpoint was trained on, or train on these records"
    )
