"""The list of the images of an exported shard, as `sha256sum --check` reads it from the directory of the export."""

from collections.abc import Iterable
from pathlib import Path

from convnext_imagenet.base.errors import ArtefactError

ENDING = "sha256"


def checksum_lines(images: Iterable[tuple[str, str]]) -> str:
    """Return a line for each path and SHA-256; in the path, sha256sum doubles backslashes and marks the line by one."""
    lines = []
    for name, sha256 in images:
        mark = "\\" if "\\" in name else ""
        escaped = name.replace("\\", "\\\\")
        lines.append(f"{mark}{sha256}  {escaped}\n")
    return "".join(lines)


def read_checksums(path: Path) -> list[tuple[str, str]]:
    """Return path and SHA-256 of each image. Raises ArtefactError for a file of another form."""
    images = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        sha256, separator, name = line.removeprefix("\\").partition("  ")
        if not separator:
            raise ArtefactError(f"{path}: line {number} is no checksum; export into another directory")
        images.append((name.replace("\\\\", "\\") if line.startswith("\\") else name, sha256))
    return images
