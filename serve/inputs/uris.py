"""URIs that name single inputs, in lists and columns: which can be read, what is stored of them, and their bytes.

Stores are those of `pyarrow.fs`; http:// and https:// are read by the standard library. This file knows no images.
"""

import errno
import functools
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, unquote

import pyarrow as pa
import pyarrow.fs as pa_fs

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.schemes import is_uri
from convnext_imagenet.base.uris import STORE_SCHEMES, encoded, one_line, open_store, public_uri, split_uri
from convnext_imagenet.serve.errors import ServeError

SCHEMES = ("file", "http", "https", *STORE_SCHEMES)
_WEB_SCHEMES = ("http", "https")
_WEB_TIMEOUT_S = 30.0


def names_uri(name: bytes) -> bool:
    """Return whether the name of an input is a URI, and not a path."""
    return is_uri(os.fsdecode(name))


def check_uri(uri: str) -> None:
    """Raise ServeError for a URI of a scheme that cannot be read, ArtefactError for a store that cannot be opened."""
    parts = split_uri(uri)
    if parts.scheme not in SCHEMES:
        raise ServeError(f"{public_uri(uri)}: cannot be read; use a path or a URI of {', '.join(SCHEMES)}")
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise ServeError(f"{public_uri(uri)}: names another machine; use file:///path")
    if parts.scheme in STORE_SCHEMES:
        _open_base(_base(parts))


def check_named(name: bytes, where: str) -> None:
    """Raise ServeError for the name of an input that is a URI which cannot be read; `where` says what names it."""
    try:
        check_uri(os.fsdecode(name))
    except (ArtefactError, ServeError) as error:
        raise ServeError(f"{where}: {error}") from None


def read_uri(uri: str, read_local: Callable[[Path], bytes], most_bytes: int) -> bytes:
    """Return up to `most_bytes` + 1 bytes of what a URI names; `read_local` reads a path of this machine.

    Raises OSError (FileNotFoundError when the place says that there is no such file), and what `read_local` raises.
    """
    parts = split_uri(uri)
    if parts.scheme == "file":
        return read_local(Path(unquote(parts.path)))
    if parts.scheme in _WEB_SCHEMES:
        return _read_web(encoded(parts).geturl(), most_bytes)
    try:
        store, prefix = _open_base(_base(parts))
        with store.open_input_stream(f"{prefix.rstrip('/')}/{unquote(parts.path).removeprefix('/')}") as stream:
            return stream.read(most_bytes + 1)
    except (ArtefactError, pa.ArrowException) as error:
        raise OSError(errno.EINVAL, one_line(error)) from None


def _read_web(url: str, most_bytes: int) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_WEB_TIMEOUT_S) as answer:  # of a checked scheme
            data = answer.read(most_bytes + 1)
            announced = int(answer.headers.get("Content-Length") or len(data))
    except urllib.error.HTTPError as error:
        if error.code in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE):
            raise FileNotFoundError(errno.ENOENT, f"HTTP status {error.code}") from None
        raise OSError(f"HTTP status {error.code}") from None
    except (http.client.HTTPException, urllib.error.URLError, ValueError) as error:
        raise OSError(f"{getattr(error, 'reason', error) or type(error).__name__}") from None
    if len(data) < min(announced, most_bytes):
        raise OSError(f"the connection ended after {len(data)} of {announced} bytes")
    return data


def _base(parts: SplitResult) -> str:
    """Return the URI of the store, or of the bucket, that a file lies in."""
    return encoded(parts._replace(path="/", fragment="")).geturl()


@functools.cache
def _open_base(base: str) -> tuple[pa_fs.FileSystem, str]:
    return open_store(base)


def source_of(name: bytes) -> bytes:
    """Return the name of an input as it may be stored: a path as it is, a URI without its secrets."""
    return os.fsencode(public_uri(os.fsdecode(name))) if names_uri(name) else name
