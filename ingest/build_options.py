"""What the user asked `convnext-ingest build` for. Values only, so that --help need not import what uses them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BuildOptions:
    """The arguments and options of a build, under the names of the command line; `build --help` explains each."""

    data: Path
    out: Path
    # labels and splits
    classes: str
    onto: Path | None
    unverified: bool
    devkit: Path | None
    val_fraction: float | None
    test_fraction: float | None
    group_by: str
    label_column: str
    keep_order: bool
    eval_only: bool
    drop: Path | None
    # files
    check_archives: bool
    follow_links: bool
    # what happens to an image
    max_side: int | None
    quality: int | None
    convert: bool
    image_timeout: int
    image_memory: int
    accept_warnings: bool
    fingerprints: bool
    # the work
    workers: int | None
    engine: str
    address: str
    seed: int
    train_shards: int | None
    repair: bool
    max_quarantine: int | None
    is_dry_run: bool
