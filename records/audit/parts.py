"""The fingerprints of all images, in parts of the publish-then-mark protocol, and read again for the search.

A part has a table, and a file of small pictures: first one of each image, then the inner ones of images with a border.
The pictures are read one at a time: those of 1.3 million images do not fit into the memory that the search may take.
An image whose stored picture is enough is not decoded: its row has no digest. If it turns out to be near another one,
a later part has it again, decoded.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.base.files import sha256_json
from convnext_imagenet.base.parquet import read_table
from convnext_imagenet.records.audit.fingerprint import Fingerprint, fingerprint, stored_fingerprint
from convnext_imagenet.records.audit.sources import Source
from convnext_imagenet.records.audit.stored import StoredPictures, needs_pixels
from convnext_imagenet.records.image_headers import BadImage
from convnext_imagenet.records.images import decode_rgb
from convnext_imagenet.records.small_picture import SMALL_PX

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


@dataclass(frozen=True)
class Part:
    """A unit of the protocol: its name, and the numbers of its images, rising.

    With `pictures`, images whose stored picture is enough are not decoded.
    """

    unit: str
    numbers: Sequence[int]
    pictures: StoredPictures | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """Return what the receipt says of a part that is not one of all images: which images it has."""
        return {} if isinstance(self.numbers, range) else {"images": sha256_json(list(self.numbers))}


def all_parts(rows: int, pictures: StoredPictures | None = None) -> list[Part]:
    """Return the parts of all images."""
    firsts = range(0, rows, PART_ROWS)
    numbers = [range(first, min(first + PART_ROWS, rows)) for first in firsts]
    return [Part(f"part-{index:05d}", each, pictures) for index, each in enumerate(numbers)]


def decoded_parts(numbers: np.ndarray) -> list[Part]:
    """Return the parts of images, rising int64, that are decoded though they have a stored picture."""
    firsts = range(0, len(numbers), PART_ROWS)
    return [
        Part(f"decoded-{index:05d}", numbers[first : first + PART_ROWS].tolist()) for index, first in enumerate(firsts)
    ]


def write_part(
    source: Source, part: Part, out: Path, plan_id: str, workers: int,
    on_progress: Callable[[int], None], is_stopped: Callable[[], bool],
) -> None:  # fmt: skip
    """Measure the images of a part with `workers` threads and publish it. Raises Interrupted when stopped."""
    enough = _enough(part)
    on_progress(len(enough))
    decoded: list[_Measured | BadImage] = []
    wanted = [number for number in part.numbers if number not in enough]
    with ThreadPoolExecutor(workers) as pool:
        for images in _batches(source.read(wanted)):
            if is_stopped():
                raise Interrupted(f"stopped by a signal; run the same command again to resume in {out}")
            decoded += pool.map(_measure, images)
            on_progress(len(images))
    if len(decoded) != len(wanted):
        raise RuntimeError(f"{part.unit}: {len(decoded)} images were read, but {len(wanted)} are listed")
    found = {**enough, **dict(zip(wanted, decoded, strict=True))}
    measured = [found[number] for number in part.numbers]
    folder = protocol.staging(out)
    table, small = folder / f"{part.unit}.parquet{protocol.STAGED}", folder / f"{part.unit}.small{protocol.STAGED}"
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
    facts = {"rows": len(rows), "unreadable": unreadable, **part.facts}
    protocol.publish([table, small], out / FOLDER, part.unit, plan_id, facts)


def _enough(part: Part) -> dict[int, "_Measured | BadImage"]:
    """Return the images of a part that need not be decoded, by number."""
    if part.pictures is None:
        return {}
    found: dict[int, _Measured | BadImage] = {}
    for number, picture in zip(part.numbers, part.pictures.read(part.numbers), strict=True):
        if picture.small is not None and not needs_pixels(picture):
            found[number] = _Measured(picture.width, picture.height, stored_fingerprint(picture.small))
    return found


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

    The first views are those of the images, in their order; those without borders follow. `table` has a row for each
    image; it and its pictures are in the file `unit` of the `paths`, at `place`, the inner ones at `inner` (images,).
    """

    paths: Sequence[Path]
    table: pa.Table
    unit: np.ndarray
    place: np.ndarray
    inner: np.ndarray

    @classmethod
    def open(cls, out: Path, parts: Sequence[Part], images: int) -> "Views":
        """Return the pictures of a directory whose parts are all published; of an image in two parts, the later one."""
        tables = [read_table(out / FOLDER / f"{part.unit}.parquet") for part in parts]
        sizes = np.array([table.num_rows for table in tables])
        ends = np.cumsum(sizes)
        unit = np.repeat(np.arange(len(parts)), sizes).astype(np.int32)
        place = np.arange(sizes.sum()) - (ends - sizes)[unit]
        rows = pa.concat_tables(tables)
        borders = np.concatenate([[0], np.cumsum(rows["has_border"].to_numpy())])
        inner = sizes[unit] + borders[:-1] - borders[ends - sizes][unit]
        of_image = np.zeros(images, np.int64)
        for part, end in zip(parts, ends.tolist(), strict=True):
            of_image[np.asarray(part.numbers, np.int64)] = np.arange(end - len(part.numbers), end)
        columns = (column[of_image].astype(np.int32) for column in (unit, place, inner))
        paths = [out / FOLDER / f"{part.unit}.small" for part in parts]
        return cls(paths, rows.take(of_image).combine_chunks(), *columns)

    @cached_property
    def image(self) -> np.ndarray:
        """Return the number of the image of each view, int32 (views,)."""
        has_border = self.table["has_border"].to_numpy()
        return np.concatenate([np.arange(len(has_border)), np.flatnonzero(has_border)]).astype(np.int32)

    @cached_property
    def is_decoded(self) -> np.ndarray:
        """Return whether the picture of each image is of its decoded pixels, bool (images,)."""
        return pc.is_valid(self.table["pixels"]).to_numpy()

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the unit of each view, and the place of its picture in the file of the unit."""
        borders = self.image[self.table.num_rows :]
        return self.unit[self.image], np.concatenate([self.place, self.inner[borders]])

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the numbers of the views of each unit, int64 (n,), and their pictures, uint8 (n, 48, 48)."""
        unit, place = self._places
        order = np.lexsort((place, unit))
        starts = np.searchsorted(unit[order], np.arange(len(self.paths) + 1))
        for index, path in enumerate(self.paths):
            views = order[starts[index] : starts[index + 1]]
            data = np.fromfile(path, np.uint8).reshape(-1, SMALL_PX, SMALL_PX)
            yield views, data[place[views]]

    @cached_property
    def _files(self) -> list[int]:
        return [os.open(path, os.O_RDONLY) for path in self.paths]

    def picture(self, view: int) -> np.ndarray:
        """Return the picture of a view, uint8 (48, 48)."""
        unit, place = self._places
        data = os.pread(self._files[unit[view]], _SMALL_BYTES, int(place[view]) * _SMALL_BYTES)
        return np.frombuffer(data, np.uint8).reshape(SMALL_PX, SMALL_PX)

    def close(self) -> None:
        """Close the files of the pictures."""
        for file in self.__dict__.pop("_files", []):
            os.close(file)
