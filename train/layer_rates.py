"""Layer-wise learning rates: each group of layers learns by a constant share of the next one's rate.

Sources: optim_factory of facebookresearch/ConvNeXt ("twelve") and of facebookresearch/ConvNeXt-V2 ("blocks", which
calls it "single").
"""

from collections.abc import Iterable, Sequence
from typing import Literal

_TWELVE = 12
_BLOCKS_PER_GROUP = 3  # of the third stage


def layer_factors(
    names: Iterable[str], decay: float, groups: Literal["twelve", "blocks"], depths: Sequence[int]
) -> dict[str, float]:
    """Return what each parameter's rate is multiplied by: 1 for norm and head, `decay` more for each group below.

    `names` are Facebook's, `depths` the blocks of each stage; ValueError for a name that is no ConvNeXt's.
    """
    top = (_TWELVE if groups == "twelve" else sum(depths)) + 1
    group_of = _group_of_twelve if groups == "twelve" else _group_by_block
    return {name: decay ** (top - group_of(*_place(name), depths)) for name in names}


def _place(name: str) -> tuple[str, int, int]:
    part, *rest = name.split(".")
    if part in ("norm", "head"):
        return part, 0, 0
    if part == "downsample_layers":
        return part, int(rest[0]), 0
    if part == "stages":
        return part, int(rest[0]), int(rest[1])
    raise ValueError(f"{name}: not a parameter of a ConvNeXt")


def _group_of_twelve(part: str, stage: int, block: int, depths: Sequence[int]) -> int:
    if part == "downsample_layers":
        return {0: 0, 1: 2, 2: 3, 3: _TWELVE}[stage]
    if part == "stages":
        return {0: 1, 1: 2, 2: 3 + block // _BLOCKS_PER_GROUP, 3: _TWELVE}[stage]
    return _TWELVE + 1


def _group_by_block(part: str, stage: int, block: int, depths: Sequence[int]) -> int:
    if part in ("norm", "head"):
        return sum(depths) + 1
    return sum(depths[:stage]) + block + 1
