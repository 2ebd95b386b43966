"""Writes ONNX models to files and runs them by onnxruntime. A model has two files if one cannot hold its weights."""

import importlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from convnext_imagenet.base.wording import install_command
from convnext_imagenet.model.errors import ModelError

LARGEST_BYTES = 2**31 - 1  # of one protobuf message
_ROOM_BYTES = 4 << 20  # more than the nodes of any variant take beside the constants
_OUTSIDE_BYTES = 1024  # smaller constants, such as scalars, stay in the graph
_ERRORS_ONLY = 3  # onnxruntime's log level

Run = Callable[[np.ndarray], list[np.ndarray]]


def import_onnx() -> ModuleType:
    """Return the package onnx with its helpers. Raises ModelError, which names the extra, if it is missing."""
    import_tool("onnx.helper")
    import_tool("onnx.numpy_helper")
    return import_tool("onnx")


def import_onnxruntime() -> ModuleType:
    """Return the package onnxruntime. Raises ModelError, which names the extra, if it is missing."""
    return import_tool("onnxruntime")


def import_tool(name: str) -> ModuleType:
    """Return a module of these packages. Raises ModelError, which names the extra, if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ModelError(
            f"{package} cannot be imported ({error}); run `{install_command('convnext_imagenet[onnx]')}`"
        ) from error


def data_file(path: Path) -> Path:
    """Return the file of constants that a large model at `path` has beside it."""
    return path.with_name(f"{path.name}.data")


def is_too_large(model: Any, largest_bytes: int = LARGEST_BYTES) -> bool:
    """Return whether a ModelProto needs a second file for its constants."""
    return sum(len(constant.raw_data) for constant in model.graph.initializer) + _ROOM_BYTES > largest_bytes


def write_onnx(model: Any, path: Path, largest_bytes: int = LARGEST_BYTES) -> list[Path]:
    """Write a ModelProto and return its files: `path`, and before it `path`.data if one file would be too large.

    Equal models give equal bytes. onnx's own checker checks the model. Writing two files empties the ModelProto. Raises
    ModelError without the package, and what the checker raises.
    """
    onnx = import_onnx()
    if not is_too_large(model, largest_bytes):
        path.write_bytes(model.SerializeToString(deterministic=True))
        files = [path]
    else:
        data = data_file(path)
        onnx.save_model(model, str(path), save_as_external_data=True, location=data.name, size_threshold=_OUTSIDE_BYTES)
        files = [data, path]
    onnx.checker.check_model(str(path), full_check=True)
    return files


def open_onnx(path: Path, threads: int | None = None) -> Run:
    """Return a function that runs the model in a file by onnxruntime on the CPU: its one input in, its outputs out.

    `threads` is the number of cores of the process unless given. Raises ModelError without the package.
    """
    return _session(str(path), threads)


def run_onnx(model: Any, threads: int | None = None, largest_bytes: int = LARGEST_BYTES) -> Run:
    """Return the same for a ModelProto in memory, which is emptied if it is too large for one message."""
    if not is_too_large(model, largest_bytes):
        return _session(model.SerializeToString(), threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(model, path, largest_bytes)
        return open_onnx(path, threads)


def add_metadata(path: Path, entries: Mapping[str, str]) -> None:
    """Write the entries into the metadata of an ONNX file; its nodes and constants keep their bytes."""
    onnx = import_onnx()
    model = onnx.load(str(path), load_external_data=False)
    onnx.helper.set_model_props(model, dict(entries))
    path.write_bytes(model.SerializeToString(deterministic=True))


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata that an ONNX file stores; empty for a file that is none."""
    onnx = import_onnx()
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # protobuf raises an error of its own
        return {}
    return {entry.key: entry.value for entry in model.metadata_props}


def _session(source: str | bytes, threads: int | None) -> Run:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # waiting threads sleep: the cores decode images, too
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    (model_input,) = session.get_inputs()
    return lambda array: session.run(None, {model_input.name: np.ascontiguousarray(array)})
