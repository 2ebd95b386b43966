"""The process that decodes what is neither JPEG nor PNG, by Pillow: a crash or a bomb costs one image.

Started by `other_kinds.py` as a program. A request is a line of JSON and the bytes of an image; the reply is a line of
JSON and, after success, the pixels in RGB.
"""

import io
import json
import os
import re
import resource
import sys
import warnings
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

_ORIENTATION = 0x0112


def main() -> None:
    """Answer requests until the other side closes the pipe."""
    memory_bytes = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    Image.MAX_IMAGE_PIXELS = None  # the limits of the request hold, and are checked before anything is decoded
    warnings.simplefilter("ignore")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get among the replies
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        answer, pixels = _answer(sys.stdin.buffer, request)
        replies.write(json.dumps(answer).encode() + b"\n" + pixels)
        replies.flush()


def _answer(stream: BinaryIO, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    data = stream.read(request["bytes"])
    try:
        return _decode(data, request)
    except MemoryError:
        return {"reason": "memory", "detail": "decoding needs more memory than a decoder may take"}, b""
    except UnidentifiedImageError:  # its message has an address of memory, which differs between two runs
        return {
            "reason": "damaged",
            "detail": f"Pillow: no {' or '.join(request['formats'])} after its first bytes",
        }, b""
    except Exception as error:  # whatever a decoder raises: it is the image's fault, and becomes its row
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(str(error).split()))
        return {"reason": "damaged", "detail": f"Pillow: {text or type(error).__name__}"}, b""


def _decode(data: bytes, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    if "HEIF" in request["formats"]:
        import pillow_heif  # type: ignore[import-not-found]  # of the extra heif

        pillow_heif.register_heif_opener()
    with Image.open(io.BytesIO(data), formats=request["formats"]) as image:
        header: dict[str, Any] = {"format": (image.format or "").lower(), "mode": image.mode, "size": image.size}
        width, height = image.size
        if max(width, height) > request["most_side"] or width * height > request["most_pixels"]:
            return {"reason": "dimensions", "detail": "", **header}, b""
        header["orientation"] = image.getexif().get(_ORIENTATION)  # before the pixels, as loading may turn them
        pixels = _rgb(image)
    return {**header, "size": pixels.shape[1::-1]}, pixels.tobytes()


def _rgb(image: Image.Image) -> np.ndarray:
    """Return the first frame as uint8 in RGB order; 16 bits keep their upper 8, as OpenCV does."""
    if image.mode.startswith("I"):
        gray = np.asarray(image)
        upper = (np.clip(gray, 0, 65535).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(upper[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("pixels that are fractions have no agreed range")
    return np.asarray(image.convert("RGB"))


if __name__ == "__main__":
    main()
