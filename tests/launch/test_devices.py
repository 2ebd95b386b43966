"""Which device a command runs on when nobody says so, and what its drivers tell of themselves.

The files are those of CANN 8 and 9, the Ascend driver 24, and NVIDIA's driver and CUDA 11.
"""

import re
from pathlib import Path

import pytest

from convnext_imagenet.launch.devices import (
    DeviceChoice,
    choose_target,
    collective_environment,
    device_folders,
    devices_seen,
    driver_versions,
    is_first_generation,
)

ASCEND = ("davinci0", "davinci1", "davinci10", "davinci_manager", "hisi_hdc", "devmm_svm")
NVIDIA = ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-caps")
PLUGINS = ("ascend", "cpu", "gpu", "gpu11.6", "libmindspore_ascend.so.2", "libmindspore_gpu.so.11.6")


def _folder(path: Path, names: tuple[str, ...]) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_text("")
    return path


@pytest.mark.parametrize(
    ("nodes", "plugins", "target", "reason"),
    [
        ((), PLUGINS, "CPU", r"no Ascend \(no .*davinci\[0-9\]\*\), no GPU \(no .*nvidia\[0-9\]\*\)"),
        (("davinci_manager", "nvidiactl", "null"), PLUGINS, "CPU", r"no Ascend .*, no GPU "),
        (ASCEND, PLUGINS, "Ascend", r"^3 Ascend devices found$"),
        (NVIDIA, PLUGINS, "GPU", r"^2 GPU devices found$"),
        ((*ASCEND, *NVIDIA), PLUGINS, "Ascend", "Ascend"),
        ((*ASCEND, *NVIDIA), ("gpu11.6",), "GPU", "2 GPU"),
        (NVIDIA, ("cpu", "ascend"), "CPU", r"no GPU \(the installed MindSpore is not built for it\)"),
        (ASCEND, (), "CPU", r"no Ascend \(the installed MindSpore is not built for it\)"),
    ],
)
def test_auto_takes_the_first_that_driver_and_mindspore_both_have(
    tmp_path: Path, nodes: tuple[str, ...], plugins: tuple[str, ...], target: str, reason: str
) -> None:
    dev, folder = _folder(tmp_path / "dev", nodes), _folder(tmp_path / "plugins", plugins)
    choice = choose_target("auto", dev, folder)
    assert choice.target == target
    assert re.search(reason, choice.reason), choice.reason


@pytest.mark.parametrize("target", ["Ascend", "GPU", "CPU"])
def test_what_is_asked_for_is_taken_without_a_look(tmp_path: Path, target: str) -> None:
    assert choose_target(target, tmp_path / "absent", tmp_path / "absent") == DeviceChoice(target, "requested")


def test_without_devices_auto_is_the_cpu(tmp_path: Path) -> None:
    assert choose_target("auto", _folder(tmp_path / "dev", ())).target == "CPU"


@pytest.mark.parametrize(("target", "count"), [("Ascend", 3), ("GPU", 2), ("CPU", 1)])
def test_devices_are_counted_without_the_drivers_other_files(tmp_path: Path, target: str, count: int) -> None:
    assert devices_seen(target, _folder(tmp_path / "dev", (*ASCEND, *NVIDIA))) == count


@pytest.mark.parametrize(("asked", "connect"), [(3600, 3600), (6, 120), (120, 120), (7200, 7200), (36_000, 7200)])
def test_no_rank_gives_up_before_the_launcher_does_as_far_as_cann_allows(asked: int, connect: int) -> None:
    assert collective_environment(asked) == {
        "MS_TOPO_TIMEOUT": str(asked),
        "MS_CPU_COMM_OP_TIMEOUT": str(asked),
        "HCCL_EXEC_TIMEOUT": str(asked),
        "HCCL_CONNECT_TIMEOUT": str(connect),
    }


def test_ranks_of_a_machine_share_what_cann_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.setattr("platform.node", lambda: "node-7.cluster")
    shared = Path("/cache/convnext_imagenet/cann/node-7.cluster")
    for rank in ("rank-0", "rank-1"):
        folders = device_folders("Ascend", Path("/run") / rank)
        assert folders == {"ASCEND_CACHE_PATH": shared, "ASCEND_WORK_PATH": Path("/run") / rank}
    monkeypatch.chdir(tmp_path)
    assert device_folders("Ascend", Path("logs"))["ASCEND_WORK_PATH"] == tmp_path / "logs"


@pytest.mark.parametrize("target", ["GPU", "CPU"])
def test_other_targets_need_no_folders(target: str) -> None:
    assert device_folders(target, Path("/run")) == {}


@pytest.mark.parametrize("name", ["my run", "ré", "a,b", "a$b"])
def test_a_folder_that_cann_refuses_is_left_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", f"/{name}")
    assert device_folders("Ascend", Path("/run")) == {"ASCEND_WORK_PATH": Path("/run")}
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert list(device_folders("Ascend", Path(f"/{name}"))) == ["ASCEND_CACHE_PATH"]


def test_without_a_home_directory_cann_takes_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> Path:
        raise RuntimeError("no home directory")

    monkeypatch.setattr("convnext_imagenet.launch.devices.cache_folder", fail)
    assert list(device_folders("Ascend", Path("/run"))) == ["ASCEND_WORK_PATH"]


ASCEND_DRIVER = """\
Version=24.1.rc3
ascendhal_version=7.35.23
Innerversion=V100R001C19SPC001B124
compatible_version=[V100R001C13],[V100R001C15]
compatible_version_fw=[7.0.0,7.5.99]
package_version=24.1.rc3
"""
COMPILER = "Version=8.5.0.2.220\nversion_dir=8.5.0\ntimestamp=20251222_194001902\n"
TOOLKIT = """\
# version: 1.0
runtime_running_version=[7.6.0.1.220:8.0.RC3]
compiler_running_version=[7.6.0.1.220:8.0.RC3]
"""
TOOLKIT_TEST_BUILD = "# version: 1.0\nruntime_running_version=[7.6.T13.0.B094:8.0.T63]\n"
NVIDIA_DRIVER = """\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023
GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)
"""
NVIDIA_OPEN_DRIVER = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder@U16)
GCC version:  gcc version 12.3.0
"""
CUDA = """\
{
   "cuda" : {
      "name" : "CUDA SDK",
      "version" : "11.6.20220318"
   },
   "cuda_cudart" : {
      "name" : "CUDA Runtime (cudart)",
      "version" : "11.6.55"
   }
}
"""
CANN = "usr/local/Ascend/ascend-toolkit/latest"


@pytest.mark.parametrize(
    ("target", "files", "expected"),
    [
        ("CPU", {}, {}),
        ("Ascend", {}, {"driver": "", "CANN": ""}),
        (
            "Ascend",
            {
                "usr/local/Ascend/driver/version.info": ASCEND_DRIVER,
                f"{CANN}/compiler/version.info": COMPILER,
                f"{CANN}/version.cfg": TOOLKIT,
            },
            {"driver": "24.1.rc3", "CANN": "8.5.0.2.220"},
        ),
        ("Ascend", {f"{CANN}/version.cfg": TOOLKIT}, {"driver": "", "CANN": "8.0.RC3"}),
        ("Ascend", {f"{CANN}/version.cfg": TOOLKIT_TEST_BUILD}, {"driver": "", "CANN": "8.0.T63"}),
        ("Ascend", {f"{CANN}/version.cfg": "\xff\xfe"}, {"driver": "", "CANN": ""}),
        ("GPU", {}, {"driver": "", "CUDA": ""}),
        (
            "GPU",
            {"proc/driver/nvidia/version": NVIDIA_DRIVER, "usr/local/cuda/version.json": CUDA},
            {"driver": "535.104.05", "CUDA": "11.6.20220318"},
        ),
        ("GPU", {"proc/driver/nvidia/version": NVIDIA_OPEN_DRIVER}, {"driver": "550.54.15", "CUDA": ""}),
    ],
)
def test_versions_are_read_where_they_usually_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, files: dict[str, str], expected: dict[str, str]
) -> None:
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    _write(tmp_path, files)
    assert driver_versions(target, tmp_path) == expected


def test_cann_may_lie_where_its_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, {f"{CANN}/version.cfg": TOOLKIT, "opt/cann/compiler/version.info": COMPILER})
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "opt" / "cann"))
    assert driver_versions("Ascend", tmp_path)["CANN"] == "8.5.0.2.220"


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="latin-1")


@pytest.mark.parametrize(
    ("chip", "is_first"),
    [
        ("Ascend910A", True),
        ("Ascend910B", True),  # without a number
        ("Ascend910ProB", True),
        ("Ascend910PremiumA", True),
        ("Ascend910", True),
        ("Ascend910B1", False),
        ("Ascend910B4", False),
        ("Ascend910_9391", False),
        ("Ascend950PR", False),
        ("", False),
    ],
)
def test_chips_before_atlas_a2_are_told_by_name(chip: str, is_first: bool) -> None:
    assert is_first_generation(chip) == is_first
