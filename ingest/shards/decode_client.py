"""Decodes images in another process: one that crashes the decoder, hangs it or fills the memory costs only itself.

The process lives as long as its `DecodeClient`. Batches of images reach it through shared memory, so a batch costs only
one copy of its bytes and two short messages. An image that kills the process is tried once more by itself in a fresh
process: a stray signal or a stalled machine must not decide what is stored (DECISIONS, 2026-11-24). This file does not
know where images come from.
"""

import contextlib
import functools
import json
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import NamedTuple

from convnext_imagenet.ingest.errors import FailedIngestError
from convnext_imagenet.ingest.shards.decode_messages import COUNTER, DecodedImage, unpack_answers
from convnext_imagenet.ingest.shards.image_policy import ImagePolicy
from convnext_imagenet.records.image_headers import LARGEST_FILE_BYTES, BadImage, Reason

PROGRAM = ("-m", "convnext_imagenet.ingest.shards.decode_worker")
BATCH_BYTES = 4 << 20  # 40 images of ImageNet: the messages then cost 70 us an image, 5 % of its decoding
BATCH_IMAGES = 64  # bounds what must be asked again after a crash
_SHARED_BYTES = COUNTER.size + BATCH_BYTES + LARGEST_FILE_BYTES  # a batch ends with the image that fills BATCH_BYTES
_START_SECONDS = 60  # the process loads OpenCV and Pillow, perhaps from a cold disk on a busy machine
_MOST_STARTS = 3  # one failure may be a stray signal; three mean that the machine cannot start it


class DecodeRequest(NamedTuple):
    """The bytes of an image to decode, and whether to make a thumbnail."""

    image: bytes
    wants_thumbnail: bool = False


class _LostError(Exception):
    """The process died or did not answer in time; `reason` is crashed or timeout."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class DecodeClient:
    """Decodes images in another process, Python with the arguments `program`; the with block ends the process."""

    def __init__(self, policy: ImagePolicy, program: Sequence[str] = PROGRAM) -> None:
        self._policy = policy
        self._program = program
        self._process: subprocess.Popen | None = None
        self._socket: Connection | None = None
        self._is_ready = False
        self._questions: Sequence[DecodeRequest | BadImage] = ()
        self._is_lost = False
        self._descriptor = os.memfd_create("images")
        os.ftruncate(self._descriptor, _SHARED_BYTES)
        self._shared = mmap.mmap(self._descriptor, _SHARED_BYTES)

    def __enter__(self) -> "DecodeClient":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._shared.close()
        os.close(self._descriptor)

    def check(self, questions: Sequence[DecodeRequest | BadImage]) -> list[DecodedImage | BadImage]:
        """Return for each question what to store, or why not; pass at most `BATCH_BYTES` and one image more.

        A question that is already a BadImage, because its bytes could not be read, is its own answer. Raises
        FailedIngestError when the process does not start.
        """
        self.begin(questions)
        return self.results()

    def begin(self, questions: Sequence[DecodeRequest | BadImage]) -> None:
        """Start to decode a batch while this process does something else; `results` returns its answers.

        An earlier batch whose answers were not taken is dropped. Raises FailedIngestError as `check` does.
        """
        if _requests(self._questions):
            self._stop()
        self._questions, self._is_lost = questions, False
        if not (requests := _requests(questions)):
            return
        try:
            self._send(requests)
        except _LostError:
            self._is_lost = True

    def results(self) -> list[DecodedImage | BadImage]:
        """Return the answers of the batch that was started last, one for each question, in order.

        Raises FailedIngestError as `check` does.
        """
        questions, self._questions = self._questions, ()
        positions = [n for n, question in enumerate(questions) if isinstance(question, DecodeRequest)]
        decoded = dict(zip(positions, self._decoded(_requests(questions)), strict=True))
        return [decoded[n] if isinstance(question, DecodeRequest) else question for n, question in enumerate(questions)]

    def _decoded(self, requests: Sequence[DecodeRequest]) -> list[DecodedImage | BadImage]:
        """Return the answers to requests that were sent; ask again after the process died."""
        if not requests:
            return []
        try:
            if not self._is_lost:
                return self._collect(requests)
        except _LostError:
            pass
        self._stop()
        # The counter is the position of the image that was being decoded: ask it and the others separately.
        suspect = min(COUNTER.unpack_from(self._shared)[0], len(requests) - 1)
        alone = self._check_alone(requests[suspect])
        return [*self.check(requests[:suspect]), alone, *self.check(requests[suspect + 1 :])]

    def _check_alone(self, request: DecodeRequest) -> DecodedImage | BadImage:
        try:
            self._send([request])
            return self._collect([request])[0]
        except _LostError as lost:
            self._stop()
            return BadImage(lost.reason, lost.detail)

    def _send(self, requests: Sequence[DecodeRequest]) -> None:
        self._wait_until_ready()
        start = COUNTER.size
        for image, _ in requests:
            self._shared[start : start + len(image)] = image
            start += len(image)
        COUNTER.pack_into(self._shared, 0, 0)
        message = [(len(request.image), request.wants_thumbnail) for request in requests]
        with self._lost_when_gone():
            self._connection.send_bytes(json.dumps(message).encode())

    def _collect(self, requests: Sequence[DecodeRequest]) -> list[DecodedImage | BadImage]:
        with self._lost_when_gone():
            reply = self._receive(self._policy.timeout_seconds)
        return unpack_answers(reply, [request.image for request in requests])

    def _receive(self, seconds: float) -> bytes:
        """Return the next message; wait as long as at least one image is answered every `seconds`."""
        answered = 0
        while not self._connection.poll(seconds):
            before, (answered,) = answered, COUNTER.unpack_from(self._shared)
            if answered == before:
                raise _LostError("timeout", f"not decoded after {seconds} s")
        return self._connection.recv_bytes()

    @contextlib.contextmanager
    def _lost_when_gone(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError):
            code = self._process.wait() if self._process else 0
            cause = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
            raise _LostError("crashed", f"the decoder process was ended {cause}") from None

    @property
    def _connection(self) -> Connection:
        if self._socket is None:
            raise RuntimeError("use DecodeClient inside its with block")
        return self._socket

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        reencoding, conversion = self._policy.reencoding, self._policy.conversion
        options = {
            "parent": os.getpid(),
            "memory_bytes": self._policy.memory_mib << 20,
            "reencoding": reencoding and asdict(reencoding),
            "accept_warnings": self._policy.accept_warnings,
            "conversion": conversion and asdict(conversion),
            "wants_pictures": self._policy.has_pictures,
        }
        descriptors = (theirs.fileno(), self._descriptor)
        arguments = [*map(str, descriptors), str(_SHARED_BYTES), json.dumps(options)]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", *self._program, *arguments],  # -P: modules of the working folder hide no library
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=descriptors,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # its products are small: threads would only wait
            )
        self._socket = ours

    def _wait_until_ready(self) -> None:
        failures: list[str] = []
        while not self._is_ready:
            if len(failures) == _MOST_STARTS:
                raise FailedIngestError(
                    f"the process that decodes images does not start ({failures[-1]}); "
                    f"if memory is short or the number of processes limited, pass a smaller --workers"
                )
            if self._socket is None:
                self._start()
            try:
                with self._lost_when_gone():
                    self._receive(_START_SECONDS)
                self._is_ready = True
            except _LostError as lost:
                self._stop()
                failures.append(lost.detail)

    def _stop(self) -> None:
        self._is_ready = False
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@functools.cache
def lasting_client(policy: ImagePolicy) -> DecodeClient:
    """Return the client of this process, started once: starting it for each shard would cost as much as 250 images.

    It ends with this process: at its exit, or, if it is killed, because the socket closes.
    """
    client = DecodeClient(policy).__enter__()
    Finalize(None, client.__exit__, exitpriority=0)  # workers of a pool never reach atexit
    return client


def _requests(questions: Sequence[DecodeRequest | BadImage]) -> list[DecodeRequest]:
    return [question for question in questions if isinstance(question, DecodeRequest)]
