"""Checks that arrays are a network's parameters; if they are not, finds the network that they belong to."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from convnext_imagenet.base.wording import plural
from convnext_imagenet.model.convnext import STAGES, VARIANTS, ConvNeXtConfig, Shape, parameter_shapes
from convnext_imagenet.model.errors import ModelError

_LISTED = 3  # names that a message quotes


def check_shapes(arrays: Mapping[str, np.ndarray], config: ConvNeXtConfig, what: str) -> None:
    """Raise ModelError, starting with `what`, unless the arrays are exactly the parameters of `config`, float32.

    If the arrays are another network, the message names it. Otherwise it lists what is missing, what is extra, what has
    another shape, and what has another type.
    """
    expected = parameter_shapes(config)
    faults = shape_faults({name: tuple(array.shape) for name, array in arrays.items()}, expected)
    other_network = recognise(arrays) if faults else None
    if other_network is not None:
        raise ModelError(
            f"{what}: these are weights of {describe(other_network)}, but the network is {describe(config)}; "
            f"use weights of {describe(config)}, or set model.variant and model.num_classes to those of the weights"
        )
    mistyped = [f"{name} {array.dtype}" for name, array in arrays.items() if array.dtype != np.float32]
    faults += [f"{len(mistyped)} not float32 ({_quote(mistyped)})"] if mistyped else []
    if faults:
        raise ModelError(
            f"{what}: {', '.join(faults)}, of {len(expected)} parameters of {describe(config)}; "
            f"use weights of that network"
        )


def not_finite(arrays: Mapping[str, np.ndarray]) -> str | None:
    """Return the name of the first array with NaN or infinity, in the order of names, or None."""
    return next((name for name in sorted(arrays) if not np.isfinite(arrays[name]).all()), None)


def check_finite(arrays: Mapping[str, np.ndarray], what: str, way_out: str) -> None:
    """Raise ModelError, starting with `what`, when a parameter holds NaN or infinity: no answer could be right."""
    if (name := not_finite(arrays)) is not None:
        bad = int(np.size(arrays[name]) - np.count_nonzero(np.isfinite(arrays[name])))
        raise ModelError(f"{what}: {name} has {bad} values of {arrays[name].size} that are not finite; {way_out}")


def shape_faults(shapes: Mapping[str, Shape], expected: Mapping[str, Shape]) -> list[str]:
    """Return what is missing, extra or of another shape than expected: for each, a count and the first names."""
    kinds = {
        "missing": [name for name in expected if name not in shapes],
        "extra": [name for name in shapes if name not in expected],
        "of another shape": [
            f"{name} {shapes[name]} instead of {shape}"
            for name, shape in expected.items()
            if shapes.get(name, shape) != shape
        ],
    }
    return [f"{len(names)} {kind} ({_quote(names)})" for kind, names in kinds.items() if names]


def recognise(arrays: Mapping[str, np.ndarray]) -> ConvNeXtConfig | None:
    """Return the network whose parameters these are, by names and shapes only; None if no network has just these."""
    blocks = Counter(match[1] for name in arrays if (match := re.fullmatch(r"stages\.(\d)\.\d+\.norm\.bias", name)))
    try:
        config = ConvNeXtConfig(
            variant="",
            depths=tuple(blocks[str(stage)] for stage in range(STAGES)),
            dims=tuple(arrays[f"stages.{stage}.0.norm.bias"].size for stage in range(STAGES)),
            grn="stages.0.0.grn.gamma" in arrays,
            num_classes=arrays["head.bias"].size if "head.bias" in arrays else 0,
            head_projection=_projection_widths(arrays),
        )
    except (KeyError, ModelError):
        return None
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    return config if shapes == parameter_shapes(config) else None


def _projection_widths(arrays: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    names = (f"head.projection.{index}.bias" for index in itertools.count())
    return tuple(arrays[name].size for name in itertools.takewhile(arrays.__contains__, names))


def describe(config: ConvNeXtConfig) -> str:
    """Return the network in words: the variant's name, or depths and dims of an unknown one, and the classes."""
    name = (
        known_variant(config) or f"ConvNeXt {'V2' if config.grn else 'V1'} (depths {config.depths}, dims {config.dims})"
    )
    if not config.num_classes:
        return f"{name} without a head"
    compared = f" by embeddings of {config.head_projection[-1]}" if config.head_projection else ""
    return f"{name} with {plural(config.num_classes, 'class')}{compared}"


def known_variant(config: ConvNeXtConfig) -> str | None:
    """Return the variant with the same depths, dims and version (V1 or V2), or None."""
    return next((name for name, known in VARIANTS.items() if _architecture(known) == _architecture(config)), None)


def _architecture(config: ConvNeXtConfig) -> tuple:
    return config.depths, config.dims, config.grn


def _quote(names: Iterable[str]) -> str:
    names = list(names)
    listed = ", ".join(names[:_LISTED])
    return listed if len(names) <= _LISTED else f"{listed} and {len(names) - _LISTED} more"
