"""An object store on the loopback interface for tests: the part of S3 that `pyarrow.fs` asks for, with faults.

Objects are bytes in a dictionary and appear as a whole. Faults are drawn by request from a seeded generator.
"""

import contextlib
import io
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"


@dataclass
class ObjectStore:
    """A running store. `drop` is the share of requests whose connection ends without an answer or within it.

    `is_forbidden` refuses every request, `delay_s` delays it; `flips` has the keys whose next upload loses a bit.
    """

    port: int
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    sent: Counter = field(default_factory=Counter)  # bytes by key
    drop: float = 0.0
    delay_s: float = 0.0
    is_forbidden: bool = False
    flips: set[str] = field(default_factory=set)
    drawn: random.Random = field(default_factory=lambda: random.Random(0))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def uri(self, path: str) -> str:
        """The URI of a folder, with credentials as users may write them."""
        options = f"endpoint_override=127.0.0.1%3A{self.port}&scheme=http&region=us-east-1"
        return f"s3://user:hunter2secret@{BUCKET}/{path}?{options}"

    def put(self, key: str, data: bytes) -> None:
        """Store an object; damage it if a test asked for it."""
        with self.lock:
            self.sent[key] += len(data)
            if key in self.flips:
                self.flips.remove(key)
                data = bytes([data[0] ^ 1]) + data[1:]
            self.objects[key] = data


@contextlib.contextmanager
def running_store() -> Iterator[ObjectStore]:
    """A store that ends with the block."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.store = ObjectStore(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.store
        finally:
            server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    store: ObjectStore

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients are killed in the middle of requests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        store, body = self.server.store, self._body()
        if body is None:  # the client was killed
            self.close_connection = True
            return
        address = urlsplit(self.path)
        self.key = unquote(address.path).lstrip("/").partition("/")[2]
        self.query = parse_qs(address.query, keep_blank_values=True)
        time.sleep(store.delay_s)
        with store.lock:
            self.fault = store.drawn.random() / store.drop if store.drop else 1.0
        if self.fault < 0.5:
            self.close_connection = True
        elif store.is_forbidden:
            self._answer(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
        else:
            getattr(self, f"_on_{self.command.lower()}")(store, body)

    def _body(self) -> bytes | None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = _joined_chunks(self.rfile)
        else:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            body = body if len(body) == length else None
        is_signed = "aws-chunked" in self.headers.get("Content-Encoding", "")
        return _joined_chunks(io.BytesIO(body)) if body and is_signed else body

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        fields = {"Content-Length": str(len(body)), "Last-Modified": "Sun, 29 Nov 2026 00:00:00 GMT", "ETag": '"x"'}
        for name, value in (fields | {key.replace("_", "-"): value for key, value in headers.items()}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            is_cut = self.fault < 1.0
            self.wfile.write(body[: len(body) // 2] if is_cut else body)
            self.close_connection = self.close_connection or is_cut

    def _on_head(self, store: ObjectStore, _: bytes) -> None:
        if not self.key:
            self._answer(200, x_amz_bucket_region="us-east-1")
        elif self.key in store.objects:
            self._answer(200, Content_Length=str(len(store.objects[self.key])))
        else:
            self._answer(404)

    def _on_get(self, store: ObjectStore, _: bytes) -> None:
        if not self.key:
            self._answer(200, _listing(store, self.query), Content_Type="application/xml")
            return
        data = store.objects.get(self.key)
        if data is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last or len(data) - 1), len(data) - 1)
            self._answer(206, data[int(first) : end + 1], Content_Range=f"bytes {first}-{end}/{len(data)}")
        else:
            self._answer(200, data)

    def _on_put(self, store: ObjectStore, body: bytes) -> None:
        if "partNumber" in self.query:
            with store.lock:
                store.parts[self.query["uploadId"][0]][int(self.query["partNumber"][0])] = body
        elif self.key:
            store.put(self.key, body)
        self._answer(200)

    def _on_post(self, store: ObjectStore, body: bytes) -> None:
        if "uploads" in self.query:
            with store.lock:
                number = f"upload{len(store.parts)}"
                store.parts[number] = {}
            answer = (
                f"<InitiateMultipartUploadResult><UploadId>{number}</UploadId></InitiateMultipartUploadResult>".encode()
            )
        elif "uploadId" in self.query:
            pieces = store.parts[self.query["uploadId"][0]]
            store.put(self.key, b"".join(pieces[number] for number in sorted(pieces)))
            answer = b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
        else:
            for piece in body.decode().split("<Key>")[1:]:
                store.objects.pop(piece.partition("</Key>")[0], None)
            answer = b"<DeleteResult></DeleteResult>"
        self._answer(200, answer, Content_Type="application/xml")

    def _on_delete(self, store: ObjectStore, _: bytes) -> None:
        store.objects.pop(self.key, None)
        self._answer(204)


for _method in ("GET", "PUT", "POST", "HEAD", "DELETE"):  # the base class calls do_GET and so on
    setattr(_Handler, f"do_{_method}", _Handler._serve)


def _joined_chunks(stream: object) -> bytes | None:
    """The content of chunks, each behind a line with its size; None when the client ended within them."""
    pieces = []
    while line := stream.readline():  # type: ignore[attr-defined]
        size = int(line.split(b";")[0], 16)
        if not size:
            while stream.readline().strip():  # type: ignore[attr-defined]  # trailers
                pass
            return b"".join(pieces)
        pieces.append(stream.read(size))  # type: ignore[attr-defined]
        stream.readline()  # type: ignore[attr-defined]
    return None


def _listing(store: ObjectStore, query: dict[str, list[str]]) -> bytes:
    prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
    with store.lock:
        found = {key: len(data) for key, data in sorted(store.objects.items()) if key.startswith(prefix)}
    folders = {
        prefix + key[len(prefix) :].partition(delimiter)[0] + delimiter
        for key in found
        if delimiter and delimiter in key[len(prefix) :]
    }
    most = int(query.get("max-keys", ["1000"])[0])
    plain = [key for key in found if not (delimiter and delimiter in key[len(prefix) :])][:most]
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{found[key]}</Size><ETag>x</ETag>"
        f"<LastModified>2026-11-29T00:00:00.000Z</LastModified></Contents>"
        for key in plain
    )
    shared = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders))
    return (
        f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(plain)}</KeyCount>"
        f"<MaxKeys>{most}</MaxKeys><IsTruncated>false</IsTruncated>{contents}{shared}</ListBucketResult>"
    ).encode()
