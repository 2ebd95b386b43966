"""The C++ sources: what a file includes lies below it."""

import re
from graphlib import TopologicalSorter

from convnext_imagenet.model.kernels.build import SOURCES


def test_no_sources_include_each_other_in_a_circle():
    """A header and the file that defines what it declares are one node; CycleError names the nodes of a circle."""
    arrows: dict[str, set[str]] = {}
    for path in (*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")):
        included = re.findall(r'#include "(\w+)\.h"', path.read_text())
        arrows.setdefault(path.stem, set()).update(set(included) - {path.stem})
    assert "simd" in arrows["depthwise"], "the search must see includes"
    assert set(TopologicalSorter(arrows).static_order()) == arrows.keys()
