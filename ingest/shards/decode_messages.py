"""What the process that decodes and its client say to each other; neither decodes here."""

import io
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convnext_imagenet.records.image_headers import BadImage, ImageInfo

if TYPE_CHECKING:  # only the process that decodes imports OpenCV
    from convnext_imagenet.records.small_picture import Luminance

COUNTER = struct.Struct("=q")  # answered images, at the start of the shared memory


@dataclass(frozen=True)
class DecodedImage:
    """An image that was decoded completely: the bytes to store, what they are, and whether they were encoded again.

    `thumbnail` is a small JPEG, None if none was asked for or Pillow cannot make one. `light` has what its small
    picture for audits is made of, None if none was asked for or the image is no JPEG with a luminance; in the process
    that asked for it, `small` has the 48 x 48 gray levels instead.
    """

    image: bytes
    info: ImageInfo
    is_reencoded: bool
    thumbnail: bytes | None
    small: bytes | None = None
    light: "Luminance | None" = None


def unpack_answers(reply: bytes, images: Sequence[bytes]) -> list[DecodedImage | BadImage]:
    """Return the answers in a reply of `pack_answers`; `images` are the bytes that were sent, in order."""
    line, _, payload = reply.partition(b"\n")
    answers: list[DecodedImage | BadImage] = []
    rest = io.BytesIO(payload)
    for image, ((outcome, *values), *lengths) in zip(images, json.loads(line), strict=True):
        stored, picture, small = map(rest.read, lengths)
        if outcome == "bad":
            answers.append(BadImage(*values))
        else:
            info = ImageInfo(*values)
            answers.append(DecodedImage(stored or image, info, bool(stored), picture or None, small or None))
    return answers
