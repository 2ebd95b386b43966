"""The process that decodes untrusted images: if it crashes, hangs or runs out of memory, only one image is lost.

`decode_client.DecodeClient` starts it and gives it a socket and shared memory. A batch arrives over the socket, for
each image [length, whether to make a thumbnail]; the bytes of the images follow one another in the memory. While it
works, the process counts the answered images at the start of the memory. One reply ends the batch, see `pack_answers`.
This file knows nothing of shards and labels.
"""

import json
import mmap
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from convnext_imagenet.ingest.shards.decode_messages import COUNTER, DecodedImage
from convnext_imagenet.ingest.shards.image_policy import Conversion, Reencoding
from convnext_imagenet.ingest.shards.reencode import LARGEST_SHRUNK_PIXELS, convert, reencode
from convnext_imagenet.records.image_headers import LARGEST_PIXELS, BadImage, ImageInfo, Reason, inspect_image
from convnext_imagenet.records.images import check_image_and_luminance
from convnext_imagenet.records.jpeg_warnings import jpeg_warnings_and_luminance, libjpeg_version, require_pictures
from convnext_imagenet.records.small_picture import small_picture
from convnext_imagenet.records.thumbnails import thumbnail

_WORST_BYTES_PER_SAMPLE = 2


@dataclass(frozen=True)
class DecodeOptions:
    """What happens to every image: see `ImagePolicy`; `memory_bytes` is what decoding one may take."""

    memory_bytes: int
    reencoding: Reencoding | None = None
    accept_warnings: bool = False
    conversion: Conversion | None = None
    wants_pictures: bool = False


def decode(image: bytes, wants_thumbnail: bool, options: DecodeOptions) -> DecodedImage | BadImage:
    """Decode one image completely; return what to store, or why not.

    Raises MemoryError when Python runs out of memory, not the decoder.
    """
    try:
        stored = (options.conversion and convert(image, options.conversion)) or image
        limit = _largest_pixels(stored, options)
        info, light = check_image_and_luminance(stored, options.accept_warnings, limit, options.wants_pictures)
        smaller = options.reencoding and reencode(stored, info, options.reencoding)
        if smaller:
            stored, info = smaller
            light = jpeg_warnings_and_luminance(stored)[1] if options.wants_pictures else None
        shown = thumbnail(stored) if wants_thumbnail else None
        return DecodedImage(stored, info, stored is not image, shown, light=light)
    except BadImage as error:
        return BadImage(_reason(image, error, options.memory_bytes), error.detail)


def _largest_pixels(image: bytes, options: DecodeOptions) -> int:
    """Return the limit of pixels: a JPEG that is shrunk is decoded at a smaller scale, so it may have more."""
    is_jpeg = image.startswith(b"\xff\xd8")
    return LARGEST_SHRUNK_PIXELS if options.reencoding and is_jpeg else LARGEST_PIXELS


def worst_decoder_bytes(info: ImageInfo) -> int:
    """Return the bytes that reading an image may need: a JPEG's 16-bit coefficients, a PNG's samples of 16 bits."""
    return info.width * info.height * len(info.mode) * _WORST_BYTES_PER_SAMPLE


def pack_answers(answers: Sequence[DecodedImage | BadImage]) -> bytes:
    """Return the reply to a batch: a line of JSON with [outcome, number of bytes stored, of the thumbnail, of the small
    picture] for each image, then these bytes.

    An outcome is ["ok", format, mode, width, height, warnings] or ["bad", reason, detail]. An image that is stored
    unchanged is not sent back: its number of stored bytes is 0. Small pictures are made here, at the end of a batch:
    between images, whose coefficients fill the caches, each would take twice as long.
    """
    line: list[Any] = []
    payload: list[bytes] = []
    for answer in answers:
        if isinstance(answer, BadImage):
            line.append([["bad", answer.reason, answer.detail], 0, 0, 0])
            continue
        small = b"" if answer.light is None else small_picture(answer.light).tobytes()
        parts = [answer.image if answer.is_reencoded else b"", answer.thumbnail or b"", small]
        line.append([["ok", *astuple(answer.info)], *map(len, parts)])
        payload += parts
    return b"".join([json.dumps(line).encode(), b"\n", *payload])


def limit_memory(memory_bytes: int) -> None:
    """Limit this process to `memory_bytes` more than it has now, and let it leave no core file."""
    has_now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [has_now + memory_bytes, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(socket: Connection, memory: mmap.mmap, options: DecodeOptions) -> None:
    """Answer batches until the other side closes the socket."""
    while True:
        try:
            batch = json.loads(socket.recv_bytes())
        except EOFError:
            return
        answers: list[DecodedImage | BadImage] = []
        start = COUNTER.size
        for length, wants_thumbnail in batch:
            try:
                answers.append(decode(memory[start : start + length], wants_thumbnail, options))
            except MemoryError:  # the copy from the shared memory may raise it, too
                answers.append(BadImage("memory", f"needs more than {options.memory_bytes >> 20} MiB"))
            COUNTER.pack_into(memory, 0, len(answers))
            start += length
        socket.send_bytes(pack_answers(answers))


def main(arguments: list[str]) -> None:
    """Set the limits, send "ready", and serve."""
    socket_number, memory_number, shared_bytes = map(int, arguments[:3])
    options = json.loads(arguments[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the worker decides when to end
    threading.Thread(target=_end_with_parent, args=(options["parent"],), daemon=True).start()
    socket = Connection(socket_number)
    memory = mmap.mmap(memory_number, shared_bytes)
    libjpeg_version()  # takes what its first call takes, and ends here if JPEGs cannot be checked
    if options["wants_pictures"]:
        require_pictures()
    limit_memory(options["memory_bytes"])  # after all imports and the mapping: the limit is for images only
    socket.send_bytes(b"ready")
    reencoding = options["reencoding"] and Reencoding(**options["reencoding"])
    conversion = options["conversion"] and Conversion(**options["conversion"])
    limits = (options["memory_bytes"], reencoding, options["accept_warnings"])
    serve(socket, memory, DecodeOptions(*limits, conversion, options["wants_pictures"]))


def _reason(image: bytes, error: BadImage, memory_bytes: int) -> Reason:
    """Return the reason. OpenCV reports a lack of memory as damage, so the image's largest possible need decides.

    libjpeg says it in its own words, so a JPEG that is damaged is damaged.
    """
    if error.reason != "damaged":
        return error.reason
    try:
        info = inspect_image(image)
    except BadImage:
        return error.reason
    return "memory" if info.format != "jpeg" and worst_decoder_bytes(info) > memory_bytes else "damaged"


def _end_with_parent(parent: int) -> None:
    """End when the worker is gone, even during a long image, when the closed socket would go unnoticed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
