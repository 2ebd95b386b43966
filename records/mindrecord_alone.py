"""MindRecord imported without the rest of MindSpore, which a process that only writes a shard does not need.

`import mindspore.mindrecord` first runs `mindspore/__init__.py`, and that imports networks, operators and training: 2 s
of a core instead of 0.3 (DECISIONS, 2026-11-29: ten images in two seconds).
"""

import atexit
import importlib
import importlib.util
import os
import sys

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
    except (ImportError, AttributeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "mindspore"]:
            del sys.modules[name]
        return
    _is_alone = True
    atexit.register(os._exit, 0)  # handlers run backwards: MindSpore's own would import its other parts


def is_mindrecord_alone() -> bool:
    """Return whether MindRecord is the only part of MindSpore that this process can import."""
    return _is_alone
