"""Gives compressed containers a form that can be read at any place: tar.gz becomes tar, Parquet becomes Arrow.

Images are read in shuffled order, which these forms do not allow. The unpacked files lie beside RECORDS until these are
finished; each has its source's modification time, so a resumed build uses it again, and a changed source replaces it.
"""

import contextlib
import gzip
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.ingest.errors import FailedIngestError, IngestError

_CHUNK_BYTES = 4 << 20
_BATCH_ROWS = 256  # at 110 kB an image, 28 MB in memory


@dataclass(frozen=True)
class Unpacker:
    """Unpacks into `folder`, which is made when first needed."""

    folder: Path
    on_file: Callable[[str], None] = lambda name: None

    def tar_of(self, root: Path, name: str) -> Path:
        """Return the tar in a tar.gz. Raises IngestError for a damaged one, FailedIngestError when the disk is full."""
        return self._unpacked(root, name, ".tar", _gunzip)

    def arrow_of(self, root: Path, name: str) -> Path:
        """Return a Parquet file as an Arrow stream. Raises as `tar_of`."""
        return self._unpacked(root, name, ".arrow", _to_arrow)

    def remove(self) -> None:
        """Remove what was unpacked."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _unpacked(self, root: Path, name: str, ending: str, write: Callable[[Path, BinaryIO], None]) -> Path:
        source, target = root / name, self.folder / f"{name.replace('/', '__')}{ending}"
        try:
            time = source.stat().st_mtime_ns
            if target.exists() and target.stat().st_mtime_ns == time:
                return target
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FailedIngestError(f"{source}: cannot be unpacked to {target} ({error.strerror})") from None
        self.on_file(name)
        unfinished = target.with_name(f"{target.name}.tmp")
        with _errors_of(source, target), unfinished.open("wb") as file:
            write(source, file)
            file.flush()
            os.fsync(file.fileno())
        os.utime(unfinished, ns=(time, time))
        unfinished.replace(target)
        return target


@contextlib.contextmanager
def _errors_of(source: Path, target: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise IngestError(f"{source}: damaged or truncated ({error}); download it again") from None
    except pa.ArrowException as error:
        raise IngestError(f"{source}: damaged ({' '.join(str(error).split())[:200]}); download it again") from None
    except OSError as error:
        raise FailedIngestError(
            f"{target}: cannot be written from {source} ({error.strerror or error}); it needs the space of all "
            f"unpacked images beside RECORDS; run the same command again to resume"
        ) from None


def _gunzip(source: Path, file: BinaryIO) -> None:
    with gzip.open(source, "rb") as packed:
        while chunk := packed.read(_CHUNK_BYTES):
            file.write(chunk)


def _to_arrow(source: Path, file: BinaryIO) -> None:
    with pq.ParquetFile(source) as table, pa.ipc.new_stream(file, table.schema_arrow) as stream:
        for batch in table.iter_batches(_BATCH_ROWS, use_threads=False):
            stream.write_batch(batch)
