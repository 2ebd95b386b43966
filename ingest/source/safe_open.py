"""Opening a file of unknown kind: never blocks on a pipe, wakes no device, follows no link unasked, never writes."""

import os
import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISLNK, "a symbolic link; with --follow-links those that lead to plain files are read"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISDIR, "a folder"),
)


def open_source(path: Path, follow_links: bool = False) -> int | None:
    """A descriptor to read a plain file, or None for a link, pipe, device or socket, which is not even opened.

    Raises OSError as `os.open` does.
    """
    try:
        mode = path.stat(follow_symlinks=follow_links).st_mode
    except OSError:
        if path.is_symlink():  # to nowhere, or in a circle
            return None
        raise
    if not stat.S_ISREG(mode):
        return None
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def kind_of_file(path: Path) -> str:
    """What an entry is that is no plain file, in words."""
    mode = path.lstat().st_mode
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "a device")
