"""Recognises another program's tensors and translates them to our names. Every tensor is used, ignored or an error."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from convnext_imagenet.model.convnext import STAGES, VARIANTS, ConvNeXtConfig, init_parameters, parameter_shapes
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.naming import SCHEMES, Scheme, import_arrays
from convnext_imagenet.model.weight_check import describe, known_variant

UNNAMED = "convnext_unnamed"  # the variant of a network that is not in VARIANTS
_LISTED = 8  # names of each kind that a message quotes
_XXLARGE_DIMS = (384, 768, 1536, 3072)  # OpenCLIP's and timm's xxlarge, whose LayerNorms have another epsilon
_HEAD = ("head.weight", "head.bias")
_NORM = ("norm.weight", "norm.bias")
_NEW_HEAD_SEED = 0  # fixed, so that the same import gives the same bytes

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Translation:
    """A network's parameters by our names, float32; `ignored` counts the tensors that belong to something else.

    `outputs` is the number of outputs of the file's own classifier, None without one. `is_head_new` means that the
    classifier is drawn at random, not read.
    """

    scheme: Scheme
    config: ConvNeXtConfig
    arrays: Arrays
    ignored: int
    outputs: int | None
    is_head_new: bool = False


def recognise_scheme(names: Iterable[str], what: str, wanted: str | None = None) -> Scheme:
    """Return the scheme that most of the names follow; `wanted` is the one that the user expects.

    Raises ModelError, starting with `what`, for names that no ConvNeXt has, and for another scheme than `wanted`.
    """
    names = list(names)
    if sparse := next((name for name in names if re.search(r"\.kernel$|^mask_token$|^decoder\.", name)), None):
        raise ModelError(
            f"{what}: a pre-training checkpoint of ConvNeXt V2 (FCMAE: it holds {sparse}), with another layout and no "
            f"classifier; give fine-tuned weights, or dense ones (as timm has) with --fresh-head and --classes"
        )
    scheme = max(SCHEMES, key=lambda scheme: sum(scheme.ours(name) is not None for name in names))
    if not any(scheme.ours(name) == "downsample_layers.0.0.weight" for name in names):
        known = ", ".join(dict.fromkeys(scheme.name for scheme in SCHEMES))
        raise ModelError(
            f"{what}: not a ConvNeXt with names of {known}; it holds {_quote(names, 3) or 'no tensors'}; give the "
            f"weights of a ConvNeXt"
        )
    if wanted not in (None, scheme.name):
        raise ModelError(f"{what}: its names are {scheme.title}, not those of {wanted}; leave out --from")
    return scheme


def translate(tensors: Arrays, scheme: Scheme, what: str, new_head: int | None = None) -> Translation:
    """Return the network in `tensors`, which have `scheme`'s names: all parameters by our names, float32.

    `new_head` is a number of classes: then the classifier, and a missing norm before it, are drawn at random, and the
    file's own classifier is ignored. Raises ModelError, starting with `what` and listing the file's names, for a tensor
    that is missing, unknown, of another shape, not a float, or not finite.
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
    """Return the number of outputs of the file's own classifier; None without one."""
    return next((ours[name].shape[0] for name in _HEAD if name in ours and ours[name].ndim), None)


def _head_names(ours: Arrays, others: Iterable[str], scheme: Scheme) -> set[str]:
    """Return the file's names of its classifier, and of tensors beside it (timm's pre_logits)."""
    return {scheme.theirs(name) for name in _HEAD if name in ours} | {n for n in others if n.startswith("head.")}


def _new_head(ours: Arrays, config: ConvNeXtConfig) -> dict[str, np.ndarray]:
    """Return initial values of the classifier, and of the norm before it if the file has none."""
    drawn = _HEAD if any(name in ours for name in _NORM) else (*_HEAD, *_NORM)
    fresh = init_parameters(config, _NEW_HEAD_SEED)
    return {name: fresh[name] for name in drawn}


def _infer_config(ours: Arrays, scheme: Scheme, what: str, classes: int | None) -> ConvNeXtConfig:
    """Return the network that names and shapes imply: depths from the highest block, dims from the first block."""
    blocks: list[set[int]] = [set() for _ in range(STAGES)]
    for name in ours:
        if match := re.match(r"stages\.(\d)\.(\d+)\.", name):
            blocks[int(match[1])].add(int(match[2]))
    dims = [_stage_width(ours, stage) for stage in range(STAGES)]
    if not all(blocks) or not all(dims):
        stage = next(s for s in range(STAGES) if not blocks[s] or not dims[s])
        raise ModelError(
            f"{what}: has no first block in stage {stage} of 0 to {STAGES - 1}, so it is only part of a network; "
            f"give whole weights"
        )
    if not classes:
        raise ModelError(
            f"{what}: has no classifier (its last tensors are features); give weights with a classifier, or pass "
            f"--fresh-head and --classes for a new one to be fine-tuned"
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
            f"{what}: ConvNeXt-XXLarge is not supported: its LayerNorms have epsilon 1e-5, ours have 1e-6; give "
            f"another variant"
        )
    variant = known_variant(config)
    return config if variant is None else replace(VARIANTS[variant], num_classes=classes)


def _stage_width(ours: Arrays, stage: int) -> int:
    """Return the channels of a stage by its first block; 0 if both biases are missing."""
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
        for kind, names in (("missing", missing), ("unknown", extra), ("of another shape", misshapen))
        if names
    ]
    if faults:
        raise ModelError(
            f"{what}: most of its names are {scheme.title} names of {describe(config)}, but of {len(shapes)} "
            f"parameters {', '.join(faults)}; give the whole weights of one network and nothing else"
        )


def _as_float32(name: str, array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise ModelError(f"{what}: {name} is {array.dtype}; give weights of float16, bfloat16, float32 or float64")
    values = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ModelError(f"{what}: {name} holds NaN or infinity, so its training diverged; give another checkpoint")
    return values


def _quote(names: Iterable[str], most: int) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
