"""The stored format: schema, manifest, reading order, safe image decoding, publish-then-mark, verification."""
