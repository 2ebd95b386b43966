"""What libjpeg says about the content of a JPEG: all of it is read, and no pixel is made. On request it also yields the
lowest frequencies of the luminance, which are enough for a small gray picture of the image.

Decoders fill what is damaged with gray and say so only in a warning, which Pillow, OpenCV and MindSpore do not pass on.
Here `jpeg_read_coefficients` reads the whole entropy-coded stream, and its warnings are the result. The library is the
libjpeg-turbo that Pillow has loaded, driven without a compiler, so that every machine accepts the same images.

libjpeg calls `error_exit` for a fatal error and does not expect it to return; C programs leave it by longjmp. Here
each call runs as a thread of its own, and `error_exit` is pthread_exit, which ends the thread with its argument, the
decoder, as result (DECISIONS, 2026-11-29). No frame of Python is on that thread's stack.
"""

import contextlib
import ctypes
import functools
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import cv2
import numpy as np
import PIL._imaging
from PIL import features

from convnext_imagenet.base.errors import ExpectedError
from convnext_imagenet.records.jpeg_holes import LEAST_HOLE_BYTES, find_hole
from convnext_imagenet.records.jpeg_luminance import luminance
from convnext_imagenet.records.small_picture import Luminance, shrink, small_picture

_FUNCTIONS = (
    "jpeg_std_error",
    "jpeg_CreateDecompress",
    "jpeg_mem_src",
    "jpeg_consume_input",
    "jpeg_read_coefficients",
    "jpeg_destroy_decompress",
)
_DECODER_BYTES = 4096  # six times what the library asks for
_MESSAGE_BYTES = 1024  # the library's longest message has 200
_REACHED_SOS = 1  # JPEG_REACHED_SOS: the header is read
_NO_MEMORY = "Insufficient memory"
# All other warnings mean that something of the image is lost, or may be.
_HARMLESS = re.compile(
    r"Warning: unknown JFIF revision number .*"
    r"|Unknown Adobe color transform code .*"
    r"|Invalid SOS parameters for sequential JPEG"
)
_SURPLUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
_TESTED_PX, _MOST_OFF = 100, 2  # sides of a picture, and levels that its small one may be off
_MOST_PADDING_BYTES = 8  # zeros before the end marker that fill a word; more of them are a hole

_Address = ctypes.c_void_p
_OnOutput = ctypes.CFUNCTYPE(None, _Address)
_OnMessage = ctypes.CFUNCTYPE(None, _Address, ctypes.c_int)


class JpegLibraryError(ExpectedError):
    """Pillow's libjpeg cannot be driven, so no JPEG can be checked."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"JPEGs cannot be checked: Pillow's libjpeg-turbo cannot be used ({why}); "
            f"install Pillow from PyPI (pip install --force-reinstall pillow)"
        )


class UnreadableJpeg(Exception):
    """libjpeg gives up; the message has its words. `is_memory` when only memory was missing."""

    @property
    def is_memory(self) -> bool:
        """Whether the library ran out of memory, which says nothing of the image."""
        return str(self).startswith(_NO_MEMORY)


@dataclass(frozen=True)
class JpegWarnings:
    """What libjpeg warned of: `count` warnings, its words for the first of them, "" for none.

    `lost` has the words for the first warning that means lost data, "" when all are harmless: then every coefficient is
    as it was encoded. A hole of zeros that libjpeg does not notice counts as a warning of ours.
    """

    count: int = 0
    first: str = ""
    lost: str = ""


def jpeg_warnings(data: bytes) -> JpegWarnings:
    """Return what libjpeg warns of when it reads every coefficient of a JPEG whose header `inspect_image` accepts.

    Safe in several threads at once. Raises UnreadableJpeg for a fatal error, JpegLibraryError when this machine's
    Pillow has no libjpeg that can be driven.
    """
    return jpeg_warnings_and_luminance(data, wants_luminance=False)[0]


def jpeg_warnings_and_luminance(data: bytes, wants_luminance: bool = True) -> tuple[JpegWarnings, Luminance | None]:
    """Return the warnings, and what a small picture needs of the coefficients that are read anyway.

    The latter is None if it is not wanted, and for an image without luminance, see `jpeg_luminance.luminance`. Raises
    as `jpeg_warnings`.
    """
    found, light = _decoder_of_thread().read(data, wants_luminance)
    return _with_hole(data, found), light


def _with_hole(data: bytes, found: JpegWarnings) -> JpegWarnings:
    if found.lost or (hole := find_hole(data)) is None:
        return found
    words = f"{LEAST_HOLE_BYTES} or more zeros from byte {hole} on, which no image has there"
    return JpegWarnings(found.count + 1, found.first or words, words)


@functools.cache
def libjpeg_version() -> str:
    """Return the version of the libjpeg that checks images, after a test of it. Raises JpegLibraryError."""
    try:
        _test_library()
    except UnreadableJpeg as error:
        raise JpegLibraryError(f"it cannot read a picture made by OpenCV: {error}") from None
    return features.version("libjpeg_turbo") or f"not turbo, {features.version('jpg')}"


def require_pictures() -> None:
    """Raise JpegLibraryError unless the library yields the small picture of a known image."""
    pixels = np.random.default_rng(0).integers(0, 256, (_TESTED_PX, _TESTED_PX), np.uint8)
    whole = cv2.imencode(".jpg", cv2.GaussianBlur(pixels, (0, 0), 2), [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
    expected = shrink(cv2.imdecode(whole, cv2.IMREAD_GRAYSCALE))
    found = jpeg_warnings_and_luminance(whole.tobytes())[1]
    if found is None or np.abs(small_picture(found).astype(np.int32) - expected).max() > _MOST_OFF:
        raise JpegLibraryError("its coefficients are not where they are expected; leave --fingerprints out")


class _Errors(ctypes.Structure):
    """libjpeg's jpeg_error_mgr up to the number of warnings: the same in every version since 1991."""

    _fields_ = (
        ("error_exit", _Address),
        ("emit_message", _Address),
        ("output_message", _Address),
        ("format_message", _Address),
        ("reset_error_mgr", _Address),
        ("code", ctypes.c_int),
        ("parameters", ctypes.c_int * 20),
        ("trace_level", ctypes.c_int),
        ("warnings", ctypes.c_long),
        ("rest", ctypes.c_char * 512),
    )


@functools.cache
def _library() -> SimpleNamespace:
    """Return the addresses of libjpeg's functions, and of the two that start and end threads."""
    pillow, system = ctypes.CDLL(PIL._imaging.__file__), ctypes.CDLL(None)
    try:
        names = {name: getattr(pillow, name) for name in _FUNCTIONS}
        names |= {name: getattr(system, name) for name in ("pthread_create", "pthread_join", "pthread_exit")}
    except AttributeError as error:
        raise JpegLibraryError(str(error)) from None
    names["jpeg_std_error"].restype = _Address
    names["jpeg_std_error"].argtypes = [_Address]
    names["jpeg_CreateDecompress"].argtypes = [_Address, ctypes.c_int, ctypes.c_size_t]
    names["jpeg_mem_src"].argtypes = [_Address, ctypes.c_char_p, ctypes.c_ulong]
    return SimpleNamespace(**names)


_OF_THREAD = threading.local()


def _decoder_of_thread() -> "_Decoder":
    if not hasattr(_OF_THREAD, "decoder"):
        _OF_THREAD.decoder = _Decoder()
    return _OF_THREAD.decoder


class _Decoder:
    """Reads one JPEG after the other, in one thread at a time."""

    def __init__(self) -> None:
        self._library = _library()
        self._words = ctypes.create_string_buffer(_MESSAGE_BYTES)
        self._data, self._first, self._lost = b"", "", ""
        self._on_output, self._on_message = _OnOutput(self._take_first), _OnMessage(self._take)
        self._errors = _Errors()
        self._library.jpeg_std_error(ctypes.byref(self._errors))
        self._format = ctypes.CFUNCTYPE(None, _Address, _Address)(self._errors.format_message)
        self._standard_emit = self._errors.emit_message
        self._memory = ctypes.create_string_buffer(_DECODER_BYTES)  # only the library looks into it
        self._version, self._size = self._ask_version()
        self._errors.error_exit = _address(self._library.pthread_exit)
        self._errors.output_message = _address(self._on_output)

    def read(self, data: bytes, wants_luminance: bool) -> tuple[JpegWarnings, Luminance | None]:
        """Return the warnings, and the luminance if it is wanted and there is one. Raises UnreadableJpeg."""
        if not data:  # libjpeg would give up here, outside of a thread of its own
            raise UnreadableJpeg("no bytes")
        self._data, self._first, self._lost = data, "", ""
        self._errors.warnings, self._errors.emit_message = 0, self._standard_emit
        # A new decoder each time: an old one lends its tables to an image that lacks its own.
        self._create(self._version, self._size)
        try:
            self._library.jpeg_mem_src(self._memory, data, len(data))
            if self._call(self._library.jpeg_consume_input) != _REACHED_SOS:
                raise UnreadableJpeg("it ends before the first scan")
            arrays = self._call(self._library.jpeg_read_coefficients)
            light = luminance(self._memory, arrays) if wants_luminance and arrays else None
        finally:
            self._library.jpeg_destroy_decompress(self._memory)
            self._data = b""
        return JpegWarnings(self._errors.warnings, self._first, self._lost), light

    def _create(self, version: int, size: int) -> None:
        ctypes.cast(self._memory, ctypes.POINTER(_Address))[0] = ctypes.addressof(self._errors)
        self._library.jpeg_CreateDecompress(self._memory, version, size)

    def _ask_version(self) -> tuple[int, int]:
        """Return the library's version of its interface and the bytes of its decoder: it refuses others and says so.

        Told to go on, it creates a decoder all the same; the memory is larger than any version needs.
        """
        refused: list[int] = []
        on_refusal = _OnOutput(lambda _: refused.append(self._errors.parameters[0]))
        self._errors.error_exit = _address(on_refusal)
        self._create(0, 0)
        self._library.jpeg_destroy_decompress(self._memory)
        if len(refused) != 2 or not 0 < refused[1] <= _DECODER_BYTES:
            raise JpegLibraryError(f"it says {refused} of its version and size")
        return refused[0], refused[1]

    def _call(self, function: Callable[..., object]) -> int | None:
        """Call a function of one argument, the decoder, in a thread; return its result. Raises UnreadableJpeg."""
        thread, result = ctypes.c_ulong(), _Address()
        code = self._library.pthread_create(ctypes.byref(thread), None, function, self._memory)
        if code:
            raise UnreadableJpeg(f"{_NO_MEMORY} for a thread ({os.strerror(code)})")
        self._library.pthread_join(thread, ctypes.byref(result))
        if result.value == ctypes.addressof(self._memory):
            raise UnreadableJpeg(self._message())
        return result.value

    def _take_first(self, _: object) -> None:
        """Note the first warning; libjpeg's own `emit_message` calls this for no other."""
        self._note()
        if not self._lost:
            self._errors.emit_message = _address(self._on_message)

    def _take(self, _: object, level: int) -> None:
        """Note a later message if it is a warning, which has the level -1, until one means lost data."""
        if level >= 0:
            return
        self._errors.warnings += 1
        self._note()
        if self._lost:
            self._errors.emit_message = self._standard_emit  # it counts the others, and is faster

    def _note(self) -> None:
        words = self._message()
        self._first = self._first or words
        if not _is_harmless(words, self._data):
            self._lost = words

    def _message(self) -> str:
        self._format(self._memory, self._words)
        return self._words.value.decode("ascii", "replace")


def _is_harmless(words: str, data: bytes) -> bool:
    """Return whether a warning about `data` leaves every coefficient as it was encoded."""
    if surplus := _SURPLUS.fullmatch(words):
        count = int(surplus[1])  # bytes behind the last coefficient: padding, or a scan that damage has shortened
        return count <= _MOST_PADDING_BYTES and bytes(count) + b"\xff\xd9" in data
    return bool(_HARMLESS.fullmatch(words))


def _address(function: object) -> int | None:
    return ctypes.cast(function, _Address).value  # type: ignore[arg-type]


def _test_library() -> None:
    """Raise JpegLibraryError unless the library tells a whole picture, half of one, and none apart."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    whole = cv2.imencode(".jpg", pixels)[1].tobytes()
    found = jpeg_warnings(whole), jpeg_warnings(whole[: 3 * len(whole) // 4] + b"\xff\xd9")
    if found[0] != JpegWarnings() or not found[1].lost:
        raise JpegLibraryError(f"it finds {found[0].first!r} in a whole picture and {found[1].first!r} in half of one")
    with contextlib.suppress(UnreadableJpeg):
        jpeg_warnings(whole[2:])
        raise JpegLibraryError("it reads what is no JPEG")
