"""A classifier as MindIR: MindSpore's compiled graph with its weights, which loads without this program."""

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

    MindSpore's own operators, never our CPU kernels: the file goes to other machines. Its bytes differ from one
    process to the next. Raises ModelError for weights above 1 GiB.
    """
    size = 4 * parameter_count(card.config)
    if size > LARGEST_BYTES:
        raise ModelError(
            f"{card.config.variant} has {size / 2**30:.1f} GiB of weights, and MindSpore writes a MindIR of more than "
            f"1 GiB as a folder of files; use --format onnx or safetensors"
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
    """The function that a file of `write_mindir` holds: pixels (N, S, S, 3) -> logits (N, K)."""
    network = nn.GraphCell(ms.load(str(path)))
    return lambda pixels_NHWC: network(ms.Tensor(pixels_NHWC)).asnumpy()
