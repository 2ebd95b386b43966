"""The fingerprints of all images, in parts of the publish-then-mark protocol, and read again for the search.

A part has a table, and a file of small pictures: first one of each image, then the inner ones of images with a border.
The pictures are read one at a time: those of 1.3 million images do not fit into the memory that the search may take.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.base.parquet import read_table
from convnext_imagenet.records.audit.fingerprint import SMALL_PX, Fingerprint, fingerprint
from convnext_imagenet.records.audit.sources import Source
from convnext_imagenet.records.images import BadImage, decode_rgb

FOLDER = "fingerprints"
PART_ROWS = 4096
_AT_A_TIME = 64  # images whose bytes and pixels are in memory
_SMALL_BYTES = SMALL_PX * SMALL_PX
_SCHEMA = pa.schema(
    {
        "pixels": pa.binary(),
        "width": pa.int32(),
        "height": pa.int32(),
        "contrast": pa.float32(),
        "content": pa.float32(),
        "has_border": pa.bool_(),
        "error": pa.string(),
    }
)


@dataclass(frozen=True)
class _Measured:
    width: int
    height: int
    print: Fingerprint


def part_unit(index: int) -> str:
    """Return the name of part `index` (from 0)."""
    return f"part-{index:05d}"


def part_numbers(rows: int) -> list[range]:
    """Return the numbers of the images of each part."""
    return [range(first, min(first + PART_ROWS, rows)) for first in range(0, rows, PART_ROWS)]


def write_part(
    source: Source, numbers: range, out: Path, unit: str, plan_id: str, workers: int,
    on_progress: Callable[[int], None], is_stopped: Callable[[], bool],
) -> None:  # fmt: skip
    """Measure the images `numbers` with `workers` threads and publish their part. Raises Interrupted when stopped."""
    measured: list[_Measured | BadImage] = []
    with ThreadPoolExecutor(workers) as pool:
        for images in _batches(source.read(numbers)):
            if is_stopped():
                raise Interrupted(f"stopped by a signal; run the same command again to resume in {out}")
            measured += pool.map(_measure, images)
            on_progress(len(images))
    if len(measured) != len(numbers):
        raise RuntimeError(f"{unit}: {len(measured)} images were read, but {len(numbers)} are listed")
    folder = protocol.staging(out)
    table, small = folder / f"{unit}.parquet{protocol.STAGED}", folder / f"{unit}.small{protocol.STAGED}"
    rows = [_row(each) for each in measured]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), table, compression="zstd")
    prints = [each.print if isinstance(each, _Measured) else None for each in measured]
    with small.open("wb") as file:
        for each in prints:
            file.write(each.small.tobytes() if each else bytes(_SMALL_BYTES))
        for each in prints:
            if each is not None and each.inner is not None:
                file.write(each.inner.tobytes())
    unreadable = sum(each is None for each in prints)
    protocol.publish([table, small], out / FOLDER, unit, plan_id, {"rows": len(rows), "unreadable": unreadable})


def _batches(images: Iterable[bytes | BadImage]) -> Iterator[list[bytes | BadImage]]:
    batch: list[bytes | BadImage] = []
    for image in images:
        batch.append(image)
        if len(batch) == _AT_A_TIME:
            yield batch
            batch = []
    if batch:
        yield batch


def _measure(image: bytes | BadImage) -> _Measured | BadImage:
    if isinstance(image, BadImage):
        return image
    try:
        pixels = decode_rgb(image)
    except BadImage as error:
        return error
    return _Measured(pixels.shape[1], pixels.shape[0], fingerprint(pixels))


def _row(measured: _Measured | BadImage) -> dict[str, Any]:
    if isinstance(measured, BadImage):
        return {"error": str(measured), "has_border": False}
    found = measured.print
    return {
        "pixels": found.pixels,
        "width": measured.width,
        "height": measured.height,
        "contrast": found.contrast,
        "content": found.content,
        "has_border": found.inner is not None,
    }


@dataclass(frozen=True)
class Views:
    """All small pictures of an audit: `image` is the number of the image of each, int32 (views,).

    The first views are those of the images, in their order; those without borders follow.
    """

    root: Path
    table: pa.Table

    @classmethod
    def open(cls, out: Path, rows: int) -> "Views":
        """Return the pictures of a directory whose parts are all published."""
        paths = [out / FOLDER / f"{part_unit(index)}.parquet" for index in range(len(part_numbers(rows)))]
        tables = [read_table(path) for path in paths]
        return cls(out / FOLDER, pa.concat_tables(tables).combine_chunks())

    @cached_property
    def image(self) -> np.ndarray:
        """Return the number of the image of each view, int32 (views,)."""
        has_border = self.table["has_border"].to_numpy()
        return np.concatenate([np.arange(len(has_border)), np.flatnonzero(has_border)]).astype(np.int32)

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the part of each view, and the place of its picture in the file of the part."""
        images, borders = self.table.num_rows, self.image[self.table.num_rows :]
        part = (self.image // PART_ROWS).astype(np.int32)
        firsts = np.searchsorted(borders, np.arange(0, images + PART_ROWS, PART_ROWS))
        in_part = np.arange(len(borders)) - firsts[borders // PART_ROWS]
        sizes = np.minimum(PART_ROWS, images - (borders // PART_ROWS) * PART_ROWS)
        return part, np.concatenate([np.arange(images) % PART_ROWS, sizes + in_part]).astype(np.int32)

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the numbers of the views of each part, int64 (n,), and their pictures, uint8 (n, 48, 48)."""
        part, place = self._places
        order = np.lexsort((place, part))
        for index in range(part.max(initial=-1) + 1):
            data = np.fromfile(self.root / f"{part_unit(index)}.small", np.uint8)
            yield order[part[order] == index], data.reshape(-1, SMALL_PX, SMALL_PX)

    @cached_property
    def _files(self) -> list[int]:
        parts = len(part_numbers(self.table.num_rows))
        return [os.open(self.root / f"{part_unit(index)}.small", os.O_RDONLY) for index in range(parts)]

    def picture(self, view: int) -> np.ndarray:
        """Return the picture of a view, uint8 (48, 48)."""
        part, place = self._places
        data = os.pread(self._files[part[view]], _SMALL_BYTES, int(place[view]) * _SMALL_BYTES)
        return np.frombuffer(data, np.uint8).reshape(SMALL_PX, SMALL_PX)

    def close(self) -> None:
        """Close the files of the pictures."""
        for file in self.__dict__.pop("_files", []):
            os.close(file)
