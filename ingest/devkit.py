"""The ILSVRC2012 development kit: which classes exist, and which class each validation image has.

Reads `data/meta.mat` and the ground truth into memory, out of the tar.gz or out of the unpacked folder; nothing
is ever extracted to disk. Knows nothing of image files.
"""

import hashlib
import io
import re
import tarfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scipy.io

from convnext_imagenet.ingest.errors import IngestError

OFFICIAL_CLASSES = 1000
OFFICIAL_VAL_PER_CLASS = 50
_META = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_LARGEST_MEMBER_BYTES = 64 << 20
_WNID = re.compile(r"n[0-9]{8}")
_MOST_DIGITS = 9
_FETCH_AGAIN = "fetch ILSVRC2012_devkit_t12.tar.gz again"


@dataclass(frozen=True)
class Leaf:
    """A class that has images: ILSVRC2012_ID (from 1), WordNet id, names, and the true count of train images."""

    ilsvrc_id: int
    wnid: str
    words: str
    train_images: int


@dataclass(frozen=True)
class Devkit:
    """The leaves by ascending ILSVRC2012_ID; the ILSVRC2012_ID of val image n at `ground_truth[n - 1]`.

    `sha256` covers the content of both members, not how they are packed.
    """

    leaves: tuple[Leaf, ...]
    ground_truth: tuple[int, ...]
    sha256: str


def read_devkit(path: Path) -> Devkit:
    """The devkit in a tar.gz (or tar), or in the folder that the tar.gz unpacks to."""
    members = _from_folder(path) if path.is_dir() else _from_tar(path)
    leaves = parse_meta(members[_META], origin=f"{path}: {_META}")
    ground_truth = parse_ground_truth(members[_GROUND_TRUTH], leaves, origin=f"{path}: {_GROUND_TRUTH}")
    digests = [hashlib.sha256(members[name]).hexdigest() for name in (_META, _GROUND_TRUTH)]
    return Devkit(leaves, ground_truth, hashlib.sha256("\n".join(digests).encode()).hexdigest())


def parse_meta(data: bytes, origin: str = _META) -> tuple[Leaf, ...]:
    """The leaves (num_children == 0) of a meta.mat, by ascending ILSVRC2012_ID."""
    try:
        synsets = scipy.io.loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
        leaves = [_leaf(synset) for synset in synsets.reshape(-1) if int(synset["num_children"]) == 0]
    except Exception as error:  # damaged bytes make SciPy raise a dozen types, all with the same meaning here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IngestError(f"{origin}: not the meta.mat of a devkit ({reason}); {_FETCH_AGAIN}") from error
    leaves.sort(key=lambda leaf: leaf.ilsvrc_id)
    if not leaves:
        raise IngestError(f"{origin}: names no class without children; {_FETCH_AGAIN}")
    for leaf in leaves:
        if not _WNID.fullmatch(leaf.wnid) or leaf.ilsvrc_id < 1 or leaf.train_images < 0:
            raise IngestError(f"{origin}: not a valid class: {leaf}; {_FETCH_AGAIN}")
    for field in ("ilsvrc_id", "wnid"):
        value, count = Counter(getattr(leaf, field) for leaf in leaves).most_common(1)[0]
        if count > 1:
            raise IngestError(f"{origin}: {field} {value} stands for {count} classes; {_FETCH_AGAIN}")
    return tuple(leaves)


def parse_ground_truth(data: bytes, leaves: tuple[Leaf, ...], origin: str = _GROUND_TRUTH) -> tuple[int, ...]:
    """The ILSVRC2012_ID of each val image, by ascending number in its file name.

    With the official 1000 leaves there must be 50 lines of each; a smaller devkit may have any number.
    """
    known = {leaf.ilsvrc_id for leaf in leaves}
    ids = []
    for number, line in enumerate(data.rstrip().splitlines(), start=1):
        text = line.strip()
        if not text.isdigit() or len(text) > _MOST_DIGITS:
            shown = repr(line[:40].decode("ascii", "backslashreplace"))
            raise IngestError(f"{origin}: line {number} is {shown}, expected an ILSVRC2012_ID; {_FETCH_AGAIN}")
        if int(text) not in known:
            raise IngestError(
                f"{origin}: line {number} is {int(text)}, which is no class of meta.mat "
                f"(ILSVRC2012_ID {min(known)} to {max(known)}); {_FETCH_AGAIN}"
            )
        ids.append(int(text))
    if len(leaves) == OFFICIAL_CLASSES:
        _check_official_counts(ids, origin)
    return tuple(ids)


def _check_official_counts(ids: list[int], origin: str) -> None:
    expected = OFFICIAL_CLASSES * OFFICIAL_VAL_PER_CLASS
    if len(ids) != expected:
        raise IngestError(f"{origin}: {len(ids):,} lines, expected {expected:,}; {_FETCH_AGAIN}")
    for ilsvrc_id, count in sorted(Counter(ids).items()):
        if count != OFFICIAL_VAL_PER_CLASS:
            raise IngestError(
                f"{origin}: ILSVRC2012_ID {ilsvrc_id} stands on {count} lines, "
                f"expected {OFFICIAL_VAL_PER_CLASS}; {_FETCH_AGAIN}"
            )


def _leaf(synset: Any) -> Leaf:
    return Leaf(
        ilsvrc_id=int(synset["ILSVRC2012_ID"]),
        wnid=str(synset["WNID"]),
        words=str(synset["words"]),
        train_images=int(synset["num_train_images"]),
    )


def _from_folder(path: Path) -> dict[str, bytes]:
    return {name: _read_file(path / name) for name in (_META, _GROUND_TRUTH)}


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_MEMBER_BYTES + 1)
    except OSError as error:
        reason = error.strerror or error
        raise IngestError(f"{path}: cannot be read ({reason}); {_FETCH_AGAIN} and unpack it") from None
    return _capped(data, str(path))


def _from_tar(path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                name = next((wanted for wanted in (_META, _GROUND_TRUTH) if _is_member(member, wanted)), None)
                if name is not None and (content := tar.extractfile(member)) is not None:
                    found[name] = _capped(content.read(_LARGEST_MEMBER_BYTES + 1), f"{path}: {member.name}")
    except OSError as error:
        raise IngestError(f"{path}: cannot be read ({error.strerror or error}); {_FETCH_AGAIN}") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise IngestError(f"{path}: truncated, or not a tar.gz file ({error}); {_FETCH_AGAIN}") from None
    for name in (_META, _GROUND_TRUTH):
        if name not in found:
            raise IngestError(f"{path}: holds no {name}; it is not the classification devkit, {_FETCH_AGAIN}")
    return found


def _is_member(member: tarfile.TarInfo, wanted: str) -> bool:
    return member.isreg() and (member.name == wanted or member.name.endswith(f"/{wanted}"))


def _capped(data: bytes, origin: str) -> bytes:
    if len(data) > _LARGEST_MEMBER_BYTES:
        raise IngestError(f"{origin}: larger than {_LARGEST_MEMBER_BYTES >> 20} MiB; {_FETCH_AGAIN}")
    return data
