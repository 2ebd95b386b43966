"""Whether a part of a JPEG is lost: decoders fill it with gray, so the answer would be that of another picture."""

from convnext_imagenet.records.image_headers import BadImage
from convnext_imagenet.records.jpeg_warnings import UnreadableJpeg, jpeg_warnings


def refuse_lost_part(data: bytes) -> None:
    """Raise BadImage, reason "damaged", when libjpeg warns that a part of a JPEG is lost; other kinds pass."""
    if not data.startswith(b"\xff\xd8"):
        return
    try:
        lost = jpeg_warnings(data).lost
    except UnreadableJpeg as error:
        raise BadImage("memory" if error.is_memory else "damaged", f"libjpeg: {error}") from None
    if lost:
        raise LostPart(lost)


class LostPart(BadImage):
    """A JPEG that decodes, but of which a part is lost."""

    def __init__(self, words: str) -> None:
        super().__init__("damaged", f"a part is lost: {words}")
