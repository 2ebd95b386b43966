"""MindRecord imported without the rest of MindSpore, which a process that only writes shards does not need.

`import mindspore.mindrecord` first runs `mindspore/__init__.py`, and that imports networks, operators and training: 2 s
of a core instead of 0.3. `read_alone` then runs the C++ pipeline of MindDataset without its Python classes (DECISIONS,
2026-11-30: no worker imports all of MindSpore).
"""

import atexit
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_ENGINE = "mindspore._c_dataengine"
_ENGINE_NAMES = ("MindDataNode", "MindrecordSequentialSampler", "PythonIteratorConsumer", "PythonRuntimeContext")
_is_alone = False


def import_mindrecord_alone() -> None:
    """Import `mindspore.mindrecord` alone; for a process of its own that never imports another part of MindSpore.

    The process then ends with code 0, without what MindSpore does at exit. Has no effect where MindSpore is imported
    already, or where MindRecord cannot be imported alone: then the next import of it imports all of MindSpore.
    """
    global _is_alone
    spec = importlib.util.find_spec("mindspore") if "mindspore" not in sys.modules else None
    if spec is None:
        return
    sys.modules["mindspore"] = importlib.util.module_from_spec(spec)  # the package, without running its __init__.py
    try:
        importlib.import_module("mindspore.mindrecord")
        engine = importlib.import_module(_ENGINE)
        for name in _ENGINE_NAMES:
            getattr(engine, name)
    except (ImportError, AttributeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "mindspore"]:
            del sys.modules[name]
        return
    _is_alone = True
    atexit.register(os._exit, 0)  # handlers run backwards: MindSpore's own would import its other parts


def is_mindrecord_alone() -> bool:
    """Return whether MindRecord is the only part of MindSpore that this process can import."""
    return _is_alone


def read_alone(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield these columns of each row of a shard, in stored order, as NumPy arrays: what MindDataset yields.

    Call it where `is_mindrecord_alone`. Raises RuntimeError when MindSpore refuses to read the file.
    """
    engine = sys.modules[_ENGINE]
    context = engine.PythonRuntimeContext()
    context.Init()
    consumer = engine.PythonIteratorConsumer(1)  # one epoch
    consumer.Init(_pipeline(engine, str(path), columns), 0, -1)  # from the first row on, of a number that is not known
    context.AssignConsumer(consumer)
    try:
        while row := context.GetConsumer().GetNextAsList():
            yield tuple(value.as_array() for value in row)
    finally:
        context.Terminate()


class _InStoredOrder:
    """The sampler that MindDataset makes of shuffle=False."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def parse_for_minddataset(self) -> Any:
        """Return the C++ sampler: all rows from the first on."""
        return self._engine.MindrecordSequentialSampler(0, 0)


def _pipeline(engine: Any, path: str, columns: Sequence[str]) -> Any:
    """Return the C++ pipeline of MindDataset with one thread: no padding and no shuffling."""
    no_padding: dict[str, Any] = {}
    node = engine.MindDataNode([path], list(columns), _InStoredOrder(engine), no_padding, 0, engine.ShuffleMode.FALSE)
    return node.set_num_workers(1)
