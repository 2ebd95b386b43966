"""`make bench PART=audit`: planted copies among the images of CONVNEXT_SHARED_DATA, found by the audit.

Recall and precision by kind at the default threshold. A pair that was not planted counts as wrong unless the audit of
the same images without planting finds it, too: those pairs have to be looked at.
"""

import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import report
from PIL import Image
from planted_copies import KINDS

from convnext_imagenet.records.audit.evidence import Asked, Evidence
from convnext_imagenet.records.audit.job import open_audit
from convnext_imagenet.records.audit.sources import open_source

_PLANTED = int(os.environ.get("CONVNEXT_BENCH_PLANTED", "400"))
_PLANTS = "planted"


def main() -> None:
    """Plant copies in every data set of the folder, and count what is found."""
    shared = Path(os.environ["CONVNEXT_SHARED_DATA"])
    rows: list[dict[str, Any]] = []
    for name in ("nette96", "fullsize"):
        with tempfile.TemporaryDirectory() as folder:
            rows += _measure(shared / name, Path(folder))
    report("audit", rows)


def _measure(data: Path, folder: Path) -> list[dict[str, Any]]:
    images = folder / "images"
    images.mkdir()
    files = sorted(path for path in data.rglob("*.JPEG"))
    for path in files:
        (images / path.name).symlink_to(path)
    natural, _, _ = _pairs(images, folder / "without")
    planted = _plant(files, images, min(_PLANTED, len(files) // len(KINDS) * len(KINDS)))
    found, seconds, decoding = _pairs(images, folder / "with")
    planted_pairs = {pair for pairs in planted.values() for pair in pairs}
    known = natural | planted_pairs
    rows = []
    for kind, pairs in planted.items():
        own = {copy for _, copy in pairs}
        wrong = {pair for pair in found - known if own & pair_names(pair)}
        hits = len(pairs & found)
        rows.append(
            {
                "data": data.name,
                "images": len(files),
                "kind": kind,
                "planted": len(pairs),
                "recall": hits / len(pairs),
                "precision": hits / max(1, hits + len(wrong)),
                "unplanted pairs": len(natural),
                "seconds": seconds,
                "of these decoding": decoding,
                "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    return rows


def pair_names(pair: tuple[str, str]) -> set[str]:
    """Return the names of a pair as a set."""
    return set(pair)


def _plant(files: list[Path], images: Path, count: int) -> dict[str, set[tuple[str, str]]]:
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(files), count, replace=False)
    planted: dict[str, set[tuple[str, str]]] = {kind: set() for kind in KINDS}
    for place, number in enumerate(chosen.tolist()):
        kind = list(KINDS)[place % len(KINDS)]
        copy = images / f"{_PLANTS}_{place:04d}.JPEG"
        with Image.open(files[number]) as image:
            copy.write_bytes(KINDS[kind](image.convert("RGB"), rng))
        planted[kind].add((files[number].name, copy.name))
    return planted


def _pairs(images: Path, out: Path) -> tuple[set[tuple[str, str]], float, float]:
    """Return the pairs as names in order, the seconds of the audit, and those of them that went into decoding."""
    import pyarrow.parquet as pq

    began = time.perf_counter()
    with open_audit(open_source(images), Asked(), images, out, 2) as job:
        job.write_parts(lambda count: None, lambda: False)
        decoded = time.perf_counter()
        job.finish(Evidence())
    table = pq.read_table(out / "pairs.parquet", columns=["key_a", "key_b"]).to_pylist()
    pairs = {tuple(sorted((row["key_a"], row["key_b"]))) for row in table}
    return {(a, b) for a, b in pairs}, time.perf_counter() - began, decoded - began


if __name__ == "__main__":
    main()
