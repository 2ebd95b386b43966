"""The devkit is read whole, or refused with the reason."""

import dataclasses
import gzip
import os
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import pytest

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.labels.devkit import Leaf, parse_ground_truth, parse_meta, read_devkit

from ... import peak_memory

THOUSAND = tuple(Leaf(i + 1, f"n{i:08d}", f"class {i}", 1300) for i in range(1000))
FIFTY_OF_EACH = tuple(leaf.ilsvrc_id for leaf in THOUSAND for _ in range(50))


def test_leaves_come_by_ilsvrc_id_without_ancestors(pieces):
    assert parse_meta(pieces.meta(pieces.leaves[::-1])) == pieces.leaves


def test_tar_and_unpacked_folder_give_the_same_devkit(pieces, tmp_path: Path):
    members = pieces.devkit_members(pieces.leaves, pieces.ground_truth)
    tar = pieces.tar_gz(tmp_path / "kit.tar.gz", {**members, "kit/metadata/meta.mat": b"x"})
    for name, data in members.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    packed = read_devkit(tar)
    assert packed == read_devkit(tmp_path / "kit")
    assert packed.leaves == pieces.leaves
    assert packed.ground_truth == pieces.ground_truth
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kit", "kit.tar.gz"]


def test_fingerprint_covers_both_members(pieces, tmp_path: Path):
    kits = [
        read_devkit(pieces.tar_gz(tmp_path / f"{n}.tar.gz", pieces.devkit_members(leaves, truth)))
        for n, (leaves, truth) in enumerate(
            [
                (pieces.leaves, pieces.ground_truth),
                (pieces.leaves, pieces.ground_truth[::-1]),
                ((dataclasses.replace(pieces.leaves[0], words="other"), *pieces.leaves[1:]), pieces.ground_truth),
            ]
        )
    ]
    assert len({kit.sha256 for kit in kits}) == 3


def test_genuine_devkit_gives_the_known_labels(shared_data: Path):
    kit = read_devkit(shared_data / "nette96" / "ILSVRC2012_devkit_t12.tar.gz")
    wnid_of = {leaf.ilsvrc_id: leaf.wnid for leaf in kit.leaves}
    index_of = {wnid: index for index, wnid in enumerate(sorted(wnid_of.values()))}
    indices = [index_of[wnid_of[ilsvrc_id]] for ilsvrc_id in kit.ground_truth[:10]]
    assert indices == [65, 970, 230, 809, 516, 57, 334, 415, 674, 332]
    assert sum(leaf.train_images for leaf in kit.leaves) == 1_281_167


def test_official_ground_truth_is_accepted(pieces):
    assert parse_ground_truth(pieces.truth(FIFTY_OF_EACH), THOUSAND) == FIFTY_OF_EACH


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (FIFTY_OF_EACH[:-1], "49,999 lines, expected 50,000"),
        ((*FIFTY_OF_EACH, 7), "50,001 lines, expected 50,000"),
        ((2, *FIFTY_OF_EACH[1:]), "ILSVRC2012_ID 1 is on 49 lines, expected 50"),
        ((*FIFTY_OF_EACH[:-1], 1001), "line 50000 is 1001, which is not a class"),
    ],
)
def test_wrong_official_ground_truth_is_refused(pieces, ids, message):
    with pytest.raises(IngestError, match=message):
        parse_ground_truth(pieces.truth(ids), THOUSAND)


@pytest.mark.parametrize("line", [b"tench", b"1.5", b"-1", b"", b"\xff", b"9" * 400])
def test_line_that_is_no_number_is_named(pieces, line: bytes):
    with pytest.raises(IngestError, match=r"line 2 is .*download .* again"):
        parse_ground_truth(b"1\n" + line + b"\n2\n", pieces.leaves)


def test_windows_line_ends_are_read(pieces):
    assert parse_ground_truth(b"1\r\n2\r\n", pieces.leaves) == (1, 2)


@pytest.mark.parametrize("data", [b"", b"not a mat file", b"MATLAB 5.0 MAT-file".ljust(4000, b"\0")])
def test_what_is_no_mat_file_is_refused(data: bytes):
    with pytest.raises(IngestError, match=r"not a devkit's meta\.mat"):
        parse_meta(data)


def test_cut_mat_file_is_refused(pieces):
    whole = pieces.meta(pieces.leaves)
    with pytest.raises(IngestError, match="devkit"):
        parse_meta(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (Leaf(1, "n00000040", "again", 5), "2 classes have the same ilsvrc_id 1"),
        (Leaf(9, "n00000030", "again", 5), "2 classes have the same wnid n00000030"),
        (Leaf(9, "tench", "no wnid", 5), "an invalid class"),
        (Leaf(0, "n00000050", "no id", 5), "an invalid class"),
    ],
)
def test_contradicting_classes_are_refused(pieces, leaf: Leaf, message: str):
    with pytest.raises(IngestError, match=message):
        parse_meta(pieces.meta((*pieces.leaves[:3], leaf)))


@pytest.mark.parametrize("lost", ["kit/data/meta.mat", "kit/data/ILSVRC2012_validation_ground_truth.txt"])
def test_missing_member_is_named(pieces, tmp_path: Path, lost: str):
    members = pieces.devkit_members(pieces.leaves, pieces.ground_truth)
    members[lost.replace("/data/", "/other/")] = members.pop(lost)
    with pytest.raises(IngestError, match=f"contains no {lost.removeprefix('kit/')}"):
        read_devkit(pieces.tar_gz(tmp_path / "kit.tar.gz", members))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.9])
def test_truncated_tar_is_refused(pieces, tmp_path: Path, keep: float):
    path = pieces.tar_gz(tmp_path / "kit.tar.gz", pieces.devkit_members(pieces.leaves, pieces.ground_truth * 500))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(IngestError, match=r"kit\.tar\.gz: .*download ILSVRC2012_devkit_t12\.tar\.gz again"):
        read_devkit(path)


@pytest.mark.parametrize("name", ["absent.tar.gz", "page.tar.gz", "empty-folder"])
def test_what_is_no_devkit_is_refused(tmp_path: Path, name: str):
    (tmp_path / "page.tar.gz").write_text("<html>not found</html>" * 100)
    (tmp_path / "empty-folder").mkdir()
    with pytest.raises(IngestError, match=name):
        read_devkit(tmp_path / name)


def test_plain_tar_and_long_names_are_read(pieces, tmp_path: Path):
    members = pieces.devkit_members(pieces.leaves, pieces.ground_truth)
    deep = {name.replace("kit/", f"{'deep/' * 30}kit/"): data for name, data in members.items()}
    (tmp_path / "kit.tar").write_bytes(pieces.tar(deep))
    assert read_devkit(tmp_path / "kit.tar").ground_truth == pieces.ground_truth


def _unpacks_to(data: bytes) -> bytes | None:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return None


def test_changed_byte_in_a_packed_devkit_is_noticed(pieces, tmp_path: Path):
    """Few bytes may change: the time in gzip's header, and distances that point from one run of zeros into another."""
    path = pieces.tar_gz(tmp_path / "kit.tar.gz", pieces.devkit_members(pieces.leaves, pieces.ground_truth * 500))
    whole = path.read_bytes()
    content, expected = gzip.decompress(whole), read_devkit(path)
    refused = 0
    places = [*range(0, len(whole), 3), *range(len(whole) - 8, len(whole))]
    for at in places:
        data = bytearray(whole)
        data[at] ^= 0x10
        path.write_bytes(data)
        if _unpacks_to(bytes(data)) == content:
            assert read_devkit(path) == expected
            continue
        with pytest.raises(IngestError, match=r"kit\.tar\.gz: .*download ILSVRC2012_devkit_t12\.tar\.gz again"):
            read_devkit(path)
        refused += 1
    assert refused > 0.9 * len(places)


def _bomb_of_zeros_in_a_member(path: Path) -> None:
    """A gigabyte of zeros under the name of a member, a megabyte packed."""
    info = tarfile.TarInfo("kit/data/meta.mat")
    info.size = 1 << 30
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf())
        for _ in range(1 << 8):
            file.write(bytes(1 << 20))


def _bomb_of_members(path: Path) -> None:
    """Empty members without end, 150 MB of headers."""
    header = tarfile.TarInfo("kit/readme.txt").tobuf() * 2048
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(150):
            file.write(header)


def _bomb_behind_the_end(path: Path) -> None:
    """A whole tar, and 200 MB of zeros behind it."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(200):
            file.write(bytes(1 << 20))


def _bomb_of_a_long_name(path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.size, info.type = 1 << 30, tarfile.GNUTYPE_LONGNAME
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf())
        for _ in range(1 << 8):
            file.write(bytes(1 << 20))


@pytest.mark.parametrize(
    "make", [_bomb_of_zeros_in_a_member, _bomb_of_members, _bomb_behind_the_end, _bomb_of_a_long_name]
)
def test_bomb_in_place_of_a_devkit_takes_little_memory(tmp_path: Path, make):
    path = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    make(path)
    code = (
        "import sys, pathlib\n"
        "from convnext_imagenet.ingest.labels.devkit import read_devkit\n"
        "from convnext_imagenet.ingest.errors import IngestError\n"
        "from peak_memory import peak_kib\n"
        "before = peak_kib()\n"
        "try: read_devkit(pathlib.Path(sys.argv[1]))\n"
        "except IngestError as error: print(error)\n"
        "print((peak_kib() - before) // 1024)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(peak_memory.__file__).parent)}
    result = subprocess.run(
        [sys.executable, "-c", code, path], env=environment, capture_output=True, text=True, check=True
    )
    message, grown_mib = result.stdout.splitlines()
    assert "of at most 64 MiB unpacked" in message
    assert int(grown_mib) < 80


@pytest.mark.parametrize("member", ["kit/data/meta.mat", "kit/data/ILSVRC2012_validation_ground_truth.txt"])
def test_link_in_place_of_a_member_is_not_followed(pieces, tmp_path: Path, member: str):
    members = pieces.devkit_members(pieces.leaves, pieces.ground_truth)
    del members[member]
    path = pieces.tar_gz(tmp_path / "kit.tar.gz", members)
    data = gzip.decompress(path.read_bytes())
    info = tarfile.TarInfo(member)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path.write_bytes(gzip.compress(info.tobuf() + data))
    with pytest.raises(IngestError, match=r"contains no data/"):
        read_devkit(path)


def test_pipe_in_place_of_a_devkit_does_not_block(tmp_path: Path):
    os.mkfifo(tmp_path / "kit.tar.gz")
    with pytest.raises(IngestError, match=r"kit\.tar\.gz: a pipe, expected a plain file"):
        read_devkit(tmp_path / "kit.tar.gz")
