"""Finds a network inside what wraps it: names that Lightning, torch.compile, DDP or an average put before its own."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.naming import SCHEMES

# Names of attributes under which programs keep the network that they train.
_WORD = r"(?:module|_orig_mod|model|net|network|backbone|encoder|classifier|timm_model|student|teacher)"
_AVERAGE = r"(?:ema|ema_model|model_ema|averaged_model|average|shadow)"
_WRAPPER = re.compile(rf"(?:{_WORD}\.|{_AVERAGE}\.)+")
_TOWER = "visual.trunk."  # OpenCLIP's image tower, which is no wrapper: text tower and projection stand beside it
_STEM = "downsample_layers.0.0.weight"

Tensors = Mapping[str, np.ndarray]


def unwrap(tensors: Tensors, what: str, use: str | None = None) -> tuple[Tensors, str]:
    """Return the tensors of the network without the names that wrap it, and these ("model._orig_mod.", or "").

    Of two copies (`named_sets`), `use` chooses the average ("ema", also without a choice) or the weights as trained
    ("raw"). Counters beside the network are left out. Raises ModelError, starting with `what`, for several networks of
    another kind.
    """
    found = sorted(_wrappers(tensors))
    if not found or found == [""]:
        return tensors, ""
    averages = [prefix for prefix in found if re.search(_AVERAGE, prefix)]
    others = [prefix for prefix in found if prefix not in averages]
    candidates = (averages if averages and use != "raw" else others) or found
    if len(candidates) > 1:
        listed = ", ".join(repr(prefix) for prefix in candidates)
        raise ModelError(f"{what}: holds several networks, with names that begin with {listed}; save only one of them")
    prefix = candidates[0]
    left = {name: array for name, array in tensors.items() if not any(name.startswith(p) for p in found if p)}
    rest = {name: array for name, array in left.items() if array.size > 1 or prefix == ""}
    if prefix == "":  # the network itself, with its average beside it
        return rest, prefix
    return {
        name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)
    } | rest, prefix


def named_sets(names: Iterable[str]) -> frozenset[str]:
    """Return which weights of a network the names tell of: "raw" (as trained), "ema" (an average), both or none."""
    return frozenset("ema" if re.search(_AVERAGE, prefix) else "raw" for prefix in _wrappers(names))


def _wrappers(names: Iterable[str]) -> set[str]:
    """Return what stands before the names of each network among the names."""
    bare = {scheme.theirs(_STEM).removeprefix(scheme.prefixes[0]) for scheme in SCHEMES}
    stems = bare | {_TOWER + stem for stem in bare}
    found = set()
    for name in names:
        ends = [stem for stem in stems if name == stem or name.endswith(f".{stem}")]
        if ends:
            prefix = name.removesuffix(max(ends, key=len))
            if prefix == "" or _WRAPPER.fullmatch(prefix):
                found.add(prefix)
    return found
