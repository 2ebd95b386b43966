"""The packages of the extra `onnx`, imported when they are needed, or one line that says how to have them."""

import importlib
from types import ModuleType

from convnext_imagenet.model.errors import ModelError

EXTRA = "convnext_imagenet[onnx]"


def import_onnx() -> ModuleType:
    """The package onnx, its helpers included; ModelError names the extra when it is missing."""
    _import("onnx.helper")
    _import("onnx.numpy_helper")
    return _import("onnx")


def import_onnxruntime() -> ModuleType:
    """The package onnxruntime; ModelError names the extra when it is missing."""
    return _import("onnxruntime")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ModelError(f"{package} cannot be imported ({error}); pip install '{EXTRA}'") from error
