"""Saves and loads weights, one safetensors file with the model card in its metadata, and builds networks from them.

Equal contents give equal bytes. A file describes and checks itself: it holds format, version, card and the SHA-256 of
its values.
"""

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import safetensors.numpy
from mindspore import Tensor, nn
from safetensors import SafetensorError, safe_open

from convnext_imagenet.base.files import write_output
from convnext_imagenet.model.ascend_layers import ASCEND
from convnext_imagenet.model.card import ModelCard, card_from_json, card_to_json
from convnext_imagenet.model.convnext import ConvNeXt
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.kernels.products import Unit, choose_unit
from convnext_imagenet.model.layers import PLAIN, LayerSet
from convnext_imagenet.model.packed_network import PackedConvNeXt
from convnext_imagenet.model.runtime import cpu_kernels
from convnext_imagenet.model.variants import ConvNeXtConfig
from convnext_imagenet.model.weight_check import check_finite, check_shapes

FORMAT = "convnext_imagenet.weights"
VERSION = 1  # raise when older programs could not read a file, or would read it wrongly

_OURS = "give a weights file that `convnext-train` wrote"
_ONLY_FLOAT32 = (
    "a network without a linear head, or with another epsilon or GELU than the paper's, is computed in float32"
)

log = logging.getLogger(__name__)


def save_weights(path: Path, arrays: Mapping[str, np.ndarray], card: ModelCard) -> None:
    """Write the parameters of `card.config`'s network, float32, and the card; replace an older file at once.

    Raises ModelError when the arrays are not exactly that network's or not finite, and what `write_output` raises.
    """
    write_output(path, weights_payload(path, arrays, card))


def weights_payload(path: Path, arrays: Mapping[str, np.ndarray], card: ModelCard) -> bytes:
    """Return the bytes that `save_weights` writes.

    Raises ModelError, naming `path`, for arrays that do not fit or are not finite.
    """
    check_shapes(arrays, card.config, f"{path} is not written")
    check_finite(arrays, f"{path} is not written", "use weights from before the training diverged")
    packed = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    header = {"format": FORMAT, "version": VERSION, "sha256": _values_sha256(packed), "card": card_to_json(card)}
    # Only one metadata entry: the library writes several in an order that changes from run to run.
    return safetensors.numpy.save(packed, metadata={FORMAT: json.dumps(header, sort_keys=True)})


def load_weights(path: Path) -> tuple[dict[str, np.ndarray], ModelCard]:
    """Return the parameters by name, and the card, of a file that `save_weights` wrote.

    Raises ModelError for a file that is missing, empty, truncated, damaged, of another program or version,
    whose parameters do not fit its card, or that holds values that are not finite.
    """
    with _opened(path) as (file, header):
        # safe_open has no iterator of its own
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    card = _card(path, header)
    check_shapes(arrays, card.config, f"{path} disagrees with its own model card")
    if _values_sha256(arrays) != header.get("sha256"):
        raise ModelError(
            f"{path}: damaged, its values do not have the SHA-256 in its header; copy it again, or {_OURS}"
        )
    check_finite(arrays, str(path), "the training that wrote it has diverged; use an earlier checkpoint")
    return arrays, card


def load_card(path: Path) -> ModelCard:
    """Return the card alone of a file that `save_weights` wrote, without reading its values.

    Raises ModelError as `load_weights` does, except for what only the values show.
    """
    with _opened(path) as (_, header):
        return _card(path, header)


def build_network(card: ModelCard, arrays: Mapping[str, np.ndarray], frozen_stages: int = 0) -> ConvNeXt:
    """Return the card's network with these parameters, on our CPU kernels if the device is a CPU and they can be built.

    Raises ModelError when the parameters do not fit.
    """
    network = ConvNeXt(card.config, cpu_kernels(), frozen_stages, device_layers())
    assign_parameters(network, arrays)
    return network


def build_inference_network(card: ModelCard, arrays: Mapping[str, np.ndarray], precision: str = "float32") -> nn.Cell:
    """Return the card's network with these parameters packed once, for the device of this process.

    `precision` is as in `inference_unit`. Raises ModelError as that does, and when the parameters do not fit.
    """
    kernels = cpu_kernels()
    unit = inference_unit(card.config, precision, kernels)
    if kernels is None or not _can_pack(card.config) or (card.config.grn and unit is Unit.FLOAT32):
        return build_network(card, arrays)
    check_shapes(arrays, card.config, "the weights do not fit the network")
    return PackedConvNeXt(card.config, arrays, kernels, unit)


def inference_unit(config: ConvNeXtConfig, precision: str, kernels: Path | None) -> Unit:
    """Return what computes the products of a network in evaluation; `kernels` is None where ours do not run.

    `precision` is "float32", "bfloat16" or "auto": bfloat16 where the processor has it and our kernels know the
    network. Where they do not, "auto" logs once that float32 is computed, and "bfloat16" raises ModelError.
    """
    unit = choose_unit(precision, kernels)
    if unit is Unit.FLOAT32 or _can_pack(config):
        return unit
    if precision != "auto":
        raise ModelError(f"--precision {precision}: {_ONLY_FLOAT32}; pass --precision float32 or auto")
    _log_float32()
    return Unit.FLOAT32


def _can_pack(config: ConvNeXtConfig) -> bool:
    """Return whether the packed kernels compute this network."""
    return config.has_usual_functions and config.num_classes > 0 and not config.head_projection


@functools.cache
def _log_float32() -> None:
    log.info("--precision auto: %s", _ONLY_FLOAT32)


def device_layers() -> LayerSet:
    """Return the layers for the device of this process, which `runtime.prepare` has chosen."""
    return ASCEND if mindspore.get_context("device_target") == "Ascend" else PLAIN


def assign_parameters(network: ConvNeXt, arrays: Mapping[str, np.ndarray]) -> None:
    """Set every parameter of the network. Raises ModelError, and changes none, unless all fit exactly."""
    check_shapes(arrays, network.config, "the weights do not fit the network")
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(np.ascontiguousarray(arrays[name])))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict]]:
    """Open a weights file, as the library's reader and our header."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file; {_OURS}")
    if path.stat().st_size == 0:
        raise ModelError(f"{path}: the file is empty; copy it again, or {_OURS}")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file, _read_header(path, file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: truncated, damaged or not a safetensors file ({error}); copy it again, or {_OURS}"
        ) from error


def _card(path: Path, header: Mapping[str, Any]) -> ModelCard:
    try:
        return card_from_json(header.get("card", ""))
    except ModelError as error:
        raise ModelError(f"{path}: {error}; {_OURS}") from error


def _read_header(path: Path, metadata: Mapping[str, str]) -> dict:
    if FORMAT not in metadata:
        raise ModelError(
            f"{path}: a safetensors file without our model card; import weights of another program by "
            f"`convnext-serve weights import`, or {_OURS}"
        )
    try:
        header = json.loads(metadata[FORMAT])
        version = header["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: its metadata is damaged ({error!r}); copy it again, or {_OURS}") from error
    if version != VERSION:
        raise ModelError(
            f"{path}: has format version {version}, this program reads version {VERSION}; "
            f"use the program that wrote it, or {_OURS}"
        )
    return header


def _values_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
