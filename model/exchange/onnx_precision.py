"""Makes an ONNX model of lower precision: float16 and int8 by onnxruntime's tools, bfloat16 weights by casts.

onnxruntime has no tool for bfloat16, and its CPU operators do not compute in it: weights are stored in bfloat16 and
cast to float32 when the model is loaded.
"""

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from convnext_imagenet.model.exchange.onnx_file import (
    LARGEST_BYTES,
    data_file,
    import_onnx,
    import_tool,
    is_too_large,
    write_onnx,
)

LowPrecision = Literal["fp16", "bf16", "int8"]

STORED = {
    "fp16": "float16",
    "bf16": "weights of blocks and downsampling bfloat16, the rest float32",
    "int8": "weights of blocks int8, the rest float32",
}
# Of the products of blocks and of downsampling: stem, depthwise convolutions and head are small, and lose more.
_BLOCK_WEIGHT = re.compile(r"stages\..*\.pwconv[12]\.weight|downsample_layers\.[1-3]\.1\.weight")
_FLOAT32_DIGITS_DROPPED = 16  # bits by which bfloat16 is shorter


def lowered(
    model: Any,
    precision: LowPrecision,
    calibration: Iterable[np.ndarray],
    folder: Path,
    largest_bytes: int = LARGEST_BYTES,
) -> Any:
    """Return a ModelProto of `model`, float32, in another precision, with the same inputs and outputs; empties `model`.

    `calibration` yields inputs of the model for int8, whose largest and smallest activations decide the scales; other
    precisions read none. `folder` takes intermediate files. Raises ModelError without the packages.
    """
    if precision == "bf16":
        return _with_bfloat16_weights(model)
    if precision == "fp16":
        tool = import_tool("onnxruntime.transformers.float16")
        is_large = is_too_large(model, largest_bytes)  # shapes are inferred in one message, and are not needed here
        return _in_order(tool.convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=is_large))
    return _quantised(model, calibration, folder, largest_bytes)


def _in_order(model: Any) -> Any:
    """Put each node behind those whose outputs it reads: the tool appends its casts where ONNX does not allow them."""
    nodes = list(model.graph.node)
    made_by = {output: number for number, node in enumerate(nodes) for output in node.output}
    needed = {number: [made_by[name] for name in node.input if name in made_by] for number, node in enumerate(nodes)}
    del model.graph.node[:]
    model.graph.node.extend(nodes[number] for number in TopologicalSorter(needed).static_order())
    return model


def _with_bfloat16_weights(model: Any) -> Any:
    onnx = import_onnx()
    casts = []
    for constant in model.graph.initializer:
        if not _BLOCK_WEIGHT.fullmatch(constant.name):
            continue
        name = constant.name
        rounded = _bfloat16_bits(onnx.numpy_helper.to_array(constant))
        constant.name, constant.data_type, constant.raw_data = (
            f"{name}.bf16",
            onnx.TensorProto.BFLOAT16,
            rounded.tobytes(),
        )
        casts.append(onnx.helper.make_node("Cast", [constant.name], [name], f"{name}.cast", to=onnx.TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    return model


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Return finite float32 values rounded to the nearest bfloat16, ties to even, as uint16."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    half_unit = np.uint32(0x7FFF) + ((bits >> _FLOAT32_DIGITS_DROPPED) & np.uint32(1))
    return ((bits + half_unit) >> _FLOAT32_DIGITS_DROPPED).astype("<u2")


def _quantised(model: Any, calibration: Iterable[np.ndarray], folder: Path, largest_bytes: int) -> Any:
    """Return the model with the products of its blocks in int8.

    Weights have 7 bits and a scale for each column: with 8, processors without VNNI saturate a sum of two products, and
    a file would give other answers there. Convolutions and head stay float32, which lose more and compute little.
    """
    onnx, tool = import_onnx(), import_tool("onnxruntime.quantization")
    name = model.graph.input[0].name
    is_large = is_too_large(model, largest_bytes)
    source, made = folder / "float32.onnx", folder / "int8.onnx"
    write_onnx(model, source, largest_bytes)
    with _without_advice():
        tool.quantize_static(
            source,
            made,
            _reader(tool.CalibrationDataReader, name, calibration),
            quant_format=tool.QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            use_external_data_format=is_large,
        )
    found = onnx.load(str(made))
    for path in (source, made):
        path.unlink()
        data_file(path).unlink(missing_ok=True)
    return found


def _reader(base: type, name: str, batches: Iterable[np.ndarray]) -> Any:
    remaining = iter(batches)

    class Reader(base):
        """What onnxruntime asks for the next input."""

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Return the next input by name, None after the last."""
            batch = next(remaining, None)
            return None if batch is None else {name: batch}

    return Reader()


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Hide what onnxruntime's quantiser logs for its developers, by the root logger: advice to fuse operators first."""
    root = logging.getLogger()

    def is_shown(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    root.addFilter(is_shown)
    try:
        yield
    finally:
        root.removeFilter(is_shown)
