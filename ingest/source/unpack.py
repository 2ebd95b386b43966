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
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.ingest.errors import FailedIngestError, IngestError
from convnext_imagenet.ingest.source.archive_kinds import another_kind

_CHUNK_BYTES = 4 << 20
_BATCH_ROWS = 256  # at 110 kB an image, 28 MB in memory


OnProgress = Callable[[int], None]


@contextlib.contextmanager
def _unwatched(name: str, size: int) -> Iterator[OnProgress]:
    yield lambda count: None


@dataclass(frozen=True)
class Unpacker:
    """Unpacks into `folder`, which is made when first needed.

    `watch` is entered for each file with its name and size in bytes; what it yields gets the number of bytes read.
    """

    folder: Path
    watch: Callable[[str, int], AbstractContextManager[OnProgress]] = _unwatched

    def tar_of(self, root: Path, name: str) -> Path:
        """Return the tar in a tar.gz. Raises IngestError for a damaged one, FailedIngestError when the disk is full."""
        return self._unpacked(root, name, ".tar", _gunzip)

    def arrow_of(self, root: Path, name: str) -> Path:
        """Return a Parquet file as an Arrow stream. Raises as `tar_of`."""
        return self._unpacked(root, name, ".arrow", _to_arrow)

    def remove(self) -> None:
        """Remove what was unpacked."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _unpacked(
        self, root: Path, name: str, ending: str, write: Callable[[Path, BinaryIO, OnProgress], None]
    ) -> Path:
        source, target = root / name, self.folder / f"{name.replace('/', '__')}{ending}"
        try:
            status = source.stat()
            time = status.st_mtime_ns
            if target.exists() and target.stat().st_mtime_ns == time:
                return target
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FailedIngestError(f"{source}: cannot be unpacked to {target} ({error.strerror})") from None
        unfinished = target.with_name(f"{target.name}.tmp")
        with (
            self._removed_unless_whole(unfinished),
            _errors_of(source, target),
            self.watch(name, status.st_size) as on_progress,
            unfinished.open("wb") as file,
        ):
            write(source, file, on_progress)
            file.flush()
            os.fsync(file.fileno())
        os.utime(unfinished, ns=(time, time))
        unfinished.replace(target)
        return target

    @contextlib.contextmanager
    def _removed_unless_whole(self, unfinished: Path) -> Iterator[None]:
        """Remove a file that was not written to its end, and the folder if nothing else is in it."""
        try:
            yield
        except BaseException:
            unfinished.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()
            raise


@contextlib.contextmanager
def _errors_of(source: Path, target: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        if kind := another_kind(source, source.name):
            raise IngestError(f"{source}: not what its name says, but {kind}") from None
        raise IngestError(f"{source}: damaged or truncated ({error}); download it again") from None
    except pa.ArrowException as error:
        raise IngestError(f"{source}: damaged ({' '.join(str(error).split())[:200]}); download it again") from None
    except OSError as error:
        raise FailedIngestError(
            f"{target}: cannot be written from {source} ({error.strerror or error}); it needs the space of all "
            f"unpacked images beside RECORDS; run the same command again to resume"
        ) from None


def _gunzip(source: Path, file: BinaryIO, on_progress: OnProgress) -> None:
    with source.open("rb") as packed, gzip.GzipFile(fileobj=packed) as unpacked:
        done = 0
        while chunk := unpacked.read(_CHUNK_BYTES):
            file.write(chunk)
            on_progress(packed.tell() - done)
            done = packed.tell()


def _to_arrow(source: Path, file: BinaryIO, on_progress: OnProgress) -> None:
    size = source.stat().st_size
    with pq.ParquetFile(source) as table, pa.ipc.new_stream(file, table.schema_arrow) as stream:
        rows = done = 0
        for batch in table.iter_batches(_BATCH_ROWS, use_threads=False):
            stream.write_batch(batch)
            rows += len(batch)
            read = size * rows // table.metadata.num_rows
            on_progress(read - done)
            done = read
