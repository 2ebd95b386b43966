"""The kernels' threads: a core each where the pool has all cores of the process, and none where it has not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from convnext_imagenet.model.kernels.build import kernels_library

CORES = sorted(os.sched_getaffinity(0))[:2]
_PROGRAM = """
import ctypes, json, os, sys
import numpy as np
library, cores, threads, calls_from = ctypes.CDLL(sys.argv[1]), *map(json.loads, sys.argv[2:])
os.sched_setaffinity(0, cores)
library.convnext_kernels_threads(threads)
x = np.ones((4096, 64), np.float32)
out = np.zeros_like(x)
params = (ctypes.c_void_p * 2)(x.ctypes.data, out.ctypes.data)
shape = (ctypes.c_int64 * 2)(*x.shape)
ranks, shapes = (ctypes.c_int * 2)(2, 2), (ctypes.c_void_p * 2)(*[ctypes.addressof(shape)] * 2)
def call():
    return library.convnext_gelu(2, params, ranks, shapes, None, None, None)
call()  # starts the threads
os.sched_setaffinity(0, calls_from)
codes = {call() for _ in range(50)}
others = [thread for thread in map(int, os.listdir("/proc/self/task")) if thread != os.getpid()]
print(json.dumps({
    "codes": sorted(codes), "right": bool(np.allclose(out, 0.8413447)), "caller": sorted(os.sched_getaffinity(0)),
    "workers": [sorted(os.sched_getaffinity(thread)) for thread in others],
}))
"""


@pytest.fixture(scope="module")
def library() -> Path:
    path = kernels_library()
    if path is None:
        pytest.skip("no kernels on this machine: no compiler, or another processor")
    if len(CORES) < 2:
        pytest.skip("one core: the kernels start no thread")
    return path


def _call(library: Path, threads: int, calls_from: list[int]) -> dict:
    arguments = [str(library), *map(json.dumps, (CORES, threads, calls_from))]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # NumPy's own threads are none of ours
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert answer.pop("codes") == [0]
    assert answer.pop("right")
    return answer


@pytest.mark.parametrize("calls_from", [CORES, CORES[:1], CORES[1:]], ids=["any core", "the first", "a worker's"])
def test_a_worker_has_its_own_core_and_the_caller_keeps_its_cores(library: Path, calls_from: list[int]) -> None:
    assert _call(library, 2, calls_from) == {"caller": calls_from, "workers": [CORES[1:]]}


def test_a_pool_of_fewer_threads_than_cores_leaves_them_to_the_system(library: Path) -> None:
    assert _call(library, 1, CORES) == {"caller": CORES, "workers": []}


def test_a_pool_of_more_threads_than_cores_leaves_them_to_the_system(library: Path) -> None:
    assert _call(library, 3, CORES) == {"caller": CORES, "workers": [CORES, CORES]}
