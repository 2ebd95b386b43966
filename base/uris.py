"""URIs: what may be shown of them, and the store of `pyarrow.fs` that each means. Reads no file."""

import re
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

import pyarrow as pa
import pyarrow.fs as pa_fs

from convnext_imagenet.base.errors import ArtefactError

STORE_SCHEMES = ("s3", "s3a", "s3n", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss", "hf")
_ARROWS_NAMES = {"s3a": "s3", "s3n": "s3"}  # of schemes that Hadoop and Spark write
_SECRET = re.compile(r"sig|token|key|secret|credential|password", re.IGNORECASE)  # in names of parameters
_LEGAL = "%/:?#[]@!$&'()*+,;=~"  # what has a meaning in a URI; anything else but letters and digits is encoded
_GS_RETRY_S = 8  # Google's library tries for 15 minutes by default, also without credentials
_CONNECTIONS = 64
_LONGEST_REASON = 300  # characters of a library's words: Google's repeats itself over a page
_PACKAGES_OF = {"hf": "pip install 'convnext_imagenet[hf]'"}


def public_uri(uri: str) -> str:
    """Return a URI without its user, password and secret parameters, as messages and tables may show it."""
    parts = split_uri(uri)
    host, parameters = _public_host(parts), parse_qsl(parts.query, keep_blank_values=True)
    shown = [pair for pair in parameters if not _SECRET.search(pair[0])]
    is_clean = host == parts.netloc and len(shown) == len(parameters)
    return uri if is_clean else parts._replace(netloc=host, query=urlencode(shown)).geturl()


def public_place(uri: str) -> str:
    """Return the URI of a folder without user, password and parameters, so that a name can be put behind it."""
    parts = split_uri(uri)
    if not parts.netloc and not parts.path:
        return f"{parts.scheme}://..."
    return parts._replace(netloc=_public_host(parts), query="", fragment="").geturl().rstrip("/")


def _public_host(parts: SplitResult) -> str:
    """Return the host without user and password; in Azure's container@account the first part is the address."""
    user, _, host = parts.netloc.rpartition("@")
    is_azure = parts.scheme in ("abfs", "abfss") and ":" not in user
    return parts.netloc if is_azure else host


def _secrets(parts: SplitResult) -> list[str]:
    """Return the user and the password of a URI; none of an Azure container, which is part of the address."""
    return [] if _public_host(parts) == parts.netloc else [word for word in (parts.username, parts.password) if word]


def split_uri(uri: str) -> SplitResult:
    """Return the parts of a URI, its scheme in lower case; only the scheme if the host cannot be parsed."""
    if not uri.lower().startswith(("http://", "https://")):
        uri = uri.replace("#", "%23")  # keys and paths may hold it, and a fragment has no meaning there
    try:
        parts = urlsplit(uri)
    except ValueError:
        return SplitResult(uri.partition("://")[0].lower(), "", "", "", "")
    return parts._replace(scheme=parts.scheme.lower())


def encoded(parts: SplitResult) -> SplitResult:
    """Return a URI as Arrow knows it: blanks and characters without a meaning are encoded; what is encoded stays."""
    path = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", parts.path)
    query = parts.query
    if parts.scheme in ("gs", "gcs") and "retry_limit_seconds" not in query:
        query = "&".join(filter(None, [query, f"retry_limit_seconds={_GS_RETRY_S}"]))
    scheme = _ARROWS_NAMES.get(parts.scheme, parts.scheme)
    return parts._replace(scheme=scheme, path=quote(path, safe=_LEGAL), query=quote(query, safe=_LEGAL))


def open_store(uri: str) -> tuple[pa_fs.FileSystem, str]:
    """Return the store of a URI and the path in it.

    Raises ArtefactError when the store is unknown, cannot be opened, or needs a package that is missing.
    """
    parts = split_uri(uri)
    if parts.scheme not in ("file", *STORE_SCHEMES):
        raise ArtefactError(
            f"{public_uri(uri)}: cannot be opened (no store has the scheme {parts.scheme!r}); use a path or a URI of "
            f"{', '.join(STORE_SCHEMES)}, such as s3://bucket/folder"
        )
    if not parts.netloc and not parts.path:
        raise ArtefactError(f"{public_place(uri)}: the address cannot be parsed; use a URI such as s3://bucket/folder")
    # Arrow opens as many connections to S3 as it has these threads when a store is opened, and 25 at least.
    pa.set_io_thread_count(max(pa.io_thread_count(), _CONNECTIONS))
    try:
        return pa_fs.FileSystem.from_uri(encoded(parts).geturl())
    except ImportError as error:
        package = _PACKAGES_OF.get(parts.scheme, "a package that is missing")
        raise ArtefactError(f"{public_uri(uri)}: needs {package} ({error})") from None
    except (OSError, ValueError, NotImplementedError) as error:
        text = one_line(error)
        if any(secret in text or unquote(secret) in text for secret in _secrets(parts)):
            text = "the address cannot be parsed"
        raise ArtefactError(
            f"{public_uri(uri)}: cannot be opened ({text}); check the address and your access"
        ) from None


def one_line(error: BaseException) -> str:
    """Return the text of a library's error in one line of limited length, without the queries of addresses.

    Azure's messages show the signature of a URI.
    """
    text = re.sub(r"\?[^\s'\"]+=[^\s'\"]+", "", " ".join(str(error).split()))
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} ..."
