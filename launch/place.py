"""Which of a command's processes this one is. This module must not import MindSpore."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from convnext_imagenet.launch.errors import LaunchError

# MindSpore's documented variables of a dynamic cluster; its own launcher, msrun, sets the same.
ROLE, WORKER, SCHEDULER = "MS_ROLE", "MS_WORKER", "MS_SCHED"
_PLACE = ("RANK_ID", "RANK_SIZE", "DEVICE_ID")


@dataclass(frozen=True)
class Place:
    """This process among those that share its work: `rank` of `ranks`, on its machine's device number `device`."""

    rank: int = 0
    ranks: int = 1
    device: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """The part of range(count) that falls to this rank; the ranks' parts are disjoint, in order and cover it."""
        return range(self.rank * count // self.ranks, (self.rank + 1) * count // self.ranks)


ALONE = Place()


def own_place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return what the environment says of this process; alone when no launcher has started it."""
    if environment.get(ROLE) != WORKER:
        return ALONE
    try:
        place = Place(*(int(environment[name]) for name in _PLACE))
    except (KeyError, ValueError):
        raise LaunchError(
            f"{ROLE} is {WORKER}, but {', '.join(_PLACE)} are not whole numbers; start ranks by --devices"
        ) from None
    if not 0 <= place.rank < place.ranks:
        raise LaunchError(f"RANK_ID = {place.rank}: must be below RANK_SIZE = {place.ranks}; start ranks by --devices")
    return place
