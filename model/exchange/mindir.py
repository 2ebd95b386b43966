"""Writes a classifier as MindIR: MindSpore's graph with its weights, which loads without this program.

MindSpore writes weights above 1 GiB into a folder beside the graph, which names them by their relative path.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import ConvNeXt
from convnext_imagenet.model.network import Classifier
from convnext_imagenet.model.weights import assign_parameters

_GRAPH = "_graph.mindir"  # how MindSpore ends the name of a graph whose weights lie in a folder


def variables_folder(path: Path) -> Path:
    """Return the folder of weights that a large MindIR at `path` has beside it."""
    return path.with_name(f"{path.stem}_variables")


def write_mindir(card: ModelCard, arrays: Mapping[str, np.ndarray], path: Path) -> list[Path]:
    """Write `path`, which ends in .mindir: uint8 pixels (N, S, S, 3), any N -> logits (N, K), float32.

    Returns its files, `path` last: before it those in `variables_folder(path)`, if weights take more than 1 GiB. It
    uses MindSpore's own operators, not our CPU kernels, because other machines lack these. Its bytes differ from
    process to process (DECISIONS, 2026-11-26).
    """
    network = ConvNeXt(card.config, kernels=None)
    assign_parameters(network, arrays)
    classifier = Classifier(network, card.transform)
    classifier.set_train(False)
    side = card.transform.size_px
    ms.export(
        classifier, ms.Tensor(shape=[None, side, side, 3], dtype=ms.uint8), file_name=str(path), file_format="MINDIR"
    )
    return gathered_files(path)


def gathered_files(path: Path) -> list[Path]:
    """Return the files that MindSpore wrote for `path`, the graph last and under this name."""
    graph = path.with_name(path.stem + _GRAPH)
    if graph.is_file():
        graph.replace(path)
    folder = variables_folder(path)
    return [*(sorted(folder.iterdir()) if folder.is_dir() else ()), path]


def open_mindir(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function in a file of `write_mindir`: uint8 pixels (N, S, S, 3) -> logits (N, K), float32."""
    network = nn.GraphCell(ms.load(str(path)))
    return lambda pixels_NHWC: network(ms.Tensor(pixels_NHWC)).asnumpy()
