"""The process in which untrusted images are decoded: it may crash, hang or run out of memory, and costs one image.

`checking.Checker` starts it and gives it a socket and a piece of memory that both share. A batch arrives over the
socket, for each image [length, whether a thumbnail is wanted]; the bytes of the images lie one after the other in the
memory. While it works, the process counts the answered images at the start of the memory. One reply ends the batch: a
line of JSON with the verdicts, and after it the bytes that the verdicts speak of.
"""

import json
import mmap
import os
import resource
import signal
import struct
import sys
import threading
import time
from dataclasses import astuple
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from convnext_imagenet.ingest.shards.image_policy import Reencoding
from convnext_imagenet.ingest.shards.reencode import reencode
from convnext_imagenet.records.images import BadImage, ImageInfo, check_image, inspect_image
from convnext_imagenet.records.thumbnails import thumbnail

COUNTER = struct.Struct("=q")
_WORST_BYTES_PER_SAMPLE = 2


class Answer(NamedTuple):
    """A verdict, ["ok", format, mode, width, height] or ["bad", reason, detail], and bytes that may be empty.

    `stored` is the image encoded again, empty when its own bytes are to be stored.
    """

    verdict: list[Any]
    stored: bytes = b""
    thumbnail: bytes = b""


def answer(image: bytes, wants_thumbnail: bool, reencoding: Reencoding | None, memory_bytes: int) -> Answer:
    """Decode one image whole and say what is to be stored."""
    try:
        info, stored = check_image(image), b""
        if reencoding is not None and (smaller := reencode(image, info, reencoding)):
            stored, info = smaller
        picture = thumbnail(stored or image) if wants_thumbnail else None
    except BadImage as error:
        return Answer(["bad", _reason(image, error, memory_bytes), error.detail])
    return Answer(["ok", *astuple(info)], stored, picture or b"")


def _reason(image: bytes, error: BadImage, memory_bytes: int) -> str:
    """The reason; libjpeg does not tell damage from a lack of memory, so the worst need of such an image decides."""
    if error.reason != "damaged":
        return error.reason
    try:
        info = inspect_image(image)
    except BadImage:
        return error.reason
    return "memory" if worst_decoder_bytes(info) > memory_bytes else "damaged"


def worst_decoder_bytes(info: ImageInfo) -> int:
    """What a decoder may take: a progressive JPEG keeps 16-bit coefficients of every sample until the end."""
    return info.width * info.height * len(info.mode) * _WORST_BYTES_PER_SAMPLE


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
        answers = []
        start = COUNTER.size
        for length, wants_thumbnail in batch:
            try:
                answers.append(answer(memory[start : start + length], wants_thumbnail, reencoding, memory_bytes))
            except MemoryError:
                answers.append(Answer(["bad", "memory", f"needs more than {memory_bytes >> 20} MiB"]))
            COUNTER.pack_into(memory, 0, len(answers))
            start += length
        line = [[each.verdict, len(each.stored), len(each.thumbnail)] for each in answers]
        payload = (part for each in answers for part in (each.stored, each.thumbnail))
        socket.send_bytes(b"".join([json.dumps(line).encode(), b"\n", *payload]))


def _end_with_parent(parent: int) -> None:
    """End also in the middle of a long image when the worker is gone; a closed socket alone would go unnoticed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


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


if __name__ == "__main__":
    main(sys.argv[1:])
