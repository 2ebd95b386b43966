"""Why an image is not stored: every reason code, in one table. The README shows the same table."""

REASONS: dict[str, str] = {
    "empty": "the file has no bytes",
    "too_large": "the file is larger than 64 MiB, or became so large when it was encoded again",
    "unsupported": "neither JPEG nor PNG, or a kind of JPEG that decoders do not agree on",
    "truncated": "the end is missing: in the header, or no end-of-image marker",
    "damaged": "the header contradicts itself, or the content cannot be decoded",
    "dimensions": "a side of 0 or above 30,000 px, or above 64 million pixels",
    "not_a_file": "a link, pipe, device or folder where an image was expected",
    "crashed": "the decoder process died of this image, twice in a row",
    "timeout": "decoding took longer than --image-timeout, twice in a row",
    "memory": "decoding needs more memory than --image-memory",
}
