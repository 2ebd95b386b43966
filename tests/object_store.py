"""An object store on the loopback interface, with faults: what `pyarrow.fs` asks of S3, and nothing more.

Objects are bytes in a dictionary and appear as a whole. `Faults` makes the store slow, lets it refuse requests, cut
connections or lose a bit of an upload.
"""

import contextlib
import hashlib
import io
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "pics"
_TIME = "Sun, 29 Nov 2026 00:00:00 GMT"
_LONGEST_LISTING = 1000  # keys in an answer, as S3 has it


@dataclass
class Faults:
    """What goes wrong.

    `refused` and `cut` map a key to how many requests (-1: all) get a 503, or half of the object. `dropped` is the
    share of all requests whose connection ends without an answer or within it, drawn from a seeded generator. `flipped`
    has the keys whose next upload loses a bit. `is_down` answers every request by 503, `is_forbidden` by 403.
    """

    delay_s: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    dropped: float = 0.0
    flipped: set[str] = field(default_factory=set)
    is_down: bool = False
    is_forbidden: bool = False


@dataclass
class Store:
    """A running store: its objects by key, its faults, and what it has been asked for."""

    port: int
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    requests: Counter = field(default_factory=Counter)  # by method and key
    sent: Counter = field(default_factory=Counter)  # bytes of uploads by key
    waiting: int = 0  # requests that are being delayed now
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    drawn: random.Random = field(default_factory=lambda: random.Random(0))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def uri(self, path: str = "", credentials: str = "user:hunter2secret") -> str:
        """The URI of a key, or of the bucket, with credentials as users may write them."""
        options = f"endpoint_override=127.0.0.1%3A{self.port}&scheme=http&region=us-east-1"
        return f"s3://{credentials}@{BUCKET}/{path}?{options}"

    def url(self, key: str) -> str:
        """The http URL of a key."""
        return f"http://127.0.0.1:{self.port}/{BUCKET}/{key}"

    def put(self, key: str, data: bytes) -> None:
        """Store an object; damage it if a test asked for it."""
        with self.lock:
            self.sent[key] += len(data)
            if key in self.faults.flipped:
                self.faults.flipped.remove(key)
                data = bytes([data[0] ^ 1]) + data[1:]
            self.objects[key] = data


@contextlib.contextmanager
def running_store() -> Iterator[Store]:
    """A store that ends with the block."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.store = Store(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.store
        finally:
            server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    store: Store

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        """Answer a request, or do what a fault says instead."""
        store, address = self.server.store, urlsplit(self.path)
        _, _, self.key = unquote(address.path).lstrip("/").partition("/")
        self.query = parse_qs(address.query, keep_blank_values=True)
        body = self._body()
        if body is None:  # the client was killed
            self.close_connection = True
            return
        with store.lock:
            store.requests[self.command, self.key] += 1
            store.waiting += 1
        time.sleep(store.faults.delay_s)
        with store.lock:
            store.waiting -= 1
            fate = store.drawn.random() / store.faults.dropped if store.faults.dropped else 1.0
            is_refused = store.faults.is_down or _count_down(store.faults.refused, self.key)
        self.is_cut = fate < 1.0
        if fate < 0.5:
            self.close_connection = True
        elif store.faults.is_forbidden:
            self._answer(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
        elif is_refused:
            self._answer(503, b"<Error><Code>SlowDown</Code><Message>reduce</Message></Error>")
        else:
            getattr(self, f"_on_{self.command.lower()}")(store, body)

    def _body(self) -> bytes | None:
        """The content of the request; None when the client ended within it."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = _joined_chunks(self.rfile)
        else:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            body = body if len(body) == length else None
        is_signed = "aws-chunked" in self.headers.get("Content-Encoding", "")
        return _joined_chunks(io.BytesIO(body)) if body and is_signed else body

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        fields = {"Content-Length": str(len(body)), "Last-Modified": _TIME, "ETag": '"x"', **(headers or {})}
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.is_cut else body)
            self.close_connection = self.close_connection or self.is_cut

    def _on_head(self, store: Store, _: bytes) -> None:
        if not self.key:
            self._answer(200, headers={"x-amz-bucket-region": "us-east-1"})
        elif self.key in store.objects:
            self._answer(200, headers={"Content-Length": str(len(store.objects[self.key])), "Accept-Ranges": "bytes"})
        else:
            self._answer(404)

    def _on_get(self, store: Store, _: bytes) -> None:
        """Send an object, a range of it, or a listing."""
        if not self.key:
            self._answer(200, _listing(store, self.query), {"Content-Type": "application/xml"})
            return
        data = store.objects.get(self.key)
        if data is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        with store.lock:
            self.is_cut = _count_down(store.faults.cut, self.key) or self.is_cut
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last or len(data) - 1), len(data) - 1)
            self._answer(206, data[int(first) : end + 1], {"Content-Range": f"bytes {first}-{end}/{len(data)}"})
        else:
            self._answer(200, data)

    def _on_put(self, store: Store, body: bytes) -> None:
        """Store an object or a part of one."""
        if "partNumber" in self.query:
            with store.lock:
                store.uploads[self.query["uploadId"][0]][int(self.query["partNumber"][0])] = body
        elif self.key:
            store.put(self.key, body)
        self._answer(200, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def _on_post(self, store: Store, body: bytes) -> None:
        """Begin or complete an upload of several parts, or delete several objects."""
        if "uploads" in self.query:
            with store.lock:
                number = f"upload-{len(store.uploads)}"
                store.uploads[number] = {}
            answer = f"<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{escape(self.key)}</Key>"
            answer += f"<UploadId>{number}</UploadId></InitiateMultipartUploadResult>"
        elif "uploadId" in self.query:
            pieces = store.uploads[self.query["uploadId"][0]]
            store.put(self.key, b"".join(pieces[number] for number in sorted(pieces)))
            answer = f"<CompleteMultipartUploadResult><Key>{escape(self.key)}</Key><ETag>x</ETag>"
            answer += "</CompleteMultipartUploadResult>"
        else:
            for piece in body.decode().split("<Key>")[1:]:
                store.objects.pop(piece.partition("</Key>")[0], None)
            answer = "<DeleteResult></DeleteResult>"
        self._answer(200, answer.encode(), {"Content-Type": "application/xml"})

    def _on_delete(self, store: Store, _: bytes) -> None:
        store.objects.pop(self.key, None)
        self._answer(204)


for _method in ("GET", "PUT", "POST", "HEAD", "DELETE"):  # the base class calls do_GET and so on
    setattr(_Handler, f"do_{_method}", _Handler._serve)


def _count_down(faults: dict[str, int], key: str) -> bool:
    """Whether a fault is left for a key; it is used up by asking."""
    left = faults.get(key, 0)
    faults[key] = left - (left > 0)
    return left != 0


def _joined_chunks(stream: BinaryIO) -> bytes | None:
    """The content of chunks, each behind a line with its size; None when the client ended within them."""
    pieces = []
    while line := stream.readline():
        size = int(line.split(b";")[0], 16)
        if not size:
            while stream.readline().strip():  # trailers
                pass
            return b"".join(pieces)
        pieces.append(stream.read(size))
        stream.readline()
    return None


def _listing(store: Store, query: dict[str, list[str]]) -> bytes:
    """The next keys below a prefix, and folders if there is a delimiter; a token names the last key of an answer."""
    prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
    most = min(int(query.get("max-keys", [_LONGEST_LISTING])[0]), _LONGEST_LISTING)
    after = query.get("continuation-token", [""])[0]
    with store.lock:
        found = {key: len(data) for key, data in store.objects.items() if key.startswith(prefix)}
    names = {_up_to(key, delimiter, len(prefix)) if delimiter else key for key in found}
    waiting = sorted(name for name in names if name > after)
    listed = waiting[:most]
    folders = [name for name in listed if delimiter and name.endswith(delimiter) and name != prefix]
    contents = "".join(
        f"<Contents><Key>{escape(name)}</Key><Size>{found[name]}</Size><ETag>x</ETag>"
        f"<LastModified>2026-11-29T00:00:00.000Z</LastModified></Contents>"
        for name in listed
        if name not in folders
    )
    shared = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
    is_cut = len(listed) < len(waiting)
    token = f"<NextContinuationToken>{escape(listed[-1])}</NextContinuationToken>" if is_cut else ""
    return (
        f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(listed)}</KeyCount>"
        f"<MaxKeys>{most}</MaxKeys><IsTruncated>{str(is_cut).lower()}</IsTruncated>{token}{contents}{shared}"
        f"</ListBucketResult>"
    ).encode()


def _up_to(key: str, delimiter: str, start: int) -> str:
    """A key, or the folder that it lies in below a prefix of `start` characters."""
    end = key.find(delimiter, start)
    return key if end < 0 else key[: end + len(delimiter)]
