"""Members of archives as inputs: read in place, and an archive that lies about them is refused as a whole."""

import io
import os
import tarfile
import tracemalloc

import pytest

from convnext_imagenet.records.image_headers import LARGEST_FILE_BYTES, BadImage
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs import tars
from convnext_imagenet.serve.inputs.storage import local_file

MEMBERS = {f"n0/{number}.JPEG": os.urandom(700 + number) for number in range(4)}
BLOCK = 512


def list_tars(archives):
    return tars.list_tars([local_file(path) for path in archives])


def _write(path, members=MEMBERS, form=tarfile.GNU_FORMAT, mode="w"):
    with tarfile.open(path, mode, format=form) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _read(inputs):
    return {item.source: item.load() for item in inputs.items(range(inputs.count))}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_member_is_an_input_with_its_bytes(tmp_path, form):
    members = MEMBERS | {"x" * 90 + "/" + "y" * 60: b"long", "empty": b""}
    inputs = list_tars([_write(tmp_path / "a.tar", members, form)])
    assert list(_read(inputs).items()) == [(f"a.tar/{name}", data) for name, data in members.items()]
    assert not inputs.is_inside(tmp_path / "out")


def test_archives_follow_each_other_and_ranges_cross_them(tmp_path):
    paths = [_write(tmp_path / name, {f"{name}-{k}": f"{name}{k}".encode() for k in range(3)}) for name in ("b", "a")]
    inputs = list_tars(paths)
    assert [item.source for item in inputs.items(range(6))] == ["b/b-0", "b/b-1", "b/b-2", "a/a-0", "a/a-1", "a/a-2"]
    assert [item.load() for item in inputs.items(range(2, 4))] == [b"b2", b"a0"]


def test_the_fingerprint_follows_names_sizes_and_order(tmp_path):
    one, two = _write(tmp_path / "1.tar"), _write(tmp_path / "2.tar", {"other": b"1"})
    renamed = _write(tmp_path / "3.tar", {"Other": b"1"})
    grown = _write(tmp_path / "4.tar", {"other": b"12"})
    sets = ([one, two], [two, one], [one], [one, renamed], [one, grown])
    assert len({list_tars(archives).sha256 for archives in sets}) == len(sets)
    (tmp_path / "moved").mkdir()
    again, otherwise_named = _write(tmp_path / "moved" / "1.tar"), _write(tmp_path / "5.tar")
    assert list_tars([again, two]).sha256 == list_tars([one, two]).sha256
    assert list_tars([otherwise_named, two]).sha256 != list_tars([one, two]).sha256, "its name is part of every source"


def test_links_are_rows_of_their_own_folders_pipes_and_devices_none_and_equal_names_are_two_inputs(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo("odd")
            member.type, member.linkname = kind, "twice"
            tar.addfile(member)
        for data in (b"first", b"second"):
            member = tarfile.TarInfo("twice")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    inputs = list_tars([tmp_path / "a.tar"])
    hard, symbolic, *twice = inputs.items(range(inputs.count))
    assert (hard.source, symbolic.source) == ("a.tar/odd", "a.tar/odd")
    for link, said in ((hard, "a hard link"), (symbolic, "a symbolic link")):
        with pytest.raises(BadImage, match=f"unsupported: {said}"):
            link.load()
    assert [(item.source, item.load()) for item in twice] == [("a.tar/twice", b"first"), ("a.tar/twice", b"second")]


def test_a_name_that_is_no_utf8_or_leads_out_is_only_text(tmp_path):
    members = {"../../etc/passwd": b"1", "/abs": b"2", "\udcff": b"3"}
    inputs = list_tars([_write(tmp_path / "a.tar", members)])
    assert _read(inputs) == {"a.tar/../../etc/passwd": b"1", "a.tar//abs": b"2", r"a.tar/\xff": b"3"}


def test_an_archive_cut_anywhere_is_refused_and_loses_no_member_in_silence(tmp_path):
    whole = _write(tmp_path / "a.tar").read_bytes()
    end_of_members = len(MEMBERS) * 3 * BLOCK
    for length in (*range(0, end_of_members + BLOCK, 256), 100, end_of_members + 511):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(ServeError, match=r"cut\.tar: cannot be read as an uncompressed tar"):
            list_tars([tmp_path / "cut.tar"])
    (tmp_path / "cut.tar").write_bytes(whole[: end_of_members + BLOCK])
    assert list_tars([tmp_path / "cut.tar"]).count == len(MEMBERS)


@pytest.mark.parametrize("number", range(4))
def test_a_damaged_header_anywhere_is_refused(tmp_path, number):
    data = bytearray(_write(tmp_path / "a.tar").read_bytes())
    data[number * 3 * BLOCK + 10] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ServeError, match="cannot be read as an uncompressed tar"):
        list_tars([tmp_path / "a.tar"])


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_archive_is_refused_with_the_way_out(tmp_path, mode):
    with pytest.raises(ServeError, match="copy it again, or unpack a compressed one first"):
        list_tars([_write(tmp_path / "a.tar", mode=mode)])


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100, bytes(10240)])
def test_what_is_no_archive_or_holds_nothing_is_refused(tmp_path, data):
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ServeError, match=r"a\.tar: (cannot be read|no files to predict)"):
        list_tars([tmp_path / "a.tar"])


def _header(size_field, kind=b"0"):
    header = bytearray(tarfile.TarInfo("hostile").tobuf())
    header[124:136], header[148:156], header[156:157] = size_field, b" " * 8, kind
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("kind", [b"0", b"1", b"5"], ids=["file", "link", "folder"])
@pytest.mark.parametrize(
    "size_field",
    [b"\xff" * 12, b"\xff" * 10 + b"\xfc\x00", b"\x80" + b"\x7f" * 11, b"77777777777\0"],
    ids=["-1", "-1024", "over 2**63", "8 GiB"],
)
def test_a_size_that_lies_never_hangs_or_crashes(tmp_path, size_field, kind):
    """A negative size would send a reader back to the same header for ever."""
    (tmp_path / "a.tar").write_bytes(_header(size_field, kind) + _write(tmp_path / "b.tar").read_bytes())
    is_negative = size_field.startswith(b"\xff")
    if kind != b"0" and not is_negative:  # links and folders have no bytes, whatever their size says
        assert list_tars([tmp_path / "a.tar"]).count == len(MEMBERS) + (kind == b"1")
        return
    with pytest.raises(ServeError, match=r"a\.tar: cannot be read as an uncompressed tar"):
        list_tars([tmp_path / "a.tar"])


def _record(text):
    """A pax record that is as long as it says."""
    length = next(n for n in range(len(text), len(text) + 9) if len(f"{n} {text}") == n)
    return f"{length} {text}".encode()


@pytest.mark.parametrize(
    "payload",
    [b"99 size=4\n", b"5 xx\n", _record("size=-1\n"), _record("size=" + "9" * 30 + "\n"), b"0" * 70_000],
    ids=["too long", "cut", "negative", "larger than a disk", "over 64 KiB"],
)
def test_a_hostile_pax_header_is_refused(tmp_path, payload):
    size = f"{len(payload):011o}\0".encode()
    padding = bytes(-len(payload) % BLOCK)
    tail = _write(tmp_path / "b.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(_header(size, b"x") + payload + padding + tail)
    with pytest.raises(ServeError, match=r"a\.tar: cannot be read as an uncompressed tar"):
        list_tars([tmp_path / "a.tar"])


def test_a_member_that_is_too_large_is_its_own_error(tmp_path):
    with (tmp_path / "a.tar").open("wb") as file:  # a sparse file
        file.write(_header(b"%011o\0" % (LARGEST_FILE_BYTES + 1)))
        file.seek(BLOCK + LARGEST_FILE_BYTES + BLOCK)
        file.write(_write(tmp_path / "b.tar", {"after": b"good"}).read_bytes())
    large, after = list_tars([tmp_path / "a.tar"]).items(range(2))
    with pytest.raises(BadImage, match=f"too_large: {LARGEST_FILE_BYTES + 1} bytes"):
        large.load()
    assert after.load() == b"good"


def test_an_archive_that_shrinks_or_vanishes_after_it_was_listed_is_a_read_error(tmp_path):
    path = _write(tmp_path / "a.tar")
    first, *_, last = list_tars([path]).items(range(4))
    os.truncate(path, 3 * 3 * BLOCK + BLOCK + 100)
    assert first.load() == MEMBERS["n0/0.JPEG"]
    with pytest.raises(OSError, match=f"ends {len(MEMBERS['n0/3.JPEG']) - 100} bytes before this member does"):
        last.load()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        first.load()


def test_members_cost_their_names_and_little_more(tmp_path):
    path = _write(tmp_path / "a.tar", {f"{number:06d}.jpg": b"" for number in range(5_000)})
    tracemalloc.start()
    inputs = list_tars([path])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert inputs.count == 5_000
    assert peak < 5_000 * 60 + 200_000 + (1 << 20), "an archive in memory takes a kilobyte for each member"
