"""Everything that differs between Ascend, GPU and CPU: detecting devices, and how long their collectives wait.

Other lines for Ascend are in `npu_smi.py`, in `base/cann.py` and in `model/runtime.py`. Only the lines for the CPU have
been run; those for Ascend and GPU rely on documented names.
"""

import contextlib
import importlib.util
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from convnext_imagenet.base.cann import toolkit_folders
from convnext_imagenet.base.host import cache_folder

TARGETS = ("Ascend", "GPU", "CPU")
AUTO = "auto"
_NODES = {"Ascend": "davinci[0-9]*", "GPU": "nvidia[0-9]*"}  # device files of the drivers, one for each device
# Set for MindSpore to compile, plan and run without a device (docs/devices.md); RANK_SIZE then counts the devices.
SIMULATION_LEVEL = "MS_SIMULATION_LEVEL"
_PLUGINS = {"Ascend": "ascend*", "GPU": "gpu*"}  # in mindspore/lib/plugin: what the installed MindSpore supports


@dataclass(frozen=True)
class DeviceChoice:
    """The device target that a command runs on, and why."""

    target: str
    reason: str


def devices_seen(target: str, dev: Path = Path("/dev")) -> int:
    """Return how many devices of the target the drivers show; the CPU counts as one, a simulation has what it needs."""
    if target == "Ascend" and os.environ.get(SIMULATION_LEVEL):
        return int(os.environ.get("RANK_SIZE") or 1)
    return 1 if target == "CPU" else len(list(dev.glob(_NODES[target])))


def choose_target(asked: str, dev: Path = Path("/dev"), plugins: Path | None = None) -> DeviceChoice:
    """Return the requested target; for "auto" the first of Ascend, GPU, CPU that both driver and MindSpore have."""
    if asked != AUTO:
        return DeviceChoice(asked, "requested")
    plugins = plugins or _plugin_folder()
    reasons = []
    for target in ("Ascend", "GPU"):
        seen = devices_seen(target, dev)
        if seen and any(plugins.glob(_PLUGINS[target])):
            return DeviceChoice(target, f"{seen} {target} device{'s' * (seen > 1)} found")
        missing = "the installed MindSpore is not built for it" if seen else f"no {dev / _NODES[target]}"
        reasons.append(f"no {target} ({missing})")
    return DeviceChoice("CPU", ", ".join(reasons))


def is_first_generation(chip: str) -> bool:
    """Return whether an Ascend chip is older than Atlas A2, by the name that CANN gives it; "" is unknown: False.

    Atlas A2 and A3 are Ascend910B1 to B4 and Ascend910_93..; before them were Ascend910A, 910B (without a number), and
    910ProA, 910ProB, 910PremiumA. On these an overflow gives the largest number, not infinity (CANN's
    aclrtSetDeviceSatMode).
    """
    return re.fullmatch(r"(?i)ascend910(?!b\d|_).*", chip) is not None


def joined_tensors(target: str) -> int | None:
    """Return how many tensors an operator of the training step may join or add; None where there is no gain in it.

    An Ascend pays for each kernel and each all-reduce, and CANN cuts an AddN of more than 62 inputs in graphs, which
    MindSpore's kernel-by-kernel mode does not do for it; 32 is far below.
    """
    return 32 if target == "Ascend" else None


def collective_environment(timeout_s: int) -> dict[str, str]:
    """Return the variables that make ranks wait `timeout_s` seconds for a slow one, to connect and in a collective.

    One rank may compile for minutes after another has finished. The launcher ends a rank that hangs, not the collective
    (on the CPU after 30 s without this). CANN accepts 120 to 7200 s for HCCL_CONNECT_TIMEOUT.
    """
    return {
        "MS_TOPO_TIMEOUT": str(timeout_s),  # as msrun sets it, for 600 s
        "MS_CPU_COMM_OP_TIMEOUT": str(timeout_s),
        "HCCL_EXEC_TIMEOUT": str(timeout_s),
        "HCCL_CONNECT_TIMEOUT": str(min(max(timeout_s, 120), 7200)),
    }


def device_folders(target: str, of_rank: Path) -> dict[str, Path]:
    """Return variables for a rank that name folders, which must exist: on Ascend those of CANN, elsewhere none.

    The ranks of a machine share the operators that CANN compiles (DECISIONS, 2026-11-29); `of_rank` takes the files
    that CANN writes for one process. CANN accepts only letters, digits and `_-.` in a path; another folder is left out.
    """
    if target != "Ascend":
        return {}
    folders = {"ASCEND_WORK_PATH": of_rank.absolute()}
    with contextlib.suppress(RuntimeError):  # no home directory: then CANN's own default
        folders["ASCEND_CACHE_PATH"] = cache_folder("cann").absolute() / platform.node()
    return {name: folder for name, folder in folders.items() if re.fullmatch(r"[\w./-]+", str(folder), re.ASCII)}


def driver_versions(target: str, root: Path = Path("/")) -> dict[str, str]:
    """Return the versions of the drivers and toolkits that MindSpore needs, "" for one not in its usual folder."""
    if target == "Ascend":
        return {
            "driver": _first_match(root / "usr/local/Ascend/driver/version.info", r"(?i)^version=(.+)"),
            "CANN": next(filter(None, map(_cann_version, toolkit_folders(root=root))), ""),
        }
    if target == "GPU":
        return {
            "driver": _first_match(root / "proc/driver/nvidia/version", r"Kernel Module\s+(?:for \S+\s+)?([\d.]+)"),
            "CUDA": _first_match(
                root / "usr/local/cuda/version.json", r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([^"]+)"'
            ),
        }
    return {}


def _cann_version(toolkit: Path) -> str:
    return _first_match(toolkit / "compiler/version.info", r"(?i)^version=(.+)") or _first_match(  # as MindSpore does
        toolkit / "version.cfg", r"\[(?:[^:\]]*:)?([^\]]+)\]"
    )


def _first_match(path: Path, pattern: str) -> str:
    try:
        match = re.search(pattern, path.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return ""
    return match.group(1).strip() if match else ""


def _plugin_folder() -> Path:
    spec = importlib.util.find_spec("mindspore")  # does not import it
    return Path(spec.origin).parent / "lib" / "plugin" if spec and spec.origin else Path("/nonexistent")
