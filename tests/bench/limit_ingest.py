"""The work that no verified ingest can leave out, as a function that worker processes can import."""

import hashlib
from pathlib import Path

from convnext_imagenet.records.images import check_image


def check_and_hash(path: str) -> bytes:
    """The SHA-256 of an image that was decoded whole."""
    image = Path(path).read_bytes()
    check_image(image)
    return hashlib.sha256(image).digest()
