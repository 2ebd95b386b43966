"""A small object store on the loopback interface, with faults: what `pyarrow.fs` asks of S3, and nothing more.

Objects live in a dictionary. `Faults` makes it slow, refuse requests or cut connections in the middle of an object.
"""

import contextlib
import hashlib
import io
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


@dataclass
class Faults:
    """What goes wrong: `refused` and `cut` map a key to how many requests (-1: all) get a 503 or half of the object."""

    delay_s: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    is_down: bool = False


@dataclass
class Store:
    """A running store: its objects by key, its faults, and the requests that it has had, by method and key."""

    port: int
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    requests: Counter = field(default_factory=Counter)
    waiting: int = 0  # requests that are being delayed now
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def uri(self, path: str = "", credentials: str = "key:secret") -> str:
        """The URI of a key, or of the bucket."""
        options = f"endpoint_override=127.0.0.1%3A{self.port}&scheme=http&region=us-east-1"
        return f"s3://{credentials}@{BUCKET}/{path}?{options}"

    def url(self, key: str) -> str:
        """The http URL of a key."""
        return f"http://127.0.0.1:{self.port}/{BUCKET}/{key}"


@contextlib.contextmanager
def running_store() -> Iterator[Store]:
    """A store that ends with the block."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.store = Store(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server.store
        finally:
            server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    store: Store

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _begin(self) -> tuple[Store, str, dict[str, list[str]]] | None:
        """The store, the key and the query of a request; None when a fault has answered it."""
        store, address = self.server.store, urlsplit(self.path)
        _, _, key = unquote(address.path).lstrip("/").partition("/")
        self.body = self._read_body()
        if store.faults.delay_s:
            store.waiting += 1
            time.sleep(store.faults.delay_s)
            store.waiting -= 1
        with store.lock:
            store.requests[self.command, key] += 1
            is_refused = store.faults.is_down or self._count_down(store.faults.refused, key)
        if is_refused:
            self._answer(503, b"<Error><Code>SlowDown</Code><Message>reduce</Message></Error>")
            return None
        return store, key, parse_qs(address.query, keep_blank_values=True)

    def _read_body(self) -> bytes:
        data = self.rfile
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = io.BytesIO(_chunks(data))
            self.rfile.readline()
        else:
            data = io.BytesIO(data.read(int(self.headers.get("Content-Length") or 0)))
        return _chunks(data) if "aws-chunked" in self.headers.get("Content-Encoding", "") else data.read()

    @staticmethod
    def _count_down(faults: dict[str, int], key: str) -> bool:
        left = faults.get(key, 0)
        faults[key] = left - (left > 0)
        return left != 0

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Last-Modified", _TIME)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def do_HEAD(self) -> None:  # the base class calls it
        """Say whether a bucket or an object is there."""
        if (begun := self._begin()) is None:
            return
        store, key, _ = begun
        if not key:
            self._answer(200, headers={"x-amz-bucket-region": "us-east-1"})
        elif key in store.objects:
            size = str(len(store.objects[key]))
            self._answer(200, headers={"Content-Length": size, "ETag": '"x"', "Accept-Ranges": "bytes"})
        else:
            self._answer(404)

    def do_GET(self) -> None:
        """Send an object, a range of it, or a listing."""
        if (begun := self._begin()) is None:
            return
        store, key, query = begun
        if not key:
            self._answer(200, _listing(store, query), {"Content-Type": "application/xml"})
        elif key not in store.objects:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            data, status, headers = store.objects[key], 200, {"ETag": '"x"'}
            if asked := self.headers.get("Range"):
                first, _, last = asked.removeprefix("bytes=").partition("-")
                end = min(int(last or len(data) - 1), len(data) - 1)
                headers["Content-Range"] = f"bytes {first}-{end}/{len(data)}"
                data, status = data[int(first) : end + 1], 206
            with store.lock:
                is_cut = self._count_down(store.faults.cut, key)
            self._answer(status, data, headers, is_cut)

    def do_PUT(self) -> None:
        """Store an object or a part of one; an object appears as a whole."""
        if (begun := self._begin()) is None:
            return
        store, key, query = begun
        with store.lock:
            if "partNumber" in query:
                store.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = self.body
            elif key:
                store.objects[key] = self.body
        self._answer(200, headers={"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def do_POST(self) -> None:
        """Begin or complete an upload of several parts, or delete several objects."""
        if (begun := self._begin()) is None:
            return
        store, key, query = begun
        with store.lock:
            if "uploads" in query:
                number = f"upload-{len(store.uploads)}"
                store.uploads[number] = {}
                body = f"<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{escape(key)}</Key>"
                body += f"<UploadId>{number}</UploadId></InitiateMultipartUploadResult>"
            elif "uploadId" in query:
                store.objects[key] = b"".join(part for _, part in sorted(store.uploads[query["uploadId"][0]].items()))
                body = f"<CompleteMultipartUploadResult><Key>{escape(key)}</Key><ETag>x</ETag>"
                body += "</CompleteMultipartUploadResult>"
            else:
                for piece in self.body.decode().split("<Key>")[1:]:
                    store.objects.pop(piece.partition("</Key>")[0], None)
                body = "<DeleteResult></DeleteResult>"
        self._answer(200, body.encode(), {"Content-Type": "application/xml"})

    def do_DELETE(self) -> None:
        """Delete an object."""
        if (begun := self._begin()) is None:
            return
        store, key, _ = begun
        store.objects.pop(key, None)
        self._answer(204)


def _chunks(stream: BinaryIO) -> bytes:
    """The content of chunks, each after a line with its size; the stream is left behind the last one's line."""
    body = b""
    while size := int(stream.readline().split(b";")[0], 16):
        body += stream.read(size)
        stream.readline()
    return body


def _listing(store: Store, query: dict[str, list[str]]) -> bytes:
    prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
    most = int(query.get("max-keys", ["1000"])[0])
    contents, folders = [], set()
    for key in sorted(store.objects):
        rest = key.removeprefix(prefix)
        if not key.startswith(prefix):
            continue
        if delimiter and delimiter in rest:
            folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
        else:
            size = len(store.objects[key])
            contents.append(
                f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>x</ETag>"
                f"<LastModified>2026-11-29T00:00:00.000Z</LastModified></Contents>"
            )
    shared = "".join(f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in sorted(folders))
    count = min(len(contents), most)
    return (
        f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{count + len(folders)}"
        f"</KeyCount><MaxKeys>{most}</MaxKeys><IsTruncated>false</IsTruncated>{''.join(contents[:most])}{shared}"
        f"</ListBucketResult>"
    ).encode()
