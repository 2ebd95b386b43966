"""What happens to each image before it is stored: the limits of its check, and whether it is shrunk. Values only."""

from dataclasses import dataclass
from typing import Any

from convnext_imagenet.records.image_headers import LARGEST_FILE_BYTES
from convnext_imagenet.records.schema import SMALL_VERSION

_BYTES_PER_PIXEL = 3  # uncompressed RGB: no JPEG of a real image is larger
_JPEG_HEADER_BYTES = 1 << 16
LARGEST_CONVERTED_BYTES = 16 << 20  # every shard has pages of this size, so it is not the limit of files


@dataclass(frozen=True)
class Reencoding:
    """Images with a side above `max_side_px` are shrunk and encoded as JPEG of this `quality` (1..100)."""

    max_side_px: int
    quality: int


@dataclass(frozen=True)
class Conversion:
    """Kinds that are not stored become JPEG of this `quality` (1..100), or PNG, which loses nothing, if it is None."""

    quality: int | None = None


@dataclass(frozen=True)
class ImagePolicy:
    """Limits for decoding one image, and `reencoding`, None if all images keep their bytes.

    `conversion` is None if images of other kinds are not stored. `accept_warnings` stores images of which the decoder
    warns that a part is lost. `has_pictures` stores the small gray picture of each JPEG beside the shards.
    """

    timeout_seconds: int = 60
    memory_mib: int = 1024
    reencoding: Reencoding | None = None
    accept_warnings: bool = False
    conversion: Conversion | None = None
    has_pictures: bool = False

    @property
    def keeps_bytes(self) -> bool:
        """Whether every stored image has the bytes of its file."""
        return self.reencoding is None and self.conversion is None

    def to_json(self) -> dict[str, Any]:
        """Return the policy as the plan and, under `source.treatment`, the manifest store it."""
        reencoding = self.reencoding and {
            "max_side_px": self.reencoding.max_side_px,
            "quality": self.reencoding.quality,
            "resampling": "Pillow Lanczos",
        }
        # a key only for those who asked for it: the plans of all others stay as they are
        conversion = {} if self.conversion is None else {"conversion": {"quality": self.conversion.quality}}
        pictures = {"small_pictures": SMALL_VERSION} if self.has_pictures else {}
        return (
            conversion
            | pictures
            | {
                "image_timeout_seconds": self.timeout_seconds,
                "image_memory_mib": self.memory_mib,
                "reencoding": reencoding,
                "accept_warnings": self.accept_warnings,
            }
        )

    def largest_row_bytes(self, largest_file_bytes: int) -> int:
        """Return the size of the largest image to store, in bytes, if the largest file has `largest_file_bytes`."""
        sizes = [largest_file_bytes]
        if self.reencoding is not None:
            sizes.append(largest_reencoded_bytes(self.reencoding))
        if self.conversion is not None:
            sizes.append(LARGEST_CONVERTED_BYTES)
        return max(sizes)


DEFAULT_IMAGE_POLICY = ImagePolicy()


def largest_reencoded_bytes(reencoding: Reencoding) -> int:
    """Return the size in bytes above which an image that was encoded again is not stored; no real image is so large."""
    pixels = reencoding.max_side_px**2
    return min(LARGEST_FILE_BYTES, _BYTES_PER_PIXEL * pixels + _JPEG_HEADER_BYTES)
