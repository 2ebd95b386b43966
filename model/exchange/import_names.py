"""Recognises another program's tensors and translates them to our names. Every tensor is used, ignored or an error."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from convnext_imagenet.model.blocks import STEM_SIZE
from convnext_imagenet.model.convnext import STAGES, VARIANTS, ConvNeXtConfig, init_parameters, parameter_shapes
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.foreign_network import CONFIG_FILE, Stated
from convnext_imagenet.model.exchange.naming import SCHEMES, Scheme, import_arrays
from convnext_imagenet.model.layers import DEPTHWISE_SIZE
from convnext_imagenet.model.weight_check import describe, known_variant

UNNAMED = "convnext_unnamed"  # the variant of a network that is not in VARIANTS
_LISTED = 8  # names of each kind that a message quotes
_HEAD = ("head.weight", "head.bias")
_CLIP_WIDTHS = (512, 640, 768, 1024)  # of the embeddings of CLIP ConvNeXts, whose projection timm gives a bias of zeros
_NORM = ("norm.weight", "norm.bias")
NOTHING_STATED = Stated()
_NEW_HEAD_SEED = 0  # fixed, so that the same import gives the same bytes

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Translation:
    """A network's parameters by our names, float32; `ignored` counts the tensors that belong to something else.

    `outputs` is the number of outputs of the file's own classifier, None without one. `is_head_new` means that the
    classifier is drawn at random, not read; `remarks` tell a user what was left out or added.
    """

    scheme: Scheme
    config: ConvNeXtConfig
    arrays: Arrays
    ignored: int
    outputs: int | None
    is_head_new: bool = False
    remarks: tuple[str, ...] = ()


def recognise_scheme(names: Iterable[str], what: str, wanted: str | None = None) -> Scheme:
    """Return the scheme that most of the names follow; `wanted` is the one that the user expects.

    Raises ModelError, starting with `what`, for names that no ConvNeXt has, and for another scheme than `wanted`.
    """
    names = list(names)
    if sparse := next((name for name in names if re.search(r"\.kernel$|^mask_token$|^decoder\.", name)), None):
        raise ModelError(
            f"{what}: a pre-training checkpoint of ConvNeXt V2 (FCMAE: it holds {sparse}), with another layout and no "
            f"classifier; give fine-tuned weights, or dense ones (as timm has)"
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


def translate(
    tensors: Arrays, scheme: Scheme, what: str, new_head: int | None = None, stated: Stated = NOTHING_STATED
) -> Translation:
    """Return the network in `tensors`, which have `scheme`'s names: all parameters by our names, float32.

    `new_head` is a number of classes: then the classifier is drawn at random, and the file's own is ignored; 0 leaves
    it out. A projection is left out, too. A file without a classifier becomes a network without one; without its last
    norm (FCMAE) this gets weight 1 and bias 0. `stated` holds what names and shapes do not tell. Raises ModelError,
    starting with `what` and listing the file's names, for a tensor that is missing, unknown, of another shape, not a
    float, or not finite, and for another network than the stated one.
    """
    ours, others = import_arrays(tensors, scheme)
    _refuse_other_layouts(ours, others, scheme, what)
    outputs = _head_outputs(ours)
    ignored = {name for name in others if _belongs_elsewhere(name, tensors[name], scheme)}
    remarks = []
    if new_head is None and (why := _no_classifier(ours, outputs, stated)):
        new_head = 0
        remarks.append(why)
    if stated.has_hidden_head and not any(name.startswith("head.pre_logits.") for name in others):
        raise ModelError(
            f"{what}: its head has one layer, but {CONFIG_FILE} beside it states a hidden layer; put the file with its "
            f"own {CONFIG_FILE} into a folder, or alone"
        )
    if stated.outputs not in (None, 0, outputs) and outputs:
        raise ModelError(
            f"{what}: its classifier has {outputs} outputs, but {CONFIG_FILE} beside it states {stated.outputs}; put "
            f"the file with its own {CONFIG_FILE} into a folder, or alone"
        )
    if new_head is not None:
        ignored |= _head_names(ours, others, scheme)
        ours = {name: array for name, array in ours.items() if name not in _HEAD}
    config = _infer_config(ours, scheme, what, (new_head if new_head is not None else outputs) or 0)
    config = stated.applied_to(config, scheme, what)
    if new_head:
        ours |= _new_head(config)
    if not config.num_classes or new_head:
        ours, added = _with_norm(ours, config)
        remarks += added
    _check(ours, [name for name in others if name not in ignored], scheme, config, what)
    arrays = {name: _as_float32(name, ours[name], what) for name in parameter_shapes(config)}
    return Translation(scheme, config, arrays, len(ignored), outputs, bool(new_head), tuple(remarks))


def _no_classifier(ours: Arrays, outputs: int | None, stated: Stated) -> str | None:
    """Return why the file has no classifier, as a remark; None if it has one."""
    if outputs is None:
        return "the file has no classifier: a network of features"
    bias = ours.get(_HEAD[1])
    if bias is not None and bias.any():  # no projection has one, so CLIP was fine-tuned to a classifier
        return None
    if stated.is_projection:
        return f"its head of {outputs} outputs is the projection of CLIP, no classifier: left out"
    if bias is not None and outputs in _CLIP_WIDTHS:
        return f"its head of {outputs} outputs has a bias of zeros, as CLIP's projection has, no classifier: left out"
    return None


def _refuse_other_layouts(ours: Arrays, others: Iterable[str], scheme: Scheme, what: str) -> None:
    """Raise ModelError for timm's networks that compute something else: other norms, stems, heads or kernels."""
    others = set(others)
    if scheme.name not in ("timm", "openclip"):
        return
    stem = ours.get("downsample_layers.0.0.weight")
    depthwise = [a.shape[2:] for name, a in ours.items() if name.endswith(".dwconv.weight")]
    kinds = {
        "_ols, a stem of overlapping patches": stem is not None and stem.shape[2:] != (STEM_SIZE, STEM_SIZE),
        "_rms, norms without a mean (RMSNorm)": "downsample_layers.1.0.weight" in ours
        and "downsample_layers.1.0.bias" not in ours
        and not any(name.endswith(".norm.bias") for name in ours),
        "_hnf, the last norm before pooling": bool({"norm_pre.weight", "visual.trunk.norm_pre.weight"} & others),
        "other depthwise kernels than 7 x 7": any(shape != (DEPTHWISE_SIZE, DEPTHWISE_SIZE) for shape in depthwise),
    }
    if found := next((kind for kind, is_there in kinds.items() if is_there), None):
        raise ModelError(f"{what}: another network than ConvNeXt: {found}; give another variant")


def _with_norm(ours: Arrays, config: ConvNeXtConfig) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the parameters with the last norm; if the file has none of it, weight 1 and bias 0, and a remark."""
    if any(name in ours for name in _NORM):
        return dict(ours), []
    width = config.dims[-1]
    norm = {"norm.weight": np.ones(width, np.float32), "norm.bias": np.zeros(width, np.float32)}
    return {**ours, **norm}, ["the file has no last norm: it gets weight 1 and bias 0, as in timm"]


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


def _new_head(config: ConvNeXtConfig) -> dict[str, np.ndarray]:
    """Return initial values of the classifier."""
    fresh = init_parameters(config, _NEW_HEAD_SEED)
    return {name: fresh[name] for name in _HEAD}


def _infer_config(ours: Arrays, scheme: Scheme, what: str, classes: int) -> ConvNeXtConfig:
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
    config = ConvNeXtConfig(
        variant=UNNAMED,
        depths=tuple(max(numbers) + 1 for numbers in blocks),
        dims=tuple(dims),
        grn=any(".grn." in name for name in ours),
        num_classes=classes,
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
        has_hidden_layer = any(name.startswith("head.pre_logits.") for name in extra)
        raise ModelError(
            f"{what}: most of its names are {scheme.title} names of {describe(config)}, but of {len(shapes)} "
            f"parameters {', '.join(faults)}; give the whole weights of one network and nothing else"
            f"{', or leave out its head of two layers by --no-head' if has_hidden_layer else ''}"
        )


def _as_float32(name: str, array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise ModelError(f"{what}: {name} is {array.dtype}; give weights of float16, bfloat16, float32 or float64")
    if not np.isfinite(array).all():
        raise ModelError(f"{what}: {name} holds NaN or infinity, so its training diverged; give another checkpoint")
    with np.errstate(over="ignore"):  # refused below
        values = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ModelError(f"{what}: {name} holds float64 values that float32 cannot hold; give another checkpoint")
    return values


def _quote(names: Iterable[str], most: int) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
