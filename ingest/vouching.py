"""What labels are checked against, whoever vouches for them: the devkit, or Kaggle's files."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Voucher(Protocol):
    """A source of true labels; `title` names it in messages."""

    @property
    def title(self) -> str:
        """How messages call it."""

    @property
    def names(self) -> Mapping[str, str]:
        """The names of each class by wnid, for display only."""

    @property
    def train_images(self) -> Mapping[str, int] | None:
        """The true number of train images by wnid, None when it does not tell."""

    @property
    def val_wnids(self) -> Sequence[str]:
        """The wnid of val image n at n - 1."""
