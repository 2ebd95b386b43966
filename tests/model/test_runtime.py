"""The process is prepared once: environment before MindSpore, the device checked."""

import importlib.util
import logging
import os
import re
import subprocess
import sys

import pytest

from convnext_imagenet.model import runtime
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.runtime import environment, prepare


@pytest.mark.parametrize(
    ("flags", "isa"), [({"avx2", "avx512f"}, "AVX2"), ({"avx2"}, None), (set(), None)], ids=["avx512", "avx2", "arm"]
)
def test_onednn_is_kept_off_avx512(flags, isa):
    assert environment(frozenset(flags)).get("ONEDNN_MAX_CPU_ISA") == isa


def test_an_unknown_device_names_the_known_ones():
    with pytest.raises(ModelError, match="'TPU' is unknown; use one of CPU, GPU, Ascend"):
        prepare("TPU")


def test_a_device_that_cannot_be_used_names_the_way_out():
    with pytest.raises(ModelError, match=r"device target GPU cannot be used: .*, or pass --device-target CPU$"):
        prepare("GPU")  # absent, or refused because this process runs on the CPU already


UNSUPPORTED = """\
Unsupported device target {target}. This process only supports one of the ['CPU']. Please check the environment.

----------------------------------------------------
- Device load error message:
----------------------------------------------------
Load dynamic library: libmindspore_ascend.so.2 failed. libge_runner.so: cannot open shared object file: No such file
Load dynamic library: libmindspore_ops_ascend.so failed. libmindspore_ascend_res_manager.so: cannot open

----------------------------------------------------
- C++ Call Stack: (For framework developers)
----------------------------------------------------
mindspore/core/utils/ms_context.cc:291 SetDeviceTargetFromInner
"""  # MindSpore 2.10 without CANN; `target` is the one that was asked for


@pytest.mark.parametrize(
    ("message", "target", "reason"),
    [
        (
            UNSUPPORTED,
            "Ascend",
            r"Load dynamic library: libmindspore_ascend\.so\.2 failed\. libge_runner\.so: cannot open",
        ),
        (UNSUPPORTED, "GPU", r"Unsupported device target GPU\. This"),
        ("The device can not be modified.", "Ascend", "The device can not be modified; install what"),
    ],
)
def test_the_missing_library_is_named(monkeypatch, message, target, reason):
    def fail(*_):
        raise RuntimeError(message.format(target=target))

    monkeypatch.setattr("mindspore.set_device", fail)
    with pytest.raises(ModelError, match=f"^device target {target} cannot be used: {reason}") as error:
        prepare(target)
    assert ("set_env.sh" in str(error.value)) == ("Load dynamic" in reason)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("target", "is_deterministic", "told"),
    [("Ascend", True, [True]), ("GPU", True, [True]), ("Ascend", False, []), ("GPU", False, []), ("CPU", True, [])],
)
def test_a_device_is_told_once_to_be_deterministic_unless_that_is_traded(monkeypatch, target, is_deterministic, told):
    calls = []
    monkeypatch.setattr("mindspore.set_device", lambda *_: None)
    monkeypatch.setattr("mindspore.set_deterministic", calls.append)
    hf32 = []
    for name in ("conv_allow_hf32", "matmul_allow_hf32"):
        monkeypatch.setattr(f"mindspore.device_context.ascend.op_precision.{name}", hf32.append)
    runtime._set_numbers.cache_clear()
    for _ in range(2):
        prepare(target, 0, is_deterministic)
    assert calls == told
    assert hf32 == ([False, False] if target == "Ascend" else [])
    runtime._set_numbers.cache_clear()


@pytest.mark.parametrize(
    ("target", "setting", "expected"), [("CPU", "OFF", True), ("Ascend", "ON", True), ("Ascend", "OFF", False)]
)
def test_the_cpu_is_always_deterministic_and_devices_as_they_were_told(monkeypatch, target, setting, expected):
    values = {"device_target": target, "deterministic": setting}
    monkeypatch.setattr("mindspore.get_context", values.__getitem__)
    assert runtime.is_deterministic() == expected


def test_other_devices_use_mindspores_own_operators_and_say_so_once(monkeypatch, caplog):
    monkeypatch.setattr("mindspore.get_context", lambda _: "Ascend")
    runtime._log_own_operators.cache_clear()
    with caplog.at_level(logging.INFO):
        assert runtime.cpu_kernels() is None
        assert runtime.cpu_kernels() is None
    assert [record.getMessage() for record in caplog.records] == [
        "MindSpore's own operators run on Ascend; our kernels are only for the CPU"
    ]


_FRESH_PROCESS = """
import os, sys
import convnext_imagenet.model.runtime, convnext_imagenet.model.transform
assert "mindspore" not in sys.modules
for _ in range(2):
    convnext_imagenet.model.runtime.prepare("CPU")
import mindspore
print(os.environ["ONEDNN_MAX_CPU_ISA"], os.environ["GLOG_v"])
print(mindspore.get_context("mode") == mindspore.GRAPH_MODE, mindspore.get_context("device_target"))
"""


def test_a_fresh_process_is_prepared_and_the_users_settings_stand(tmp_path):
    environ = {name: value for name, value in os.environ.items() if name not in ("GLOG_v", "MS_OM_PATH")}
    done = subprocess.run(
        [sys.executable, "-c", _FRESH_PROCESS],
        env={**environ, "ONEDNN_MAX_CPU_ISA": "SSE41"},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout.split() == ["SSE41", "3", "True", "CPU"]
    assert list(tmp_path.iterdir()) == []


def test_without_cann_a_fresh_process_names_its_library_and_what_to_source(tmp_path):
    """What the installed MindSpore really says; its words are not ours."""
    if importlib.util.find_spec("hccl") is not None:
        pytest.skip("CANN is installed here")
    program = "from convnext_imagenet.model.runtime import prepare; prepare('Ascend')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert re.search(r"cannot be used: Load dynamic library: libmindspore_ascend\.so.* lib\w+\.so: cannot open", last)
    assert "set_env.sh" in last
