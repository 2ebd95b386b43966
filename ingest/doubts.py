"""What a person should look at before an ingest: it is allowed, and often a mistake. Pure: a plan in, lines out."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from convnext_imagenet.base.wording import plural
from convnext_imagenet.ingest.errors import first_few
from convnext_imagenet.ingest.shards.plan import IngestPlan


def doubts(plan: IngestPlan) -> Iterator[str]:
    """Yield a line for each: one class alone, classes without val images, names that differ only by case, numbers in
    text order.
    """
    names = [entry.wnid for entry in plan.classes]
    if len(names) == 1:
        yield f"only one class, {names[0]}: training needs at least two"
    for split in plan.splits:
        missing = sorted(set(range(len(names))) - set(np.unique(split.labels).tolist()))
        if split.name != "train" and missing and plan.parent is None:
            classes = plural(len(missing), "class")
            yield f"{split.name}: no image of {classes}: {first_few([names[index] for index in missing])}"
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[name.casefold()].append(name)
    for same in (same for same in alike.values() if len(same) > 1):
        yield f"classes that differ only by case: {first_few(same)}"
    if all(name.isdecimal() for name in names) and names != sorted(names, key=int):
        index = next(k for k, name in enumerate(sorted(names, key=int)) if name != names[k])
        yield f"class folders are numbers, but sorted as text: class index {index} is folder {names[index]}"
