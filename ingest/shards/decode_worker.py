"""The process in which untrusted images are decoded: it may crash, hang or run out of memory, and costs one image.

`decode_client.DecodeClient` starts it and gives it a socket and a piece of memory that both share. A batch arrives over
the socket, for each image [length, whether a thumbnail is wanted]; the bytes of the images lie one after the other in
the memory. While it works, the process counts the answered images at the start of the memory. One reply ends the batch,
see `pack_answers`.
"""

import io
import json
import mmap
import os
import resource
import signal
import struct
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from convnext_imagenet.ingest.shards.image_policy import Reencoding
from convnext_imagenet.ingest.shards.reencode import reencode
from convnext_imagenet.records.images import BadImage, ImageInfo, Reason, check_image, inspect_image
from convnext_imagenet.records.thumbnails import thumbnail

COUNTER = struct.Struct("=q")
_WORST_BYTES_PER_SAMPLE = 2  # a coefficient of a progressive JPEG


@dataclass(frozen=True)
class DecodedImage:
    """An image that was decoded whole: the bytes to store, what they are, and whether they are not the file's.

    `thumbnail` is a small JPEG, None where none was asked for or Pillow cannot draw one.
    """

    image: bytes
    info: ImageInfo
    is_reencoded: bool
    thumbnail: bytes | None


def decode(
    image: bytes, wants_thumbnail: bool, reencoding: Reencoding | None, memory_bytes: int
) -> DecodedImage | BadImage:
    """Decode one image whole; returns what is to be stored, or why it is not stored.

    Raises MemoryError where Python runs out of memory, not the decoder.
    """
    try:
        info, stored = check_image(image), image
        smaller = reencoding and reencode(image, info, reencoding)
        if smaller:
            stored, info = smaller
        return DecodedImage(stored, info, bool(smaller), thumbnail(stored) if wants_thumbnail else None)
    except BadImage as error:
        return BadImage(_reason(image, error, memory_bytes), error.detail)


def worst_decoder_bytes(info: ImageInfo) -> int:
    """What a decoder may take: a progressive JPEG keeps 16-bit coefficients of every sample until the end."""
    return info.width * info.height * len(info.mode) * _WORST_BYTES_PER_SAMPLE


def pack_answers(answers: Sequence[DecodedImage | BadImage]) -> bytes:
    """The reply to a batch: a line of JSON, for each image [verdict, stored bytes, thumbnail bytes], then those bytes.

    A verdict is ["ok", format, mode, width, height] or ["bad", reason, detail]. An image whose own bytes are to be
    stored is not sent back: its number of stored bytes is 0.
    """
    line: list[Any] = []
    payload: list[bytes] = []
    for answer in answers:
        if isinstance(answer, BadImage):
            line.append([["bad", answer.reason, answer.detail], 0, 0])
            continue
        stored, picture = answer.image if answer.is_reencoded else b"", answer.thumbnail or b""
        line.append([["ok", *astuple(answer.info)], len(stored), len(picture)])
        payload += [stored, picture]
    return b"".join([json.dumps(line).encode(), b"\n", *payload])


def unpack_answers(reply: bytes, images: Sequence[bytes]) -> list[DecodedImage | BadImage]:
    """The answers in a reply of `pack_answers`; `images` are the bytes that were sent, in order."""
    line, _, payload = reply.partition(b"\n")
    answers: list[DecodedImage | BadImage] = []
    rest = io.BytesIO(payload)
    for image, ((verdict, *values), stored_bytes, thumbnail_bytes) in zip(images, json.loads(line), strict=True):
        stored, picture = rest.read(stored_bytes), rest.read(thumbnail_bytes)
        if verdict == "bad":
            answers.append(BadImage(*values))
        else:
            answers.append(DecodedImage(stored or image, ImageInfo(*values), bool(stored), picture or None))
    return answers


def limit_memory(memory_bytes: int) -> None:
    """Let this process take `memory_bytes` more than it has now, and no more; leave no core file when it dies."""
    has_now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [has_now + memory_bytes, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(socket: Connection, memory: mmap.mmap, reencoding: Reencoding | None, memory_bytes: int) -> None:
    """Answer batches until the other side hangs up."""
    while True:
        try:
            batch = json.loads(socket.recv_bytes())
        except EOFError:
            return
        answers: list[DecodedImage | BadImage] = []
        start = COUNTER.size
        for length, wants_thumbnail in batch:
            try:
                answers.append(decode(memory[start : start + length], wants_thumbnail, reencoding, memory_bytes))
            except MemoryError:  # also of the copy out of the shared memory
                answers.append(BadImage("memory", f"needs more than {memory_bytes >> 20} MiB"))
            COUNTER.pack_into(memory, 0, len(answers))
            start += length
        socket.send_bytes(pack_answers(answers))


def main(arguments: list[str]) -> None:
    """Set the limits, say that all is ready, and serve."""
    socket_number, memory_number, shared_bytes = map(int, arguments[:3])
    options = json.loads(arguments[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(options["parent"],), daemon=True).start()
    socket = Connection(socket_number)
    memory = mmap.mmap(memory_number, shared_bytes)
    limit_memory(options["memory_bytes"])
    socket.send_bytes(b"ready")
    reencoding = options["reencoding"] and Reencoding(**options["reencoding"])
    serve(socket, memory, reencoding, options["memory_bytes"])


def _reason(image: bytes, error: BadImage, memory_bytes: int) -> Reason:
    """The reason; libjpeg does not tell damage from a lack of memory, so the worst need of such an image decides."""
    if error.reason != "damaged":
        return error.reason
    try:
        info = inspect_image(image)
    except BadImage:
        return error.reason
    return "memory" if worst_decoder_bytes(info) > memory_bytes else "damaged"


def _end_with_parent(parent: int) -> None:
    """End also in the middle of a long image when the worker is gone; a closed socket alone would go unnoticed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
