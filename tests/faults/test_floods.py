"""Tars of a million members: looked through or refused under a ceiling of memory and of time, nothing unpacked."""

import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MEMBERS = 1_000_000
CEILING_MIB, TIMEOUT_SECONDS = 512, 120
SCAN = """
import resource, sys
from pathlib import Path
from convnext_imagenet.ingest.source.archives import scan_train_tar, scan_val_tar
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.scan_types import ScanNotes

now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + {ceiling}, now + {ceiling}))
notes = ScanNotes()
try:
    split = {scan}(Path(sys.argv[1]), notes)
    print(split.files, "images")
except IngestError as error:
    print(error)
print(notes.ignored.count, "ignored")
"""


def _header(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def _numbered(number: int) -> bytes:
    """The header of an empty val image; made by hand, since tarfile takes minutes for a million."""
    block = bytearray(_TEMPLATE)
    block[15:23] = b"%08d" % number
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


_TEMPLATE = _header("ILSVRC2012_val_00000000.JPEG")


def _images() -> Iterator[bytes]:
    yield from map(_numbered, range(1, MEMBERS + 1))


def _repeated(header: bytes) -> Iterator[bytes]:
    yield from (header * 1000 for _ in range(MEMBERS // 1000))


FLOODS: dict[str, tuple[str, Callable[[], Iterator[bytes]], str]] = {
    "images": ("scan_val_tar", _images, f"{MEMBERS} images"),
    "one image again and again": ("scan_val_tar", lambda: _repeated(_TEMPLATE), f"{MEMBERS} images"),
    "folders": ("scan_val_tar", lambda: _repeated(_header("folder/", tarfile.DIRTYPE)), f"{MEMBERS} ignored"),
    "hidden files": ("scan_train_tar", lambda: _repeated(_header("._n00000010.tar")), f"{MEMBERS} ignored"),
    "empty class tars": ("scan_train_tar", lambda: _repeated(_header("n00000010.tar")), "n00000010.tar: appears twice"),
}


@pytest.mark.faults
@pytest.mark.parametrize("flood", FLOODS)
def test_tar_of_a_million_members_stays_under_a_ceiling(tmp_path: Path, flood: str):
    scan, blocks, expected = FLOODS[flood]
    name = "ILSVRC2012_img_val.tar" if scan == "scan_val_tar" else "ILSVRC2012_img_train.tar"
    with (tmp_path / name).open("wb") as file:
        file.writelines(blocks())
        file.write(bytes(1024))
    script = SCAN.format(ceiling=CEILING_MIB << 20, scan=scan)
    result = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    (tmp_path / name).unlink()
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout
