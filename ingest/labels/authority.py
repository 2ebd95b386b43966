"""What the devkit and Kaggle's files both state about labels. Knows nothing of their formats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LabelAuthority:
    """A source of true labels; messages call it `title`, and `sha256` covers its content.

    `names` has the names of each class by wnid, for display only. `val_wnids` has the wnid of val image n at n - 1.
    `train_images` has the true number of train images by wnid, None when the source does not state it.
    """

    title: str
    names: Mapping[str, str]
    val_wnids: Sequence[str]
    train_images: Mapping[str, int] | None
    sha256: str
