"""Who says which class an image has: what the devkit and Kaggle's files have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LabelAuthority:
    """A source of true labels; messages call it `title`, and `sha256` is of what it says.

    `names` are the names of each class by wnid, for display only. `val_wnids` has the wnid of val image n at n - 1.
    `train_images` is the true number of train images by wnid, None when the source does not tell.
    """

    title: str
    names: Mapping[str, str]
    val_wnids: Sequence[str]
    train_images: Mapping[str, int] | None
    sha256: str
