"""Has a MindSpore process write down its compiled graphs, and reads their kernels afterwards.

The process needs `dump_variables` in its environment before it starts, and its standard error must be kept.
"""

from pathlib import Path

from convnext_imagenet.launch.dry_run.ai_cpu import ai_cpu_primitives
from convnext_imagenet.launch.dry_run.kernels import Kernel, ascend_kernels, cpu_kernels
from convnext_imagenet.launch.dry_run.standins_cache import mindspore_libraries


def dump_variables(folder: Path) -> dict[str, str]:
    """Return the variables that make MindSpore write its graphs to `folder`, and its kernels to standard error."""
    return {
        "MS_DEV_SAVE_GRAPHS": "1",
        "MS_DEV_SAVE_GRAPHS_PATH": str(folder),
        "MS_DEV_DUMP_IR_PASSES": "graph_build",
        "GLOG_v": "3",
        "MS_SUBMODULE_LOG_v": "{DEVICE:1}",
    }


def read_kernels(folder: Path, log: str, target: str) -> list[tuple[Kernel, ...]]:
    """Return the kernels of each graph in `folder`, in the order of compilation; `log` is the standard error.

    Raises LaunchError when graphs and log do not agree.
    """
    paths = sorted(folder.rglob("graph_build_*.ir"), key=lambda path: int(path.name.split("_")[2]))
    graphs = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    if target == "CPU":
        return [cpu_kernels(graph) for graph in graphs]
    return ascend_kernels(graphs, log, ai_cpu_primitives(mindspore_libraries()))
