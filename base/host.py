"""Facts of this machine and installation: processor flags, the cache folder, the digest of our sources."""

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import resource
from collections.abc import Iterable
from pathlib import Path

from convnext_imagenet.base.errors import ArtefactError

ROOMS = ("base", "records", "model", "launch", "ingest", "serve", "train")
_SPARE_FILE_DESCRIPTORS = 256  # for libraries, logs, sockets of the rest of the process
_CODE = {".py", ".cpp", ".h"}  # templates and presets change no compiled step


def processor_flags() -> frozenset[str]:
    """Return the flags of the first processor, such as "avx2", from Linux on x86; the empty set elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


def cache_folder(name: str) -> Path:
    """Return the folder `name` in the user's cache; it may not exist yet.

    Raises RuntimeError when the user has no home directory.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "convnext_imagenet" / name


def allow_open_files(files: int) -> None:
    """Raise this process's limit of open files so far that `files` more fit.

    Raises ArtefactError when the hard limit is too low.
    """
    needed = files + _SPARE_FILE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise ArtefactError(
                f"{needed} open files needed, but the hard limit is {hard}; ask an administrator to raise it "
                f"(`ulimit -Hn {needed}` as root)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def release_free_memory() -> None:
    """Give memory that is free, but kept by the C library for later, back to the system; does nothing without glibc."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def sources_digest(rooms: Iterable[str] = ROOMS) -> str:
    """Return the SHA-256 of the names and bytes of our installed code in these rooms."""
    digest = hashlib.sha256()
    for room in rooms:
        spec = importlib.util.find_spec(f"convnext_imagenet.{room}")
        for folder in map(Path, (spec and spec.submodule_search_locations) or ()):
            for path in sorted(path for path in folder.rglob("*") if path.suffix in _CODE):
                data = path.read_bytes()
                digest.update(f"{room}/{path.relative_to(folder).as_posix()}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()
