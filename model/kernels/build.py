"""Compiles the kernels' shared library at first use, into a cache that several processes may share.

`kernels_library` returns the library's path, or None with the reason in the log; then Pillow and OpenCV prepare the
images, and the network runs on MindSpore's own operators. On a processor without AVX2 and FMA, such as an ARM one, the
library holds only the kernels that prepare images, in a portable form with the same results. The name of the cache
folder is a hash of everything that decides the machine code. A library is used only if the file beside it, which is
written last, holds its SHA-256 (DECISIONS, 2026-11-24). This file knows nothing of MindSpore.
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
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from convnext_imagenet.base.host import cache_folder, processor_flags

SWITCH = "CONVNEXT_KERNELS"  # "off" for no kernels, "portable" for those of other processors
SOURCES = Path(__file__).parent
# Kernels that must equal Pillow bit by bit keep sums and products apart in their own source, despite -ffp-contract.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread")
NEEDED_CPU_FLAGS = frozenset({"avx2", "fma"})  # of the network's kernels: the narrowest vectors that simd.h has
PORTABLE_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-DCONVNEXT_PORTABLE", "-shared", "-fPIC")
PORTABLE_SOURCES = ("affine.cpp", "crops.cpp", "jpeg_box.cpp", "pixel_ops.cpp", "resize.cpp")
COMPILERS = ("c++", "g++", "clang++")
BUILD_SECONDS = 300  # for one file, about ten are usual; beyond, the compiler hangs
LIBRARY = "kernels.so"
_ONE_THREAD = threading.Lock()  # threads that ask at the same time would compile and log twice

log = logging.getLogger(__name__)


class Variant(NamedTuple):
    """The form of the kernels for a processor; `has_network` is false if it only holds those that prepare images."""

    name: str
    flags: tuple[str, ...]
    has_network: bool

    def sources(self) -> list[Path]:
        """Return the C++ files to compile."""
        every = sorted(SOURCES.glob("*.cpp"))
        return every if self.has_network else [path for path in every if path.name in PORTABLE_SOURCES]


def choose_variant(switch: str, cpu: frozenset[str]) -> Variant:
    """Return the form of the kernels for a processor with these flags; `switch` may ask for the portable one."""
    if switch == "portable" or not cpu >= NEEDED_CPU_FLAGS:
        return Variant("portable", PORTABLE_FLAGS, has_network=False)
    return Variant("AVX-512" if "avx512f" in cpu else "AVX2", FLAGS, has_network=True)


class NoKernels(Exception):
    """The reason why there is no library; `kernels_library` catches and logs it."""


def kernels_library() -> Path | None:
    """Return the path of the compiled library, or None without one; log once which, and why."""
    with _ONE_THREAD:
        return _choose_library()


def network_library() -> Path | None:
    """Return the path of the library if it also holds the kernels of the network, which need AVX2 and FMA."""
    return kernels_library() if _variant().has_network else None


def _variant() -> Variant:
    return choose_variant(os.environ.get(SWITCH, "").lower(), processor_flags())


@functools.cache
def _choose_library() -> Path | None:
    try:
        library = _find_or_build()
    except NoKernels as reason:
        log.warning("CPU kernels are off (%s); MindSpore's own operators run instead, which are slower", reason)
        return None
    variant = _variant()
    log.info("CPU kernels are on (%s): %s", variant.name, library)
    if not variant.has_network:
        log.info(
            "the network runs on MindSpore's own operators: its kernels need an x86-64 processor with AVX2 and FMA"
        )
    return library


def _find_or_build() -> Path:
    if os.environ.get(SWITCH, "").lower() == "off":
        raise NoKernels(f"{SWITCH}=off")
    compiler, variant = find_compiler(), _variant()
    key = _cache_key(compiler, _compiler_version(compiler), processor_flags(), variant)
    for folder in (cache_folder("kernels") / key, None):
        try:
            library = _library_in(folder or _private_folder(), compiler, variant)
        except OSError as error:
            log.info("kernel cache %s cannot be used (%s)", folder, error)
            continue
        _check_allowed(library)
        return library
    raise NoKernels("neither the cache folder nor the temporary folder can be written; set XDG_CACHE_HOME or TMPDIR")


def _library_in(folder: Path, compiler: list[str], variant: Variant) -> Path:
    """Return the folder's library; build it if it is missing, truncated or not loadable. Raises OSError, NoKernels."""
    if ":" in str(folder):
        raise OSError("its path holds a colon, which ends a path for MindSpore")
    library = folder / LIBRARY
    if _is_whole(library):
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with _exclusive(folder):
        if not _is_whole(library):
            log.info(
                "compiling the CPU kernels with %s, only once on this machine (half a minute on two cores)", compiler[0]
            )
            _build(compiler, library, variant)
    return library


def _is_whole(library: Path) -> bool:
    """Return whether the library has its recorded SHA-256 and can be loaded."""
    try:
        stated = _mark(library).read_text().strip()
        if hashlib.sha256(library.read_bytes()).hexdigest() != stated:
            return False
        ctypes.CDLL(str(library))
    except OSError:
        return False
    return True


def _build(compiler: list[str], library: Path, variant: Variant) -> None:
    """Compile in a temporary folder, rename, write the SHA-256 last. Raises OSError, NoKernels."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        temporary = Path(folder) / LIBRARY
        _compile(compiler, variant, temporary)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        _mark(library).unlink(missing_ok=True)  # before the rename: an old hash must not stand beside a new library
        temporary.chmod(0o755)
        temporary.replace(library)
    mark = _mark(library).with_suffix(f".{os.getpid()}")
    mark.write_text(digest + "\n")
    mark.replace(_mark(library))
    if not _is_whole(library):
        raise NoKernels(f"{library} was compiled but cannot be loaded")


def _compile(compiler: list[str], variant: Variant, library: Path) -> None:
    """Compile the files side by side, large ones first, each beside the library, and link them. Raises NoKernels."""

    def compile_one(source: Path) -> str:
        compiled = str(library.with_name(f"{source.stem}.o"))
        _run([*compiler, *variant.flags, "-c", str(source), "-o", compiled], BUILD_SECONDS)
        return compiled

    sources = sorted(variant.sources(), key=lambda path: -path.stat().st_size)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        compiled = sorted(pool.map(compile_one, sources))
    _run([*compiler, *variant.flags, *compiled, "-o", str(library)], BUILD_SECONDS)


def _mark(library: Path) -> Path:
    return library.with_suffix(".sha256")


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Let one process build at a time; the lock ends with the process that holds it."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def find_compiler() -> list[str]:
    """Return the C++ compiler as the words of a command: CXX, or the first found of COMPILERS. Raises NoKernels."""
    if chosen := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(chosen[0]) is None:
            raise NoKernels(f"CXX={chosen[0]} is not found; set CXX to a C++ compiler")
        return chosen
    for name in COMPILERS:
        if path := shutil.which(name):
            return [path]
    raise NoKernels(f"no C++ compiler ({', '.join(COMPILERS)}); install one or set CXX")


def _compiler_version(compiler: list[str]) -> str:
    return _run([*compiler, "--version"], 30)


def _run(command: list[str], seconds: float) -> str:
    """Return the standard output of a compiler call. Raises NoKernels with its first error line if it fails."""
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


def _cache_key(compiler: list[str], version: str, cpu: frozenset[str], variant: Variant) -> str:
    parts = hashlib.sha256()
    for path in sorted((*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h"))):
        parts.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for part in (*variant.flags, *compiler, version, platform.machine(), *sorted(cpu)):
        parts.update(part.encode() + b"\0")
    return parts.hexdigest()[:24]


def _private_folder() -> Path:
    """Return a folder of this process only, which is removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="convnext-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _check_allowed(library: Path) -> None:
    """Raise NoKernels if the user allows operators only from a folder that does not hold the library."""
    allowed = os.environ.get("MS_CUSTOM_AOT_WHITE_LIST")
    if allowed is not None and not library.resolve().is_relative_to(Path(allowed).resolve()):
        raise NoKernels(f"MS_CUSTOM_AOT_WHITE_LIST={allowed} allows no operators from {library.parent}")
