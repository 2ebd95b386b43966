"""Builds the kernels' shared library on first use, into a cache that several processes may share.

`kernels_library` gives the library's path, or None with the reason in the log: then the network runs on MindSpore's
own operators. The cache folder's name holds a hash of all that decides the machine code; a library counts only if
its sha256 stands beside it, written after it. This file knows nothing of MindSpore.
"""

import atexit
import contextlib
import ctypes
import fcntl
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from convnext_imagenet.base.host import cache_folder, processor_flags

SWITCH = "CONVNEXT_KERNELS"
SOURCES = Path(__file__).parent
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread")
NEEDED_CPU_FLAGS = frozenset({"avx2", "fma"})
COMPILERS = ("c++", "g++", "clang++")
BUILD_SECONDS = 300
LIBRARY = "kernels.so"

log = logging.getLogger(__name__)


class NoKernels(Exception):
    """Why there is no library."""


@functools.cache
def kernels_library() -> Path | None:
    """The path of the built and loadable library, or None; logs once which of the two, and why."""
    try:
        library = _find_or_build()
    except NoKernels as reason:
        log.warning("CPU kernels off, MindSpore's own operators run instead: %s", reason)
        return None
    log.info("CPU kernels on (%s): %s", "AVX-512" if "avx512f" in processor_flags() else "AVX2", library)
    return library


def _find_or_build() -> Path:
    if os.environ.get(SWITCH, "").lower() == "off":
        raise NoKernels(f"{SWITCH}=off")
    cpu = processor_flags()
    if missing := sorted(NEEDED_CPU_FLAGS - cpu):
        raise NoKernels(f"the processor ({platform.machine()}) lacks {', '.join(missing)}")
    compiler = find_compiler()
    key = _cache_key(compiler, _compiler_version(compiler), cpu)
    for folder in (cache_folder("kernels") / key, None):
        try:
            library = _library_in(folder or _private_folder(), compiler)
        except OSError as error:
            log.info("kernel cache %s cannot be used (%s)", folder, error)
            continue
        _check_allowed(library)
        return library
    raise NoKernels("neither the cache folder nor the temporary folder can be written")


def _library_in(folder: Path, compiler: list[str]) -> Path:
    """The folder's library, built if it is absent, cut short, or not loadable. Raises OSError, NoKernels."""
    if ":" in str(folder):
        raise OSError("its path holds a colon, which MindSpore takes for the end of the path")
    library = folder / LIBRARY
    if _is_whole(library):
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with _exclusive(folder):
        if not _is_whole(library):
            log.info("building the CPU kernels with %s, once for this machine (about ten seconds)", compiler[0])
            _build(compiler, library)
    return library


def _is_whole(library: Path) -> bool:
    """True if the library has the stated sha256 and can be loaded."""
    try:
        stated = _mark(library).read_text().strip()
        if hashlib.sha256(library.read_bytes()).hexdigest() != stated:
            return False
        ctypes.CDLL(str(library))
    except OSError:
        return False
    return True


def _build(compiler: list[str], library: Path) -> None:
    """Compiles under a temporary name, then renames; the sha256 comes last."""
    handle, name = tempfile.mkstemp(suffix=".so", dir=library.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        _run([*compiler, *FLAGS, *map(str, sorted(SOURCES.glob("*.cpp"))), "-o", name], BUILD_SECONDS)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        _mark(library).unlink(missing_ok=True)
        temporary.chmod(0o755)
        temporary.replace(library)
    finally:
        temporary.unlink(missing_ok=True)
    mark = _mark(library).with_suffix(f".{os.getpid()}")
    mark.write_text(digest + "\n")
    mark.replace(_mark(library))
    if not _is_whole(library):
        raise NoKernels(f"{library} was built but cannot be loaded")


def _mark(library: Path) -> Path:
    return library.with_suffix(".sha256")


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """One builder at a time; the lock ends with the process that holds it."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def find_compiler() -> list[str]:
    """The C++ compiler as the words of a command: CXX, or the first of the usual ones. Raises NoKernels."""
    if chosen := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(chosen[0]) is None:
            raise NoKernels(f"CXX={chosen[0]} is not to be found")
        return chosen
    for name in COMPILERS:
        if path := shutil.which(name):
            return [path]
    raise NoKernels(f"no C++ compiler ({', '.join(COMPILERS)}); install one or set CXX")


def _compiler_version(compiler: list[str]) -> str:
    return _run([*compiler, "--version"], 30)


def _run(command: list[str], seconds: float) -> str:
    """Standard output of a compiler call. Raises NoKernels with its last line if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoKernels(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        errors = (
            [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no message"]
        )
        raise NoKernels(f"{command[0]} failed with code {done.returncode}: {errors[0]}")
    return done.stdout


def _cache_key(compiler: list[str], version: str, cpu: frozenset[str]) -> str:
    parts = hashlib.sha256()
    for path in sorted((*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h"))):
        parts.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for part in (*FLAGS, *compiler, version, *sorted(cpu)):
        parts.update(part.encode() + b"\0")
    return parts.hexdigest()[:24]


def _private_folder() -> Path:
    """A folder of this process alone, gone at its end."""
    folder = Path(tempfile.mkdtemp(prefix="convnext-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _check_allowed(library: Path) -> None:
    """MindSpore refuses operators outside this folder if the user set one."""
    allowed = os.environ.get("MS_CUSTOM_AOT_WHITE_LIST")
    if allowed is not None and not library.resolve().is_relative_to(Path(allowed).resolve()):
        raise NoKernels(f"MS_CUSTOM_AOT_WHITE_LIST={allowed} does not hold {library}")
