"""What is done to each image before it is stored: the limits of its check, and whether it is made smaller."""

from dataclasses import dataclass
from typing import Any

from convnext_imagenet.records.images import LARGEST_FILE_BYTES

_BYTES_PER_PIXEL = 3
_JPEG_HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class Reencoding:
    """Images with a side above `max_side_px` are made smaller and encoded as JPEG of this `quality` (1..100)."""

    max_side_px: int
    quality: int


@dataclass(frozen=True)
class ImagePolicy:
    """Limits for decoding one image, and `reencoding`, None when the bytes of all images are kept."""

    timeout_seconds: int = 60
    memory_mib: int = 1024
    reencoding: Reencoding | None = None

    def to_json(self) -> dict[str, Any]:
        """The policy as it stands in the plan and, under `source.treatment`, in the manifest."""
        reencoding = self.reencoding and {
            "max_side_px": self.reencoding.max_side_px,
            "quality": self.reencoding.quality,
            "resampling": "Pillow Lanczos",
        }
        return {
            "image_timeout_seconds": self.timeout_seconds,
            "image_memory_mib": self.memory_mib,
            "reencoding": reencoding,
        }

    def largest_row_bytes(self, largest_file_bytes: int) -> int:
        """The size of the largest image that can come out of it, when the largest file has `largest_file_bytes`."""
        if self.reencoding is None:
            return largest_file_bytes
        return max(largest_file_bytes, largest_reencoded_bytes(self.reencoding))


DEFAULT_IMAGE_POLICY = ImagePolicy()


def largest_reencoded_bytes(reencoding: Reencoding) -> int:
    """Above this size an image that was encoded again is not stored; no real image comes near."""
    pixels = reencoding.max_side_px**2
    return min(LARGEST_FILE_BYTES, _BYTES_PER_PIXEL * pixels + _JPEG_HEADER_BYTES)
