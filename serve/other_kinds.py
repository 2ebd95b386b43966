"""Images that are neither JPEG nor PNG: known by their first bytes, decoded by Pillow in a process of their own."""

import contextlib
import importlib.util
import json
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass

import numpy as np

from convnext_imagenet.records.image_headers import BadImage, ImageInfo, PixelLimits, TooManyPixels

_MEMORY_BYTES, _BYTES_PER_PIXEL = 2 << 30, 16  # of a decoder; 16: as read, as RGBA, as RGB, and a copy
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_GRACE_S = 5.0  # after the time limit of an image, so that whoever waits for it has given up first


@dataclass(frozen=True)
class Decoded:
    """A decoded image: what it is, its pixels as uint8 (H, W, 3) in RGB order, and its EXIF orientation."""

    info: ImageInfo
    pixels: np.ndarray
    orientation: int | None


def pillow_formats(data: bytes) -> tuple[str, ...]:
    """Return Pillow's names of the formats that the first bytes belong to; none for a kind that is not read here."""
    start = data[:16]
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return ("WEBP",)
    if start.startswith((b"GIF87a", b"GIF89a")):
        return ("GIF",)
    if start.startswith(b"BM"):
        return ("BMP",)
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return ("TIFF",)
    if start.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):
        return ("JPEG2000",)
    if start[4:8] == b"ftyp":
        return ("AVIF",) if start[8:12] in (b"avif", b"avis") else ("HEIF",) if start[8:12] in _HEIF_BRANDS else ()
    return ()


def decode_other(data: bytes, formats: tuple[str, ...], limits: PixelLimits, limit_s: float) -> Decoded:
    """Return an image of one of Pillow's `formats`, of several frames the first.

    Raises BadImage when it is damaged, too large, or its decoder crashes, hangs or lacks a package.
    """
    if formats == ("HEIF",) and importlib.util.find_spec("pillow_heif") is None:
        raise BadImage("unsupported", "HEIC needs pip install 'convnext_imagenet[heif]'")
    return _worker_of_thread(limits).decode(data, formats, limits, limit_s)


_threads = threading.local()


def _worker_of_thread(limits: PixelLimits) -> "_Worker":
    worker = getattr(_threads, "worker", None)
    memory_bytes = _MEMORY_BYTES + _BYTES_PER_PIXEL * limits.pixels
    if worker is None or worker.process.poll() is not None or worker.memory_bytes != memory_bytes:
        worker = _threads.worker = _Worker(memory_bytes)
    return worker


class _Worker:
    """A decoder process of one thread; it ends with the thread, and with this process, whose end closes its pipe."""

    def __init__(self, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self.process = subprocess.Popen(
            [sys.executable, "-m", "convnext_imagenet.serve.pillow_worker", str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's signals are for the command, which closes the pipe at its end
        )
        # Left alone, a Popen object keeps itself and its pipes for as long as its process runs.
        weakref.finalize(self, _end, self.process)

    def decode(self, data: bytes, formats: tuple[str, ...], limits: PixelLimits, limit_s: float) -> Decoded:
        request = {
            "bytes": len(data),
            "formats": formats,
            "most_pixels": limits.pixels,
            "most_side": limits.side,
        }
        is_late = threading.Event()
        timer = threading.Timer(min(limit_s + _GRACE_S, threading.TIMEOUT_MAX), self._kill, [is_late])
        timer.daemon = True
        timer.start()
        try:
            answer, pixels = self._exchange(request, data)
        except (OSError, ValueError):
            self._kill(threading.Event())
            if is_late.is_set():
                raise BadImage("timeout", f"decoding took longer than {limit_s:g} s") from None
            raise BadImage("crashed", "the decoder process died of this image") from None
        finally:
            timer.cancel()
        if "size" not in answer:
            raise BadImage(answer["reason"], answer["detail"])
        info = ImageInfo(answer["format"], answer["mode"], *answer["size"])
        if "reason" in answer:
            raise TooManyPixels(info, limits)
        orientation = answer["orientation"]
        is_valid = isinstance(orientation, int) and 1 <= orientation <= 8
        return Decoded(info, pixels, orientation if is_valid else None)

    def _exchange(self, request: dict, data: bytes) -> tuple[dict, np.ndarray]:
        """Return the reply and the pixels. Raises OSError or ValueError when the process has ended."""
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise ValueError("the process has no pipes")
        stdin.write(json.dumps(request).encode() + b"\n" + data)
        stdin.flush()
        answer = json.loads(stdout.readline())
        if "reason" in answer:
            return answer, np.zeros((0, 0, 3), np.uint8)
        width, height = answer["size"]
        raw = stdout.read(3 * width * height)
        return answer, np.frombuffer(raw, np.uint8).reshape(height, width, 3)

    def _kill(self, is_late: threading.Event) -> None:
        is_late.set()
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a decoder that waits for a request, and close its pipes."""
    process.kill()
    process.communicate()
