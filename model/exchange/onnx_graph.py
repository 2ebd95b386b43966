"""Makes a ConvNeXt's ONNX graph from its parameters: MindSpore's own exporter lacks Erf (DECISIONS, 2026-11-26).

The graph uses only standard operators. Layer scale and GRN's shift are folded into the product beside them, in float64,
so results equal the network's up to rounding.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from convnext_imagenet.model.blocks import DOWNSAMPLE_SIZE, STEM_SIZE
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.exchange.onnx_file import import_onnx
from convnext_imagenet.model.layers import DEPTHWISE_SIZE, SHORTEST, TANH_CUBIC, TANH_SCALE
from convnext_imagenet.model.transform import scale_and_shift
from convnext_imagenet.model.variants import EPSILON, Activation, ConvNeXtConfig
from convnext_imagenet.model.weight_check import check_shapes

OPSET = 17  # the first with LayerNormalization; opset 20 has Gelu, which runs no faster than its parts
ONNXRUNTIME = "1.12"  # the first version that runs this opset
IR_VERSION = 8  # the oldest that may hold this opset, so that old runtimes can read the file
PIXELS, PIXEL_VALUES = "pixels", "pixel_values"
LOGITS, FEATURES = "logits", "features"

_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def onnx_model(
    card: ModelCard,
    arrays: Mapping[str, np.ndarray],
    preprocessing: bool = False,
    with_features: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """Return the ModelProto of the card's network, for any number of images.

    The input is `pixel_values`, float32 (N, 3, S, S), normalised; with `preprocessing` it is `pixels`, uint8 (N, S, S,
    3). The output is `logits`, float32 (N, K), and `with_features` also the pooled features before the head, `features`
    (N, C); without a head it is `features` only. The model stores `metadata`. Raises ModelError when the arrays do not
    fit the card, and without the package.
    """
    onnx = import_onnx()
    check_shapes(arrays, card.config, "no ONNX graph can be made")
    graph = _Graph(onnx, arrays)
    size_px, types = card.transform.size_px, onnx.TensorProto
    if preprocessing:
        given = onnx.helper.make_tensor_value_info(PIXELS, types.UINT8, ["N", size_px, size_px, 3])
        x_NCHW = _normalised(graph, card)
    else:
        given = onnx.helper.make_tensor_value_info(PIXEL_VALUES, types.FLOAT, ["N", 3, size_px, size_px])
        x_NCHW = PIXEL_VALUES
    features_NC = _features(graph, card, x_NCHW)
    widths = {}
    if card.config.num_classes:
        compared = _embedding(graph, card, features_NC) if card.config.head_projection else features_NC
        graph.product(compared, "head", LOGITS)
        widths[LOGITS] = card.config.num_classes
    if with_features or not widths:
        widths[FEATURES] = card.config.dims[-1]
    outputs = [onnx.helper.make_tensor_value_info(name, types.FLOAT, ["N", width]) for name, width in widths.items()]
    made = onnx.helper.make_graph(graph.nodes, card.config.variant, [given], outputs, graph.constants)
    opset = onnx.helper.make_operatorsetid("", OPSET)
    model = onnx.helper.make_model(
        made, producer_name="convnext_imagenet", opset_imports=[opset], ir_version=IR_VERSION
    )
    onnx.helper.set_model_props(model, dict(metadata or {}))
    return model


class _Graph:
    """Nodes and constants in the order of creation; a value has the name of the node that computes it."""

    def __init__(self, onnx: ModuleType, arrays: Mapping[str, np.ndarray]) -> None:
        self._onnx, self._arrays = onnx, arrays
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, inputs: list[str], name: str, output: str = "", **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        output = output or name
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [output], name, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def parameter(self, name: str) -> str:
        return self.constant(name, self._arrays[name])

    def scalar(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, np.float32))

    def wide(self, name: str) -> np.ndarray:
        """Return a parameter in float64, for folding."""
        return self._arrays[name].astype(np.float64)

    def conv(self, x_NCHW: str, name: str, size: int, **attributes: Any) -> str:
        weight, bias = self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")
        return self.add("Conv", [x_NCHW, weight, bias], name, kernel_shape=[size, size], **attributes)

    def layer_norm(self, x: str, name: str, epsilon: float, output: str = "") -> str:
        """Append a LayerNorm over the last axis and return the name of its output."""
        weight, bias = self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")
        return self.add("LayerNormalization", [x, weight, bias], name, output, axis=-1, epsilon=epsilon)

    def linear(self, x_NHWC: str, name: str, weight_CD: np.ndarray, bias_D: np.ndarray) -> str:
        weight = self.constant(f"{name}.weight", weight_CD.astype(np.float32))
        bias = self.constant(f"{name}.bias", bias_D.astype(np.float32))
        return self.add("Add", [self.add("MatMul", [x_NHWC, weight], f"{name}.product"), bias], name)

    def product(self, x_NC: str, name: str, output: str = "") -> str:
        weight, bias = self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")
        return self.add("Gemm", [x_NC, weight, bias], name, output=output, transB=1)

    def transpose(self, x: str, name: str, order: tuple[int, ...]) -> str:
        return self.add("Transpose", [x], name, perm=order)


def _normalised(graph: _Graph, card: ModelCard) -> str:
    """Return the name of the pixels as (N, 3, S, S), normalised by mean and standard deviation of the transform."""
    scale_C, shift_C = scale_and_shift(card.transform)
    scale = graph.constant("scale", scale_C.reshape(3, 1, 1))
    shift = graph.constant("shift", shift_C.reshape(3, 1, 1))
    pixels = graph.add("Cast", [graph.transpose(PIXELS, "pixels.nchw", _TO_NCHW)], "pixels.float", to=1)
    return graph.add("Add", [graph.add("Mul", [pixels, scale], "pixels.scaled"), shift], "pixels.normalised")


def _features(graph: _Graph, card: ModelCard, x_NCHW: str) -> str:
    """Return the name of the features (N, C). Channels are first for convolutions, and last for everything else."""
    x_NHWC, epsilon = "", card.config.norm_epsilon
    for stage, depth in enumerate(card.config.depths):
        name = f"downsample_layers.{stage}"
        if stage == 0:
            y_NCHW = graph.conv(x_NCHW, f"{name}.0", STEM_SIZE, strides=[STEM_SIZE] * 2)
            x_NHWC = graph.layer_norm(graph.transpose(y_NCHW, f"{name}.nhwc", _TO_NHWC), f"{name}.1", epsilon)
        else:
            y_NCHW = graph.transpose(graph.layer_norm(x_NHWC, f"{name}.0", epsilon), f"{name}.nchw", _TO_NCHW)
            y_NCHW = graph.conv(y_NCHW, f"{name}.1", DOWNSAMPLE_SIZE, strides=[DOWNSAMPLE_SIZE] * 2)
            x_NHWC = graph.transpose(y_NCHW, f"{name}.nhwc", _TO_NHWC)
        for block in range(depth):
            x_NHWC = _block(graph, x_NHWC, f"stages.{stage}.{block}", card.config)
    pooled_NC = graph.add("ReduceMean", [x_NHWC], "pool", axes=[1, 2], keepdims=0)
    return graph.layer_norm(pooled_NC, "norm", card.config.head_norm_epsilon, FEATURES)


def _embedding(graph: _Graph, card: ModelCard, x_NC: str) -> str:
    """Return the name of the projected features, of length 1."""
    for index in range(len(card.config.head_projection)):
        name = f"head.projection.{index}"
        if index:
            x_NC = _gelu(graph, x_NC, f"{name}.act", "gelu")
        x_NC = graph.product(x_NC, name)
    length = graph.add("ReduceL2", [x_NC], "head.length", axes=[-1], keepdims=1)
    length = graph.add("Max", [length, graph.scalar("head.shortest", SHORTEST)], "head.divisor")
    return graph.add("Div", [x_NC, length], "head.embedding")


def _block(graph: _Graph, x_NHWC: str, name: str, config: ConvNeXtConfig) -> str:
    x_NCHW = graph.transpose(x_NHWC, f"{name}.nchw", _TO_NCHW)
    channels = len(graph.wide(f"{name}.dwconv.bias"))
    pads = [DEPTHWISE_SIZE // 2] * 4
    y_NCHW = graph.conv(x_NCHW, f"{name}.dwconv", DEPTHWISE_SIZE, pads=pads, group=channels)
    y = graph.layer_norm(graph.transpose(y_NCHW, f"{name}.nhwc", _TO_NHWC), f"{name}.norm", config.norm_epsilon)
    y = graph.linear(y, f"{name}.pwconv1", graph.wide(f"{name}.pwconv1.weight").T, graph.wide(f"{name}.pwconv1.bias"))
    y = _gelu(graph, y, f"{name}.act", config.activation)
    weight_CD, bias_D = graph.wide(f"{name}.pwconv2.weight").T, graph.wide(f"{name}.pwconv2.bias")
    if config.grn:
        y = _response_norm(graph, y, f"{name}.grn")
        bias_D = bias_D + graph.wide(f"{name}.grn.beta").reshape(-1) @ weight_CD
    else:
        gamma_D = graph.wide(f"{name}.gamma")
        weight_CD, bias_D = weight_CD * gamma_D, bias_D * gamma_D
    return graph.add("Add", [x_NHWC, graph.linear(y, f"{name}.pwconv2", weight_CD, bias_D)], name)


def _gelu(graph: _Graph, x: str, name: str, activation: Activation) -> str:
    """Return x * (1 + erf(x / sqrt(2))) / 2, as onnxruntime fuses it into one operator, or its tanh form."""
    if activation == "gelu_tanh":
        return _gelu_tanh(graph, x, name)
    erf = graph.add(
        "Erf", [graph.add("Div", [x, graph.scalar(f"{name}.root", 2**0.5)], f"{name}.scaled")], f"{name}.erf"
    )
    share = graph.add("Add", [erf, graph.scalar(f"{name}.one", 1.0)], f"{name}.share")
    return graph.add("Mul", [graph.add("Mul", [x, share], f"{name}.twice"), graph.scalar(f"{name}.half", 0.5)], name)


def _gelu_tanh(graph: _Graph, x: str, name: str) -> str:
    """Return x * (1 + tanh(a (x + b x^3))) / 2."""
    square = graph.add("Mul", [x, x], f"{name}.square")
    cubic = graph.add("Mul", [square, graph.scalar(f"{name}.cubic", TANH_SCALE * TANH_CUBIC)], f"{name}.share.cubic")
    slope = graph.add("Add", [cubic, graph.scalar(f"{name}.slope", TANH_SCALE)], f"{name}.share.slope")
    tanh = graph.add("Tanh", [graph.add("Mul", [x, slope], f"{name}.scaled")], f"{name}.tanh")
    share = graph.add("Add", [tanh, graph.scalar(f"{name}.one", 1.0)], f"{name}.share")
    return graph.add("Mul", [graph.add("Mul", [x, share], f"{name}.twice"), graph.scalar(f"{name}.half", 0.5)], name)


def _response_norm(graph: _Graph, x_NHWC: str, name: str) -> str:
    """Return x * (gamma * share + 1): GRN without its shift beta, which is folded into the next product."""
    norm = graph.add("ReduceL2", [x_NHWC], f"{name}.norm", axes=[1, 2], keepdims=1)
    mean = graph.add("ReduceMean", [norm], f"{name}.mean", axes=[-1], keepdims=1)
    floor = graph.add("Add", [mean, graph.scalar(f"{name}.epsilon", EPSILON)], f"{name}.floor")
    share = graph.add("Div", [norm, floor], f"{name}.share")
    gain = graph.add("Mul", [share, graph.parameter(f"{name}.gamma")], f"{name}.weighed")
    gain = graph.add("Add", [gain, graph.scalar(f"{name}.one", 1.0)], f"{name}.gain")
    return graph.add("Mul", [x_NHWC, gain], f"{name}.scaled")
