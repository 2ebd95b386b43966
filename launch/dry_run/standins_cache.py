"""Compiles the stand-ins for CANN's libraries once for a MindSpore, into a cache that several processes may share.

The name of the cache folder is a hash of everything that decides its content. A finished folder is moved into the cache
as a whole, so that what is there is complete.
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from convnext_imagenet.base.host import cache_folder
from convnext_imagenet.launch.dry_run import elf, standins
from convnext_imagenet.launch.dry_run.standins import find_wanted, standins_source
from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.model.kernels.build import NoKernels, find_compiler

ROOT = "cann"  # MindSpore looks for CANN in a folder whose path has this name
_MAIN = "libascendcl.so"
_MARK = "sha256"
_FLAGS = ("-std=c++17", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{_MAIN}", "-x", "c++", "-")
_COMPILE_SECONDS = 120  # two are usual
# MindSpore's launch over several devices imports this package of CANN and asks for its version; it must be one that
# MindSpore knows. There is no package `te`: MindSpore would import parts of it.
_PACKAGES = {"hccl/__init__.py": "", "hccl/sys_version.py": '__sys_version__ = "8.5.0"\n'}


def standins_folder() -> Path:
    """Return the folder with the stand-ins for the installed MindSpore, as ASCEND_HOME_PATH; make it if it is absent.

    `lib64` holds the libraries, `python` the package hccl, `opp` nothing. Raises LaunchError without a compiler,
    without an Ascend plugin, for a MindSpore that wants what stand-ins cannot be, and for a cache that cannot be used.
    """
    lib = mindspore_libraries()
    place = cache_folder("ascend") / _cache_key()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(place.parent):
            if not _is_whole(place):
                _make(place, lib)
    except OSError as error:
        raise LaunchError(
            f"{place}: cannot be written ({error.strerror or error}); set XDG_CACHE_HOME to a folder that can"
        ) from None
    return place / ROOT


def mindspore_libraries() -> Path:
    """Return the folder `lib` of the installed MindSpore, without importing it. Raises LaunchError without one."""
    spec = importlib.util.find_spec("mindspore")
    if spec is None or spec.origin is None:
        raise LaunchError("MindSpore is not installed; install this package again")
    return Path(spec.origin).parent / "lib"


def _make(place: Path, lib: Path) -> None:
    wanted = find_wanted(lib)
    with tempfile.TemporaryDirectory(dir=place.parent) as temporary:
        root = Path(temporary) / place.name / ROOT
        (root / "lib64").mkdir(parents=True)
        (root / "opp").mkdir()
        main = root / "lib64" / _MAIN
        _compile(standins_source(wanted), main)
        for name in wanted.libraries:
            if name != _MAIN:
                (main.parent / name).symlink_to(_MAIN)  # the loader knows it for the same library
        for name, text in _PACKAGES.items():
            (root / "python" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "python" / name).write_text(text)
        (root.parent / _MARK).write_text(_digest(main))
        shutil.rmtree(place, ignore_errors=True)
        root.parent.rename(place)


def _is_whole(place: Path) -> bool:
    with contextlib.suppress(OSError):
        return (place / _MARK).read_text() == _digest(place / ROOT / "lib64" / _MAIN)
    return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compile(source: str, library: Path) -> None:
    try:
        command = [*find_compiler(), *_FLAGS, "-o", str(library)]
    except NoKernels as reason:
        raise LaunchError(f"stand-ins for CANN's libraries need a compiler: {reason}") from None
    try:
        done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=_COMPILE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"stand-ins for CANN's libraries: {command[0]}: {error}") from None
    if done.returncode:
        lines = done.stderr.splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
        raise LaunchError(f"stand-ins for CANN's libraries: {command[0]} failed with code {done.returncode}: {first}")


@functools.cache
def _cache_key() -> str:
    """Return a hash of MindSpore's version, of the processor's kind and of the code that makes the stand-ins."""
    parts = hashlib.sha256()
    for path in (elf.__file__, standins.__file__, __file__):
        parts.update(Path(path).read_bytes())
    parts.update(f"{importlib.metadata.version('mindspore')} {platform.machine()}".encode())
    return parts.hexdigest()[:24]


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Let one process build at a time; the lock ends with the process that holds it."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
