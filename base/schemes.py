"""Which names are URIs. Imports no store, so that the options of a command may ask."""

import os
import re

_TYPED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|file:/")  # Hadoop and Spark write file:/path
_AS_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")  # `Path` makes one slash of two


def is_uri(place: str | os.PathLike[str]) -> bool:
    """Return whether a place is a URI such as s3://bucket/folder, and not a path."""
    pattern = _TYPED if isinstance(place, str) else _AS_PATH
    return pattern.match(os.fspath(place)) is not None
