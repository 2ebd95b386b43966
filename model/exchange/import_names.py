"""Whose tensors these are, and the network that they make under our names: every tensor is accounted for."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from convnext_imagenet.model.convnext import STAGES, VARIANTS, ConvNeXtConfig, init_parameters, parameter_shapes
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.naming import SCHEMES, Scheme, import_arrays
from convnext_imagenet.model.weight_check import describe, known_variant

UNNAMED = "convnext_unnamed"  # the variant of a network that is in no table
_LISTED = 8  # names of each kind that a message quotes
_XXLARGE_DIMS = (384, 768, 1536, 3072)
_HEAD = ("head.weight", "head.bias")
_NORM = ("norm.weight", "norm.bias")
_NEW_HEAD_SEED = 0

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Translation:
    """A network's parameters by our names, float32; `aside` counts the tensors that belong to something else.

    `outputs` are those of the file's own classifier, None where it has none; `is_head_new` tells that the classifier
    here is drawn, not read.
    """

    scheme: Scheme
    config: ConvNeXtConfig
    arrays: Arrays
    aside: int
    outputs: int | None
    is_head_new: bool = False


def recognise_scheme(names: Iterable[str], what: str, wanted: str | None = None) -> Scheme:
    """The scheme that most of the names follow; `wanted` is the one that the user expects.

    Raises ModelError, starting with `what`, for names that are no ConvNeXt's, or another scheme's than wanted.
    """
    names = list(names)
    if sparse := next((name for name in names if re.search(r"\.kernel$|^mask_token$|^decoder\.", name)), None):
        raise ModelError(
            f"{what}: a pre-training checkpoint of ConvNeXt V2 (FCMAE: it holds {sparse}), whose layout is another and "
            f"which classifies nothing; give fine-tuned weights"
        )
    scheme = max(SCHEMES, key=lambda scheme: sum(scheme.ours(name) is not None for name in names))
    if not any(scheme.ours(name) == "downsample_layers.0.0.weight" for name in names):
        known = ", ".join(dict.fromkeys(scheme.name for scheme in SCHEMES))
        raise ModelError(
            f"{what}: not a ConvNeXt by the names known here ({known}); it holds {_some(names, 3) or 'no tensors'}"
        )
    if wanted not in (None, scheme.name):
        raise ModelError(f"{what}: its names are {scheme.title}, not those of {wanted}; leave --from out")
    return scheme


def translate(tensors: Arrays, scheme: Scheme, what: str, new_head: int | None = None) -> Translation:
    """The parameters that `tensors` are under `scheme`'s names, complete and float32.

    `new_head` is a count of classes: the classifier, and the norm before it where it is missing, are then drawn anew,
    and the file's own is left aside. Raises ModelError, starting with `what` and listing names as the file has them,
    when one is missing, too many, of another shape, no float, or not finite.
    """
    found, others = import_arrays(tensors, scheme)
    outputs = next((found[name].shape[0] for name in _HEAD if name in found and found[name].ndim), None)
    aside = [name for name in others if _belongs_elsewhere(name, tensors[name], scheme)]
    aside += [scheme.theirs(name) for name in _HEAD if new_head and found.pop(name, None) is not None]
    config = _infer_config(found, scheme, what, new_head)
    if new_head:
        fresh = init_parameters(config, _NEW_HEAD_SEED)
        drawn = _HEAD if any(name in found for name in _NORM) else (*_HEAD, *_NORM)
        found |= {name: fresh[name] for name in drawn}
    extra = [name for name in others if name not in aside]
    if new_head:
        kept = [name for name in extra if not name.startswith("head.")]  # such as timm's head.pre_logits
        aside, extra = aside + [name for name in extra if name not in kept], kept
    _check(found, extra, scheme, config, what)
    arrays = {name: _as_float32(name, found[name], what) for name in parameter_shapes(config)}
    return Translation(scheme, config, arrays, len(aside), outputs, is_head_new=new_head is not None)


def _belongs_elsewhere(name: str, array: np.ndarray, scheme: Scheme) -> bool:
    if re.fullmatch(scheme.aside, name):
        return True
    is_mindspore = scheme.norm_leaves == ("gamma", "beta")
    return is_mindspore and array.size == 1  # learning_rate, global_step, scale_sense, ...


def _infer_config(found: Arrays, scheme: Scheme, what: str, new_head: int | None) -> ConvNeXtConfig:
    """The network by names and shapes: depths by the highest block, dims by the depthwise biases."""
    blocks = [set[int](), set[int](), set[int](), set[int]()]
    for name in found:
        if match := re.match(r"stages\.(\d)\.(\d+)\.", name):
            blocks[int(match[1])].add(int(match[2]))
    dims = [next((found[n].size for n in (f"stages.{s}.0.norm.bias", f"stages.{s}.0.dwconv.bias") if n in found), 0)
            for s in range(STAGES)]  # fmt: skip
    if not all(blocks) or not all(dims):
        stage = next(s for s in range(STAGES) if not blocks[s] or not dims[s])
        raise ModelError(f"{what}: has no first block in stage {stage} of {STAGES}; the file holds part of a network")
    classes = new_head or next((found[name].shape[0] for name in _HEAD if name in found and found[name].ndim), 0)
    if not classes:
        raise ModelError(
            f"{what}: has no classifier ({scheme.prefixes[0]}... ends in features); give weights that were trained on "
            f"classes, or pass --fresh-head and --classes for a new one to be fine-tuned"
        )
    config = ConvNeXtConfig(
        variant=UNNAMED,
        depths=tuple(max(numbers) + 1 for numbers in blocks),
        dims=tuple(dims),
        grn=any(".grn." in name for name in found),
        num_classes=classes,
    )
    if config.dims == _XXLARGE_DIMS:
        raise ModelError(
            f"{what}: ConvNeXt-XXLarge normalises with epsilon 1e-5, the networks here with 1e-6; not read"
        )
    variant = known_variant(config)
    return config if variant is None else replace(VARIANTS[variant], num_classes=classes)


def _check(found: Arrays, extra: list[str], scheme: Scheme, config: ConvNeXtConfig, what: str) -> None:
    shapes = parameter_shapes(config)
    missing = [scheme.theirs(name) for name in shapes if name not in found]
    extra = extra + [scheme.theirs(name) for name in found if name not in shapes]
    misshapen = [
        f"{scheme.theirs(name)} {found[name].shape} instead of {scheme.their_shape(name, shape, config)}"
        for name, shape in shapes.items()
        if name in found and found[name].shape != shape
    ]
    faults = [
        f"{len(names)} {kind} ({_some(names, _LISTED)})"
        for kind, names in (("missing", missing), ("too many", extra), ("of another shape", misshapen))
        if names
    ]
    if faults:
        raise ModelError(
            f"{what}: by most of its names {describe(config)} in {scheme.title} names, but of {len(shapes)} parameters "
            f"{', '.join(faults)}; give whole weights of that network alone"
        )


def _as_float32(name: str, array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise ModelError(f"{what}: {name} is {array.dtype}; weights are float16, bfloat16, float32 or float64")
    values = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ModelError(f"{what}: {name} holds values that are not finite; the training that made them had failed")
    return values


def _some(names: Iterable[str], most: int) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
