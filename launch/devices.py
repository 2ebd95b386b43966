"""Everything that differs between Ascend, GPU and CPU: detecting devices, and how long their collectives wait.

No other module has lines for a specific device. Only the lines for the CPU have been run; those for Ascend and GPU rely
on documented names.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from convnext_imagenet.base.cann import toolkit_folders

TARGETS = ("Ascend", "GPU", "CPU")
AUTO = "auto"
_NODES = {"Ascend": "davinci[0-9]*", "GPU": "nvidia[0-9]*"}  # device files of the drivers, one for each device
_PLUGINS = {"Ascend": "ascend*", "GPU": "gpu*"}  # in mindspore/lib/plugin: what the installed MindSpore supports


@dataclass(frozen=True)
class DeviceChoice:
    """The device target that a command runs on, and why."""

    target: str
    reason: str


def devices_seen(target: str, dev: Path = Path("/dev")) -> int:
    """Return how many devices of the target the drivers show; the CPU counts as one."""
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


def collective_environment(timeout_s: int) -> dict[str, str]:
    """Return the variables that make a device's collectives wait `timeout_s` seconds for a slow rank.

    The default on the CPU is 30 s, and one rank may compile for longer than that after another has finished. The
    launcher, not the collective, ends a rank that hangs.
    """
    return {"MS_CPU_COMM_OP_TIMEOUT": str(timeout_s), "HCCL_EXEC_TIMEOUT": str(timeout_s)}


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
