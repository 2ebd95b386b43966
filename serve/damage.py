"""Whether a part of a JPEG is lost: decoders fill it with gray, so the answer would be that of another picture."""

import functools
import importlib
import importlib.util
from typing import Any

from convnext_imagenet.records.images import BadImage

_CHECK = "convnext_imagenet.records.jpeg_warnings"  # the check of ingest; without it nothing is looked for


def refuse_lost_part(data: bytes) -> None:
    """Raise BadImage, reason "damaged", when libjpeg warns that a part of a JPEG is lost; other kinds pass."""
    check = _check()
    if check is None or not data.startswith(b"\xff\xd8"):
        return
    try:
        lost = check.jpeg_warnings(data).lost
    except check.UnreadableJpeg as error:
        raise BadImage("memory" if error.is_memory else "damaged", f"libjpeg: {error}") from None
    if lost:
        raise LostPart(lost)


class LostPart(BadImage):
    """A JPEG that decodes, but of which a part is lost."""

    def __init__(self, words: str) -> None:
        super().__init__("damaged", f"a part is lost: {words}")


@functools.cache
def _check() -> Any:
    return importlib.import_module(_CHECK) if importlib.util.find_spec(_CHECK) else None
