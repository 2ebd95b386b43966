"""How to open a file of unknown kind: never block on a pipe, open no device, follow no link unasked, never write."""

import os
import stat
from pathlib import Path

_KINDS = (  # quarantine.parquet stores these words: see CHECKS_VERSION of records/images.py
    (stat.S_ISLNK, "a symbolic link; with --follow-links those that lead to plain files are read"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISDIR, "a folder"),
)


def open_source(path: Path, follow_links: bool = False) -> int | None:
    """Return a descriptor to read a plain file, or None for a link, pipe, device or socket, which is not even opened.

    Raises OSError as `os.open` does.
    """
    try:
        mode = path.stat(follow_symlinks=follow_links).st_mode
    except OSError:
        if path.is_symlink():  # broken or circular
            return None
        raise
    if not stat.S_ISREG(mode):
        return None
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):  # it may have been replaced since `stat`
        return descriptor
    os.close(descriptor)
    return None


def kind_of_file(path: Path) -> str:
    """Return in words what an entry is that is not a plain file. Raises OSError when it cannot be examined."""
    mode = path.lstat().st_mode
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "a device")
