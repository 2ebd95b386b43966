"""The ILSVRC2012 development kit: which classes exist, and which class each validation image has.

Reads `data/meta.mat` and the ground truth into memory, from the tar.gz or from the unpacked folder; nothing is ever
extracted to disk. Knows nothing of image files.
"""

import gzip
import hashlib
import io
import os
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from convnext_imagenet.base.tars import BadTar, Seekable, walk_tar
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.labels.authority import LabelAuthority
from convnext_imagenet.ingest.source.safe_open import kind_of_file, open_source

# Russakovsky et al. 2015 (arXiv:1409.0575), table 2.
OFFICIAL_CLASSES = 1000
OFFICIAL_TRAIN_IMAGES = 1_281_167
OFFICIAL_VAL_PER_CLASS = 50
_META = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_LARGEST_MEMBER_BYTES = 64 << 20  # the packed devkit has 2.5 MB: more is damaged or an attack
_LARGEST_DEVKIT_BYTES = 64 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_WNID = re.compile(r"n[0-9]{8}")
_MOST_DIGITS = 9  # refuses absurd numbers before int() spends time on them
_FETCH_HINT = "download ILSVRC2012_devkit_t12.tar.gz again"


@dataclass(frozen=True)
class Leaf:
    """A class that has images: ILSVRC2012_ID (from 1), WordNet id, names, and the true number of train images."""

    ilsvrc_id: int
    wnid: str
    words: str
    train_images: int


@dataclass(frozen=True)
class Devkit:
    """The leaves by ascending ILSVRC2012_ID; `ground_truth[n - 1]` is the ILSVRC2012_ID of val image n.

    `sha256` covers the content of both files, not how they are packed.
    """

    leaves: tuple[Leaf, ...]
    ground_truth: tuple[int, ...]
    sha256: str

    @cached_property
    def authority(self) -> LabelAuthority:
        """What the devkit states about labels, by wnid."""
        wnid_of = {leaf.ilsvrc_id: leaf.wnid for leaf in self.leaves}
        return LabelAuthority(
            title="the devkit",
            names={leaf.wnid: leaf.words for leaf in self.leaves},
            val_wnids=tuple(wnid_of[ilsvrc_id] for ilsvrc_id in self.ground_truth),
            train_images={leaf.wnid: leaf.train_images for leaf in self.leaves},
            sha256=self.sha256,
        )


def read_devkit(path: Path) -> Devkit:
    """Return the devkit in a tar.gz (or tar), or in the folder of an unpacked tar.gz.

    Raises IngestError when it cannot be read, or is not ILSVRC2012's classification devkit.
    """
    members = _from_folder(path) if path.is_dir() else _from_tar(path)
    leaves = parse_meta(members[_META], origin=f"{path}: {_META}")
    ground_truth = parse_ground_truth(members[_GROUND_TRUTH], leaves, origin=f"{path}: {_GROUND_TRUTH}")
    digests = [hashlib.sha256(members[name]).hexdigest() for name in (_META, _GROUND_TRUTH)]
    return Devkit(leaves, ground_truth, hashlib.sha256("\n".join(digests).encode()).hexdigest())


def parse_meta(data: bytes, origin: str = _META) -> tuple[Leaf, ...]:
    """Return the leaves (num_children == 0) of a meta.mat, by ascending ILSVRC2012_ID.

    Raises IngestError for other data, and for a class that is invalid or listed twice.
    """
    from scipy.io import loadmat  # here: it takes 0.2 s, and many builds read no devkit

    try:
        synsets = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
        leaves = [_leaf(synset) for synset in synsets.reshape(-1) if int(synset["num_children"]) == 0]
    except Exception as error:  # SciPy raises a dozen types for damaged bytes, all with the same meaning here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IngestError(f"{origin}: not a devkit's meta.mat ({reason}); {_FETCH_HINT}") from error
    leaves.sort(key=lambda leaf: leaf.ilsvrc_id)
    if not leaves:
        raise IngestError(f"{origin}: contains no class without children; {_FETCH_HINT}")
    for leaf in leaves:
        if not _WNID.fullmatch(leaf.wnid) or leaf.ilsvrc_id < 1 or leaf.train_images < 0:
            raise IngestError(f"{origin}: an invalid class, {leaf}; {_FETCH_HINT}")
    for field in ("ilsvrc_id", "wnid"):
        value, count = Counter(getattr(leaf, field) for leaf in leaves).most_common(1)[0]
        if count > 1:
            raise IngestError(f"{origin}: {count} classes have the same {field} {value}; {_FETCH_HINT}")
    return tuple(leaves)


def parse_ground_truth(data: bytes, leaves: tuple[Leaf, ...], origin: str = _GROUND_TRUTH) -> tuple[int, ...]:
    """Return the ILSVRC2012_ID of each val image, by ascending number in its file name.

    With the official 1000 leaves each must have 50 lines; a smaller devkit may have any number. Raises IngestError for
    other counts, and for a line that is not an ILSVRC2012_ID of the leaves.
    """
    known = {leaf.ilsvrc_id for leaf in leaves}
    id_of = {b"%d" % each: each for each in known}
    ids = [
        each if (each := id_of.get(line)) else _unusual_id(line, known, f"{origin}: line {number}")
        for number, line in enumerate(data.rstrip().splitlines(), start=1)
    ]
    if len(leaves) == OFFICIAL_CLASSES:
        _check_official_counts(ids, origin)
    return tuple(ids)


def _unusual_id(line: bytes, known: set[int], where: str) -> int:
    """Return the ILSVRC2012_ID of a line with blanks or zeros before it. Raises IngestError for another line."""
    text = line.strip()
    if not text.isdigit() or len(text) > _MOST_DIGITS:
        shown = repr(line[:40].decode("ascii", "backslashreplace"))
        raise IngestError(f"{where} is {shown}, expected an ILSVRC2012_ID; {_FETCH_HINT}")
    if int(text) not in known:
        raise IngestError(
            f"{where} is {int(text)}, which is not a class of meta.mat "
            f"(ILSVRC2012_ID {min(known)} to {max(known)}); {_FETCH_HINT}"
        )
    return int(text)


def _check_official_counts(ids: list[int], origin: str) -> None:
    expected = OFFICIAL_CLASSES * OFFICIAL_VAL_PER_CLASS
    if len(ids) != expected:
        raise IngestError(f"{origin}: has {len(ids):,} lines, expected {expected:,}; {_FETCH_HINT}")
    for ilsvrc_id, count in sorted(Counter(ids).items()):
        if count != OFFICIAL_VAL_PER_CLASS:
            raise IngestError(
                f"{origin}: ILSVRC2012_ID {ilsvrc_id} is on {count} lines, "
                f"expected {OFFICIAL_VAL_PER_CLASS}; {_FETCH_HINT}"
            )


def _leaf(synset: Any) -> Leaf:
    return Leaf(
        ilsvrc_id=int(synset["ILSVRC2012_ID"]),
        wnid=str(synset["WNID"]),
        words=str(synset["words"]),
        train_images=int(synset["num_train_images"]),
    )


def read_small_file(path: Path, way_out: str) -> bytes:
    """Return the bytes of a plain file of at most 64 MiB. Raises IngestError, ending in `way_out`, for others."""
    with _open_plain(path, way_out) as file:
        return _capped(file.read(_LARGEST_MEMBER_BYTES + 1), str(path))


def _from_folder(path: Path) -> dict[str, bytes]:
    return {name: read_small_file(path / name, f"{_FETCH_HINT} and unpack it") for name in (_META, _GROUND_TRUTH)}


def _from_tar(path: Path) -> dict[str, bytes]:
    """Return both members; never unpack more than 64 MiB, whatever the archive claims."""
    contents: dict[str, bytes] = {}
    with _open_plain(path, _FETCH_HINT) as packed:
        is_gzip = packed.read(2) == _GZIP_MAGIC
        packed.seek(0)
        plain: Seekable = gzip.GzipFile(fileobj=packed) if is_gzip else packed
        try:
            for member in walk_tar(plain, 0, _LARGEST_DEVKIT_BYTES):
                name = next((wanted for wanted in (_META, _GROUND_TRUTH) if _is_path(member.name, wanted)), None)
                if name is not None and member.kind == "file":
                    plain.seek(member.offset)
                    contents[name] = plain.read(member.size)
            _read_to_end(plain)
        except (BadTar, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise IngestError(
                f"{path}: truncated, or not a tar.gz file of at most {_LARGEST_DEVKIT_BYTES >> 20} MiB unpacked "
                f"({error}); {_FETCH_HINT}"
            ) from None
        except OSError as error:
            raise IngestError(f"{path}: cannot be read ({error.strerror or error}); {_FETCH_HINT}") from None
    for name in (_META, _GROUND_TRUTH):
        if name not in contents:
            raise IngestError(f"{path}: contains no {name}, so it is not the classification devkit; {_FETCH_HINT}")
    return contents


def _read_to_end(file: Seekable) -> None:
    """Read what follows the last member, so that gzip compares its checksum."""
    for _ in range(_LARGEST_DEVKIT_BYTES >> 20):
        if not file.read(1 << 20):
            return
    raise BadTar("more data after its end")


def _open_plain(path: Path, way_out: str) -> BinaryIO:
    try:
        descriptor = open_source(path, follow_links=True)  # the user named the path, or the scan has checked it
    except OSError as error:
        raise IngestError(f"{path}: cannot be read ({error.strerror or error}); {way_out}") from None
    if descriptor is None:
        raise IngestError(f"{path}: {kind_of_file(path)}, expected a plain file; {way_out}")
    return os.fdopen(descriptor, "rb")


def _is_path(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f"/{wanted}")


def _capped(data: bytes, origin: str) -> bytes:
    if len(data) > _LARGEST_MEMBER_BYTES:
        raise IngestError(f"{origin}: larger than {_LARGEST_MEMBER_BYTES >> 20} MiB; {_FETCH_HINT}")
    return data
