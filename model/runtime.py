"""Prepares MindSpore once for a process: environment first, then device and graph mode.

Imports MindSpore only inside functions, because it reads its environment variables when it is imported.
"""

import functools
import logging
import os
import tempfile
from pathlib import Path

from convnext_imagenet.base.cann import sourcing_advice
from convnext_imagenet.base.host import processor_flags
from convnext_imagenet.base.own_process import has_started
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.kernels.build import network_library

log = logging.getLogger(__name__)

DEVICE_TARGETS = ("CPU", "GPU", "Ascend")


def prepare(device_target: str = "CPU", device_id: int = 0, is_deterministic: bool = True) -> None:
    """Set up MindSpore for graph mode on a device; call it before any other MindSpore work.

    Without `is_deterministic`, Ascend and GPU may compute the same sum with other last bits each time; the CPU never
    does. Calling it again with the same arguments changes nothing. Raises ModelError for an unknown or absent device.
    """
    if device_target not in DEVICE_TARGETS:
        raise ModelError(f"device target {device_target!r} is unknown; use one of {', '.join(DEVICE_TARGETS)}")
    set_environment()

    import mindspore  # only now: it takes seconds, and reads the variables that were just set

    try:
        mindspore.set_device(device_target, None if device_target == "CPU" else device_id)
    except RuntimeError as error:
        raise ModelError(_unusable(str(error), device_target)) from error
    _set_numbers(device_target, is_deterministic)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    has_started()  # what MindSpore's import made stays to the end


@functools.cache  # MindSpore refuses to be told twice
def _set_numbers(device_target: str, is_deterministic: bool) -> None:
    """Make the same sums give the same bits each time, unless a user trades this for speed, and float32 be float32.

    On Ascend, MindSpore's default for float32 convolutions is HF32, which has 10 bits of fraction instead of 23. Its
    default is not deterministic, either. It must be told before ranks are connected, because it sets
    HCCL_DETERMINISTIC (CANN's collectives) and TE_PARALLEL_COMPILER besides its own kernels.
    """
    import mindspore

    if device_target == "CPU":
        return
    if is_deterministic:
        mindspore.set_deterministic(True)
    if device_target == "Ascend":
        from mindspore.device_context.ascend import op_precision

        op_precision.conv_allow_hf32(False)
        op_precision.matmul_allow_hf32(False)


def chip_name() -> str:
    """Return the name of this process's Ascend chip, such as "Ascend910B1"; "" for other and for simulated devices."""
    import mindspore

    if mindspore.get_context("device_target") != "Ascend":
        return ""
    try:
        return str(mindspore.hal.get_device_name(mindspore.get_context("device_id")))
    except (RuntimeError, ValueError) as error:
        log.info("MindSpore does not tell the name of the chip (%s)", error)
        return ""


def is_deterministic() -> bool:
    """Return whether this process gets the same bits each time: on the CPU always, elsewhere as `prepare` was told."""
    import mindspore

    return mindspore.get_context("device_target") == "CPU" or mindspore.get_context("deterministic") == "ON"


def set_environment() -> None:
    """Set the variables of `environment`; without effect on MindSpore's log if MindSpore was imported before."""
    for name, value in environment(processor_flags()).items():
        os.environ.setdefault(name, value)


def cpu_kernels() -> Path | None:
    """Return the library of our kernels if the device is the CPU and they can be built; log once what runs and why."""
    import mindspore

    device_target = mindspore.get_context("device_target")
    if device_target == "CPU":
        return network_library()
    _log_own_operators(device_target)
    return None


def _unusable(message: str, device_target: str) -> str:
    """Return why the target cannot be used, and what to do: MindSpore's line on a missing library, else its first."""
    lines = [line.strip() for line in message.strip().splitlines()]
    plugin = f"libmindspore_{device_target.lower()}.so"  # other libraries fail only because this one did
    missing = next((line for line in lines if line.startswith("Load dynamic library") and plugin in line), None)
    is_sourcing = device_target == "Ascend" and missing is not None
    advice = sourcing_advice() if is_sourcing else f"install what MindSpore needs for {device_target}"
    reason = (missing or lines[0]).rstrip(".")
    return f"device target {device_target} cannot be used: {reason}; {advice}, or pass --device-target CPU"


@functools.cache
def _log_own_operators(device_target: str) -> None:
    log.info("MindSpore's own operators run on %s; our kernels are only for the CPU", device_target)


def environment(processor_flags: frozenset[str]) -> dict[str, str]:
    """Return the variables to set for MindSpore, unless the user has set them.

    GLOG_v=3 hides warnings, MS_SUBMODULE_LOG_v those of the submodule for ranks. MS_OM_PATH moves the dump of a failed
    compilation out of the working directory. With AVX-512 allowed, oneDNN picks a reference
    convolution that is over ten times slower than its AVX2 one.
    """
    variables = {
        "GLOG_v": "3",
        "MS_SUBMODULE_LOG_v": "{DISTRIBUTED:3}",
        "MS_OM_PATH": str(Path(tempfile.gettempdir()) / f"convnext_imagenet-{os.getuid()}"),
    }
    if "avx512f" in processor_flags:
        variables["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    return variables
