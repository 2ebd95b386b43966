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
    """A network's parameters by our names, float32; `ignored` counts the tensors that belong to something else.

    `outputs` are those of the file's own classifier, None where it has none; `is_head_new` means that the classifier
    here is drawn, not read.
    """

    scheme: Scheme
    config: ConvNeXtConfig
    arrays: Arrays
    ignored: int
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
            f"{what}: not a ConvNeXt by the names known here ({known}); it holds {_quote(names, 3) or 'no tensors'}"
        )
    if wanted not in (None, scheme.name):
        raise ModelError(f"{what}: its names are {scheme.title}, not those of {wanted}; leave --from out")
    return scheme


def translate(tensors: Arrays, scheme: Scheme, what: str, new_head: int | None = None) -> Translation:
    """Return the parameters that `tensors` are under `scheme`'s names, complete and float32.

    `new_head` is a count of classes: the classifier, and the norm before it where it is missing, are then drawn anew,
    and the file's own is ignored. Raises ModelError, starting with `what` and listing names as the file has them,
    when one is missing, too many, of another shape, no float, or not finite.
    """
    ours, others = import_arrays(tensors, scheme)
    outputs = _head_outputs(ours)
    ignored = {name for name in others if _belongs_elsewhere(name, tensors[name], scheme)}
    if new_head:
        ignored |= _head_names(ours, others, scheme)
        ours = {name: array for name, array in ours.items() if name not in _HEAD}
    config = _infer_config(ours, scheme, what, new_head or outputs)
    if new_head:
        ours |= _new_head(ours, config)
    _check(ours, [name for name in others if name not in ignored], scheme, config, what)
    arrays = {name: _as_float32(name, ours[name], what) for name in parameter_shapes(config)}
    return Translation(scheme, config, arrays, len(ignored), outputs, is_head_new=new_head is not None)


def _belongs_elsewhere(name: str, array: np.ndarray, scheme: Scheme) -> bool:
    if re.fullmatch(scheme.ignored_names, name):
        return True
    is_mindspore = scheme.norm_leaves == ("gamma", "beta")
    return is_mindspore and array.size == 1  # learning_rate, global_step, scale_sense, ...


def _head_outputs(ours: Arrays) -> int | None:
    """Return how many outputs the file's own classifier has; None where there is none."""
    return next((ours[name].shape[0] for name in _HEAD if name in ours and ours[name].ndim), None)


def _head_names(ours: Arrays, others: Iterable[str], scheme: Scheme) -> set[str]:
    """Return the names that the file has for its classifier, and for what stands beside that (timm's pre_logits)."""
    return {scheme.theirs(name) for name in _HEAD if name in ours} | {n for n in others if n.startswith("head.")}


def _new_head(ours: Arrays, config: ConvNeXtConfig) -> dict[str, np.ndarray]:
    """Return first values of the classifier, and of the norm before it where the file has none."""
    drawn = _HEAD if any(name in ours for name in _NORM) else (*_HEAD, *_NORM)
    fresh = init_parameters(config, _NEW_HEAD_SEED)
    return {name: fresh[name] for name in drawn}


def _infer_config(ours: Arrays, scheme: Scheme, what: str, classes: int | None) -> ConvNeXtConfig:
    """Return the network by names and shapes: depths by the highest block, dims by the first block's biases."""
    blocks: list[set[int]] = [set() for _ in range(STAGES)]
    for name in ours:
        if match := re.match(r"stages\.(\d)\.(\d+)\.", name):
            blocks[int(match[1])].add(int(match[2]))
    dims = [_stage_width(ours, stage) for stage in range(STAGES)]
    if not all(blocks) or not all(dims):
        stage = next(s for s in range(STAGES) if not blocks[s] or not dims[s])
        raise ModelError(f"{what}: has no first block in stage {stage} of {STAGES}; the file holds part of a network")
    if not classes:
        raise ModelError(
            f"{what}: has no classifier ({scheme.prefixes[0]}... ends in features); give weights that were trained on "
            f"classes, or pass --fresh-head and --classes for a new one to be fine-tuned"
        )
    config = ConvNeXtConfig(
        variant=UNNAMED,
        depths=tuple(max(numbers) + 1 for numbers in blocks),
        dims=tuple(dims),
        grn=any(".grn." in name for name in ours),
        num_classes=classes,
    )
    if config.dims == _XXLARGE_DIMS:
        raise ModelError(
            f"{what}: ConvNeXt-XXLarge normalises with epsilon 1e-5, the networks here with 1e-6; not read"
        )
    variant = known_variant(config)
    return config if variant is None else replace(VARIANTS[variant], num_classes=classes)


def _stage_width(ours: Arrays, stage: int) -> int:
    """Return the channels of a stage by its first block; 0 where both biases are missing."""
    biases = (f"stages.{stage}.0.norm.bias", f"stages.{stage}.0.dwconv.bias")
    return next((ours[name].size for name in biases if name in ours), 0)


def _check(ours: Arrays, extra: list[str], scheme: Scheme, config: ConvNeXtConfig, what: str) -> None:
    shapes = parameter_shapes(config)
    missing = [scheme.theirs(name) for name in shapes if name not in ours]
    extra = extra + [scheme.theirs(name) for name in ours if name not in shapes]
    misshapen = [
        f"{scheme.theirs(name)} {ours[name].shape} instead of {scheme.their_shape(name, shape, config)}"
        for name, shape in shapes.items()
        if name in ours and ours[name].shape != shape
    ]
    faults = [
        f"{len(names)} {kind} ({_quote(names, _LISTED)})"
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


def _quote(names: Iterable[str], most: int) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
