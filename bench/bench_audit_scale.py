"""`make bench PART=audit_scale`: time and memory of the search for near hashes among 1.3 million generated images.

A generated image has a random hash, and one for each window that differs from it in four to eight bits, as crops of
real images do. One image in a thousand has a copy at a distance of at most seven bits. CONVNEXT_BENCH_IMAGES sets
another number of images.
"""

import os
import resource
import time

import numpy as np
from harness import report

from convnext_imagenet.records.audit.fingerprint import CROPS
from convnext_imagenet.records.audit.neighbours import near_hashes
from convnext_imagenet.records.audit.pairs import RADIUS_BITS

_IMAGES = int(os.environ.get("CONVNEXT_BENCH_IMAGES", "1300000"))


def main() -> None:
    """Time one search of whole pictures among all windows; an audit makes two, and four among fewer hashes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 1 << 64, _IMAGES, dtype=np.uint64)
    copies = rng.choice(_IMAGES, max(2, _IMAGES // 1000) // 2 * 2, replace=False).reshape(2, -1)
    images[copies[1]] = _flipped(images[copies[0]], 7, rng)
    windows = np.stack([images, *(_flipped(images, int(rng.integers(4, 9)), rng) for _ in CROPS[1:])], 1)
    began, found = time.process_time(), set()
    for hit in near_hashes(images, windows.ravel(), RADIUS_BITS):
        entries = hit.entries // len(CROPS)
        is_other = entries != hit.queries
        found |= set(zip(hit.queries[is_other].tolist(), entries[is_other].tolist(), strict=True))
    seconds = time.process_time() - began
    planted = set(zip(copies[0].tolist(), copies[1].tolist(), strict=True))
    report(
        "audit_scale",
        [
            {
                "images": _IMAGES,
                "hashes": windows.size,
                "processor seconds": seconds,
                "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "copies": len(planted),
                "copies found": len(planted & found),
                "other pairs": len(found - planted - {(b, a) for a, b in planted}),
            }
        ],
    )


def _flipped(hashes: np.ndarray, bits: int, rng: np.random.Generator) -> np.ndarray:
    """Return the hashes with up to `bits` random bits flipped in each."""
    flipped = hashes.copy()
    for _ in range(bits):
        flipped ^= np.uint64(1) << rng.integers(0, 64, len(hashes), dtype=np.uint64)
    return flipped


if __name__ == "__main__":
    main()
