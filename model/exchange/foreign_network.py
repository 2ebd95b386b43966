"""What another program computes with its tensors where names and shapes do not tell: epsilon, GELU, head.

It is stated by the `config.json` beside the weights, else by the program's own defaults. A configuration that states a
network which we would compute otherwise is refused. This file reads JSON and no tensors.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convnext_imagenet.model.convnext import STAGES, ConvNeXtConfig
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.naming import Scheme
from convnext_imagenet.model.variants import EPSILON, VARIANTS, Activation

CONFIG_FILE = "config.json"

# GELU by the name that timm and transformers give it; torch.nn.GELU is exact, `gelu_new` the tanh form.
_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_TRANSFORMERS_EPSILON = 1e-12  # the default of `layer_norm_eps` there, which only the last norm of V1 and V2 reads
_TIMM_EPSILON = 1e-5  # `norm_eps` of these architectures in timm 1.0.31
_TIMM_OTHERS: Mapping[str, tuple[float, str]] = {
    "convnext_xxlarge": (_TIMM_EPSILON, "gelu"),
    "test_convnext": (_TIMM_EPSILON, "gelu_tanh"),
    "test_convnext2": (_TIMM_EPSILON, "gelu_tanh"),
    "test_convnext3": (_TIMM_EPSILON, "silu"),
}
# (depths, dims) of these architectures, for a file without config.json
_TIMM_SHAPES: Mapping[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((3, 4, 30, 3), (384, 768, 1536, 3072)): "convnext_xxlarge",
    ((1, 2, 4, 2), (24, 32, 48, 64)): "test_convnext",
    ((1, 1, 1, 1), (32, 64, 96, 128)): "test_convnext2",
}
_KNOWN_SHAPES = {name: shape for shape, name in _TIMM_SHAPES.items()} | {
    name: (variant.depths, variant.dims) for name, variant in VARIANTS.items()
}
_MODEL_TYPES = {"transformers": ("convnext", "convnextv2"), "dinov3": ("dinov3_convnext",)}


@dataclass(frozen=True)
class Stated:
    """What is stated about a network: its functions, and what it must agree with, None where nothing is stated.

    `grn` means V2, which has no layer scale; `has_hidden_head` a head of two layers. `outputs` is the number of outputs
    of its head. `labels` are the names of its classes by index. `is_projection`:
    its head maps to an embedding, so that its outputs are no classes. `settings` is the JSON, empty without one.
    """

    norm_epsilon: float | None = None
    head_norm_epsilon: float | None = None
    activation: Activation | None = None
    depths: tuple[int, ...] | None = None
    dims: tuple[int, ...] | None = None
    grn: bool | None = None
    has_layer_scale: bool | None = None
    has_hidden_head: bool = False
    outputs: int | None = None
    labels: tuple[str, ...] | None = None
    is_projection: bool = False
    settings: Mapping[str, Any] | None = None

    def applied_to(self, config: ConvNeXtConfig, scheme: Scheme, what: str) -> ConvNeXtConfig:
        """Return the network of a file's tensors with the functions that its program computes.

        Raises ModelError, starting with `what`, when the tensors are another network than the stated one.
        """
        for name in ("depths", "dims"):
            stated, found = getattr(self, name), getattr(config, name)
            if stated is not None and stated != found:
                raise ModelError(
                    f"{what}: its {name} are {found}, but {CONFIG_FILE} beside it states {stated}; put the file with "
                    f"its own {CONFIG_FILE} into a folder, or alone"
                )
        for name, claim, holds in (
            ("global response normalisation (V2)", self.grn, config.grn),
            ("layer scale (V1)", self.has_layer_scale, not config.grn),
        ):
            if claim is not None and claim != holds:
                raise ModelError(
                    f"{what}: has {'' if holds else 'no '}{name}, but {CONFIG_FILE} beside it states a network "
                    f"{'with' if claim else 'without'} it; put the file with its own {CONFIG_FILE} into a folder, or "
                    f"alone"
                )
        epsilon, head_epsilon, activation = self._functions(config, scheme)
        if activation not in ("gelu", "gelu_tanh"):
            raise ModelError(f"{what}: its activation is {activation}, ours is GELU; give another network")
        return replace(config, norm_epsilon=epsilon, head_norm_epsilon=head_epsilon, activation=activation)

    def _functions(self, config: ConvNeXtConfig, scheme: Scheme) -> tuple[float, float, Any]:
        epsilon: float = EPSILON
        activation: str = scheme.activation
        head_epsilon: float | None = None
        if scheme.name in ("timm", "openclip"):
            name = _TIMM_SHAPES.get((config.depths, config.dims), "") if not config.grn else ""
            epsilon, activation = _TIMM_OTHERS.get(name, (epsilon, activation))
        if scheme.name == "transformers":
            head_epsilon = _TRANSFORMERS_EPSILON
        epsilon = self.norm_epsilon or epsilon
        return epsilon, self.head_norm_epsilon or head_epsilon or epsilon, self.activation or activation


def read_stated(path: Path, scheme: Scheme) -> Stated:
    """Return what lies beside the weights in `path`, of the program `scheme`, and what their name states.

    Raises ModelError for a `config.json` that cannot be read, or states what we would compute otherwise.
    """
    is_named_clip = is_clip_projection(path.stem)
    readers: dict[str, Callable[[Mapping[str, Any]], Stated]] = {
        "timm": _from_timm,
        "transformers": _from_transformers,
        "dinov3": _from_transformers,
    }
    beside = path.parent / CONFIG_FILE
    if scheme.name not in readers or not beside.is_file():
        return Stated(is_projection=is_named_clip)
    try:
        settings = json.loads(beside.read_bytes())
        if not isinstance(settings, Mapping):
            raise ModelError("it holds no object")
        _check_model_type(settings, scheme.name)
        stated = readers[scheme.name](settings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ModelError) as error:
        reason = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
        raise ModelError(
            f"{beside}: states a network that is not supported ({reason}); give the weights of another, or move the "
            f"file away if it belongs to other weights"
        ) from error
    return replace(stated, is_projection=stated.is_projection or is_named_clip, settings=settings)


def is_clip(name: str) -> bool:
    """Return whether a name has CLIP as a word; that of a paperclip has not."""
    return re.search(r"(?<![a-z])(open_?)?clip(?![a-z])", name.lower()) is not None


def is_clip_projection(name: str) -> bool:
    """Return whether a name in timm's form is that of a CLIP tower whose head is the projection to the embedding."""
    return is_clip(name) and "clip_" in name.lower() and "_ft_in" not in name.lower()


def _check_model_type(settings: Mapping[str, Any], scheme: str) -> None:
    known = _MODEL_TYPES.get(scheme)
    kind = settings.get("model_type")
    if kind is not None and known is not None and kind not in known:
        raise ModelError(f"model_type is {kind!r}, not {' or '.join(known)}")


def _from_timm(config: Mapping[str, Any]) -> Stated:
    arguments = dict(config.get("model_args") or {})
    pretrained = config.get("pretrained_cfg", config)
    architecture = str(config.get("architecture") or pretrained.get("architecture") or "")
    epsilon, activation = _TIMM_OTHERS.get(architecture, (None, None))
    activation = arguments.get("act_layer") or activation
    if architecture and "convnext" not in architecture:
        raise ModelError(f"architecture is {architecture!r}, no ConvNeXt")
    known = _KNOWN_SHAPES.get(architecture, (None, None))
    _check(_TIMM_RULES, arguments, "model_args")
    _check({"global_pool": _TIMM_RULES["global_pool"]}, config, CONFIG_FILE)
    return Stated(
        norm_epsilon=_epsilon(arguments.get("norm_eps", epsilon)),
        activation=None if activation is None else _activation(activation),
        depths=_numbers(arguments.get("depths", known[0])),
        dims=_numbers(arguments.get("dims", known[1])),
        grn=arguments.get("use_grn", architecture.startswith("convnextv2") if architecture in VARIANTS else None),
        has_layer_scale=arguments["ls_init_value"] is not None if "ls_init_value" in arguments else None,
        has_hidden_head=bool(arguments.get("head_hidden_size")),
        outputs=arguments.get("num_classes", config.get("num_classes", pretrained.get("num_classes"))),
        labels=_labels(pretrained.get("label_names")),
        is_projection=is_clip_projection(str(pretrained.get("tag") or "")),
    )


def _from_transformers(config: Mapping[str, Any]) -> Stated:
    if "architecture" in config or "pretrained_cfg" in config:
        raise ModelError("it is timm's, the names of the tensors are transformers'")
    _check(_TRANSFORMERS_RULES, config, CONFIG_FILE)
    labels = _labels(config.get("id2label"))
    is_dinov3 = config.get("model_type") == "dinov3_convnext"
    epsilon = _epsilon(config.get("layer_norm_eps"))
    return Stated(
        norm_epsilon=epsilon if is_dinov3 else None,
        head_norm_epsilon=epsilon,
        activation=_activation(config.get("hidden_act", "gelu")),
        depths=_numbers(config.get("depths")),
        dims=_numbers(config.get("hidden_sizes")),
        grn={"convnext": False, "convnextv2": True}.get(config.get("model_type", "")),
        outputs=None if labels is None or is_dinov3 else len(labels),
        labels=None if labels is None or all(label == f"LABEL_{n}" for n, label in enumerate(labels)) else labels,
    )


_Rule = Callable[[Any], bool]

_TIMM_RULES: Mapping[str, _Rule] = {
    "in_chans": lambda v: v == 3,
    "global_pool": lambda v: v in ("avg", "", None),
    "output_stride": lambda v: v == 32,
    "patch_size": lambda v: v == 4,
    "stem_type": lambda v: v == "patch",
    "kernel_sizes": lambda v: v == 7 or (isinstance(v, list | tuple) and set(v) == {7}),
    "head_norm_first": lambda v: v is False,
    "norm_layer": lambda v: v in (None, "", "layernorm", "layernorm2d"),
    "conv_bias": lambda v: v is True,
    # compared with the tensors, read above, or without a share in the answer
    **dict.fromkeys(("num_classes", "depths", "dims", "norm_eps", "act_layer", "conv_mlp", "use_grn"), lambda v: True),
    **dict.fromkeys(("ls_init_value", "head_hidden_size", "head_init_scale", "pretrained"), lambda v: True),
    **dict.fromkeys(("drop_rate", "drop_path_rate", "img_size"), lambda v: True),
}
_TRANSFORMERS_RULES: Mapping[str, _Rule] = {
    "num_channels": lambda v: v == 3,
    "patch_size": lambda v: v in (4, [4, 4]),
    "num_stages": lambda v: v == STAGES,
    "quantization_config": lambda v: v is None,
}


def _check(rules: Mapping[str, _Rule], values: Mapping[str, Any], where: str) -> None:
    """Raise ModelError for a value that breaks its rule; in `model_args`, also for a name without a rule."""
    for name, value in values.items():
        if name not in rules and where == CONFIG_FILE:
            continue
        if name not in rules or not rules[name](value):
            raise ModelError(f"{name} is {value!r}")


def _activation(name: Any) -> Activation:
    if name not in _ACTIVATIONS:
        raise ModelError(f"its activation is {name!r}, not GELU")
    return _ACTIVATIONS[name]


def _epsilon(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not 0 < float(value) < 1:
        raise ModelError(f"an epsilon is {value!r}; it must be above 0 and below 1")
    return float(value)


def _numbers(values: Any) -> tuple[int, ...] | None:
    return None if values is None else tuple(int(value) for value in values)


def _labels(values: Any) -> tuple[str, ...] | None:
    """Return names by index: from a list, or from an object whose keys are the indices 0 to n - 1."""
    if not values:
        return None
    if isinstance(values, Mapping):
        by_index = {int(index): str(label) for index, label in values.items()}
        if sorted(by_index) != list(range(len(by_index))):
            raise ModelError(f"its {len(by_index)} labels are not numbered from 0 to {len(by_index) - 1}")
        return tuple(by_index[index] for index in range(len(by_index)))
    return tuple(str(value) for value in values)
