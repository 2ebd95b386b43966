"""The two programs that can compute a network, MindSpore with our kernels and onnxruntime, behind one function type."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import mindspore as ms
import numpy as np

from convnext_imagenet.model.exchange.onnx_file import import_onnx, import_onnxruntime, run_onnx
from convnext_imagenet.model.exchange.onnx_graph import onnx_model
from convnext_imagenet.model.kernels.products import Unit
from convnext_imagenet.model.runtime import cpu_kernels
from convnext_imagenet.model.variants import ConvNeXtConfig
from convnext_imagenet.model.weights import inference_unit
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.settings import Precision

# uint8 pixels (N, S, S, 3) -> logits (N, K) and, from an engine with features, these (N, C); float32
Engine = Callable[[np.ndarray], list[np.ndarray]]


def engine_facts(
    name: str, config: ConvNeXtConfig, device_target: str, precision: Precision = "float32"
) -> dict[str, str]:
    """Return the engine's name, version and precision (if it is not float32), for the plan of PREDICTIONS.

    Raises ModelError when a package is missing or bfloat16 is asked for and is not there, and ServeError for a device
    or a precision that the engine does not support.
    """
    if name == "mindspore":
        unit = inference_unit(config, precision, cpu_kernels() if device_target == "CPU" else None)
        facts = {"name": name, "version": version("mindspore")}
        return facts if unit is Unit.FLOAT32 else {**facts, "precision": "bfloat16"}
    if precision == "bfloat16":
        raise ServeError(
            "engine onnxruntime computes in float32; pass --precision float32, or --engine mindspore for bfloat16"
        )
    import_onnx()
    engine_version = import_onnxruntime().__version__
    if device_target != "CPU":
        raise ServeError(
            f"engine onnxruntime runs only on the CPU, not on {device_target}; pass --device-target CPU, "
            f"or --engine mindspore"
        )
    return {"name": name, "version": engine_version}


def open_engine(
    name: str, checkpoint: Checkpoint, with_features: bool = False, precision: Precision = "float32"
) -> Engine:
    """Return the engine of this name ("mindspore", "onnxruntime") with the checkpoint's network.

    Only mindspore has another precision than float32. Raises ModelError when a package is missing, or bfloat16 is asked
    for and is not there.
    """
    if name == "mindspore":
        return network_engine(checkpoint.classifier(with_features, precision))
    return run_onnx(onnx_model(checkpoint.card, checkpoint.arrays, preprocessing=True, with_features=with_features))


def network_engine(classifier: Any) -> Engine:
    """Return an engine that runs a MindSpore network, such as a `Classifier`."""

    def run(pixels_NHWC: np.ndarray) -> list[np.ndarray]:
        outputs = classifier(ms.Tensor(pixels_NHWC))
        return [output.asnumpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run
