"""The work that no verified ingest, and no loader, can leave out, as functions that worker processes can import."""

import hashlib
from pathlib import Path

from convnext_imagenet.records.images import check_image, decode_rgb


def check_and_hash(path: str) -> bytes:
    """The SHA-256 of an image of which every coefficient was read."""
    image = Path(path).read_bytes()
    check_image(image)
    return hashlib.sha256(image).digest()


def decode_and_hash(path: str) -> bytes:
    """The SHA-256 of an image of which every pixel was decoded: what a check without libjpeg's warnings costs."""
    image = Path(path).read_bytes()
    decode_rgb(image)
    return hashlib.sha256(image).digest()


def decode(path: str) -> tuple[int, ...]:
    """The shape of an image that was decoded in full."""
    return decode_rgb(Path(path).read_bytes()).shape
