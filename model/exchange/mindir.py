"""Writes a classifier as MindIR: MindSpore's graph with its weights, which loads without this program."""

from collections.abc import Callable, Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import ConvNeXt, parameter_count
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.network import Classifier
from convnext_imagenet.model.weights import assign_parameters

LARGEST_BYTES = 2**30  # MindSpore writes larger weights as a folder of files


def write_mindir(card: ModelCard, arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Write `path`, which ends in .mindir: uint8 pixels (N, S, S, 3), any N -> logits (N, K), float32.

    It uses MindSpore's own operators, not our CPU kernels, because other machines lack these. Its bytes differ from
    process to process (DECISIONS, 2026-11-26). Raises ModelError for weights above 1 GiB.
    """
    size = 4 * parameter_count(card.config)
    if size > LARGEST_BYTES:
        raise ModelError(
            f"{card.config.variant} has {size / 2**30:.1f} GiB of weights, but MindSpore writes a MindIR above 1 GiB "
            f"as a folder of files; use --format onnx or safetensors"
        )
    network = ConvNeXt(card.config, kernels=None)
    assign_parameters(network, arrays)
    classifier = Classifier(network, card.transform)
    classifier.set_train(False)
    side = card.transform.size_px
    ms.export(
        classifier, ms.Tensor(shape=[None, side, side, 3], dtype=ms.uint8), file_name=str(path), file_format="MINDIR"
    )


def open_mindir(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function in a file of `write_mindir`: uint8 pixels (N, S, S, 3) -> logits (N, K), float32."""
    network = nn.GraphCell(ms.load(str(path)))
    return lambda pixels_NHWC: network(ms.Tensor(pixels_NHWC)).asnumpy()
