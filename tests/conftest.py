"""Fixtures shared by the whole suite."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.pop("CONVNEXT_MAKE", None)  # `make test` sets it, and messages would name targets of make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real research images, or a skip: the suite must pass without it."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("CONVNEXT_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip("no folder of real images: set CONVNEXT_SHARED_DATA to run this test")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB; skips where it cannot be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True)
    if mount.returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def fill() -> Callable[[Path], Path]:
    """`fill(folder)` writes a file until its disk is full, and returns the file."""

    def fill_disk(folder: Path) -> Path:
        filler = folder / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        return filler

    return fill_disk
