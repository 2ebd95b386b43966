"""URIs of files: which ones can be read, how they are written without their secrets, and their bytes.

Stores are those of `pyarrow.fs`; http:// and https:// are read by the standard library. This file knows no images.
"""

import errno
import functools
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

import pyarrow as pa
import pyarrow.fs as pa_fs

from convnext_imagenet.serve.errors import ServeError

STORE_SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss", "hf")
SCHEMES = ("file", "http", "https", *STORE_SCHEMES)
_WEB_SCHEMES = ("http", "https")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET = re.compile(r"sig|token|key|secret|credential|password", re.IGNORECASE)  # in names of parameters
_LEGAL = "%/:?#[]@!$&'()*+,;=~"  # what has a meaning in a URI; anything else but letters and digits is encoded
_GS_RETRY_S = 8  # Google's library tries for 15 minutes by default, also without credentials
_WEB_TIMEOUT_S = 30.0
_CONNECTIONS = 64
_PACKAGES_OF = {"hf": "pip install 'convnext_imagenet[hf]'"}


def is_uri(name: bytes) -> bool:
    """Return whether a name is a URI, and not a path."""
    return _SCHEME.match(name) is not None


def public_uri(uri: str) -> str:
    """Return a URI without its user, password and secret parameters, as messages and tables may show it."""
    parts = _split(uri)
    host = parts.netloc.rpartition("@")[2] if parts.scheme not in ("abfs", "abfss") else parts.netloc
    shown = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if not _SECRET.search(pair[0])]
    is_clean = host == parts.netloc and len(shown) == len(parse_qsl(parts.query, keep_blank_values=True))
    return uri if is_clean else parts._replace(netloc=host, query=urlencode(shown)).geturl()


def check_uri(uri: str) -> None:
    """Raise ServeError for a URI of a scheme that cannot be read, or whose store cannot be opened."""
    parts = _split(uri)
    if parts.scheme not in SCHEMES:
        raise ServeError(f"{public_uri(uri)}: cannot be read; use a path or a URI of {', '.join(SCHEMES)}")
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise ServeError(f"{public_uri(uri)}: names another machine; use file:///path")
    if parts.scheme in STORE_SCHEMES:
        _open_store(_base(parts))


def open_store(uri: str) -> tuple[pa_fs.FileSystem, str]:
    """Return the store of a URI and the path in it. Raises ServeError when the store is unknown or cannot be opened."""
    parts = _split(uri)
    # Arrow opens as many connections to S3 as it has these threads when a store is opened, and 25 at least.
    pa.set_io_thread_count(max(pa.io_thread_count(), _CONNECTIONS))
    try:
        return pa_fs.FileSystem.from_uri(_encoded(parts).geturl())
    except ImportError as error:
        package = _PACKAGES_OF.get(parts.scheme, "a package that is missing")
        raise ServeError(f"{public_uri(uri)}: needs {package} ({error})") from None
    except (OSError, ValueError, NotImplementedError) as error:
        text = " ".join(str(error).split()).replace(uri, public_uri(uri))
        if parts.netloc and parts.netloc in text:
            text = "the address cannot be parsed"
        raise ServeError(
            f"{public_uri(uri)}: cannot be listed ({text}); check the address and your access to it"
        ) from None


def uri_reader(uri: str, read_local: Callable[[Path], bytes], most_bytes: int) -> bytes:
    """Return up to `most_bytes` + 1 bytes of what a URI names; `read_local` reads a path of this machine.

    Raises OSError (FileNotFoundError when the place says that there is no such file), and what `read_local` raises.
    """
    parts = _split(uri)
    if parts.scheme == "file":
        return read_local(Path(unquote(parts.path)))
    if parts.scheme in _WEB_SCHEMES:
        return _read_web(_encoded(parts).geturl(), most_bytes)
    try:
        store, prefix = _open_store(_base(parts))
        with store.open_input_stream(f"{prefix.rstrip('/')}/{unquote(parts.path).removeprefix('/')}") as stream:
            return stream.read(most_bytes + 1)
    except (ServeError, pa.ArrowException) as error:
        raise OSError(errno.EINVAL, " ".join(str(error).split())) from None


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


def _split(uri: str) -> SplitResult:
    if not uri.lower().startswith(("http://", "https://")):
        uri = uri.replace("#", "%23")  # keys and paths may hold it, and a fragment has no meaning there
    try:
        parts = urlsplit(uri)
    except ValueError:  # a part that is no host
        return SplitResult(uri.partition("://")[0].lower(), "", "", "", "")
    return parts._replace(scheme=parts.scheme.lower())


def _base(parts: SplitResult) -> str:
    """Return the URI of the store, or of the bucket, that a file lies in."""
    return _encoded(parts._replace(path="/", fragment="")).geturl()


def _encoded(parts: SplitResult) -> SplitResult:
    """Return a URI whose blanks and other characters without a meaning are encoded; what is encoded stays."""
    path = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", parts.path)
    query = parts.query
    if parts.scheme in ("gs", "gcs") and "retry_limit_seconds" not in query:
        query = "&".join(filter(None, [query, f"retry_limit_seconds={_GS_RETRY_S}"]))
    return parts._replace(path=quote(path, safe=_LEGAL), query=quote(query, safe=_LEGAL))


@functools.cache
def _open_store(base: str) -> tuple[pa_fs.FileSystem, str]:
    return open_store(base)


def source_of(name: bytes) -> bytes:
    """Return the name of an input as it may be stored: a path as it is, a URI without its secrets."""
    return os.fsencode(public_uri(os.fsdecode(name))) if is_uri(name) else name
