"""Files and folders that systems and programs leave among images: counted and named, never read. Pure: names in."""

import fnmatch
import re

# Short on purpose: a file that is not here is either an image by its content, or a row of the quarantine.
_FILES = (
    ".ds_store",
    "._*",
    ".apdisk",
    ".localized",
    "icon\r",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "*:zone.identifier",
    ".directory",
    ".picasa.ini",
    "picasa.ini",
    ".nomedia",
    ".nfs*",
    ".fuse_hidden*",
    ".~lock.*",
    ".*.sw[op]",
    ".*.??????",  # rsync's unfinished copies
    ".gitkeep",
    ".gitignore",
    ".keep",
)
_FOLDERS = (
    "__macosx",
    "@eadir",
    "#recycle",
    "#snapshot",
    "lost+found",
    "$recycle.bin",
    "system volume information",
    "__pycache__",
    ".*",
)


def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"({fnmatch.translate(pattern)})" for pattern in patterns), re.IGNORECASE)


_FILE, _FOLDER = _any_of(_FILES), _any_of(_FOLDERS)  # one match for each of 1.3 million names


def junk_kind(name: str, is_folder: bool) -> str | None:
    """Return the name, or the pattern, under which junk is counted; None for what is no junk."""
    patterns, match = (_FOLDERS, _FOLDER.match(name)) if is_folder else (_FILES, _FILE.match(name))
    if match is None or match.lastindex is None:
        return None
    pattern = patterns[match.lastindex - 1]
    is_one_name = not set(pattern) & set("*?[:\r")
    return f"{name if is_one_name else pattern.strip()}{'/' * is_folder}"
