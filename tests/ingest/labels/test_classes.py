"""The classes that `--classes` stands for, and the indices they get."""

from pathlib import Path

import pytest

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.labels.classes import ClassRule, choose_classes, read_class_rule
from convnext_imagenet.ingest.labels.devkit import Leaf

FOUND = ClassRule("found")
THOUSAND = {f"n{i:08d}": Leaf(i + 1, f"n{i:08d}", f"class {i}", 1) for i in range(1000)}


def _train(pieces, *wnids: str):
    return pieces.split("train", {wnid: [f"{wnid}_1.JPEG"] for wnid in wnids})


def _leaves(pieces):
    return {leaf.wnid: leaf for leaf in pieces.leaves}


@pytest.mark.parametrize("text", ["all", "found"])
def test_words_stand_for_themselves(text: str):
    assert read_class_rule(text) == ClassRule(text)


def test_file_holds_one_wnid_a_line(tmp_path: Path):
    path = tmp_path / "ten.txt"
    path.write_text("n00000030\r\n\n  n00000010  \n")
    assert read_class_rule(str(path)) == ClassRule("file", ("n00000030", "n00000010"))


def test_a_byte_order_mark_is_no_part_of_a_wnid(tmp_path: Path):
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfn00000030\r\nn00000010\r\n")
    assert read_class_rule(str(path)).names == ("n00000030", "n00000010")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"n00000010\nn00000020 tench, Tinca\n", "line 2 is 'n00000020 tench, Tinca', not only a wnid; .*grep -o"),
        (b"n00000010,n00000020\n", "line 1 is 'n00000010,n00000020', not only a wnid"),
        (b"# my classes\nn00000010\n", "line 1 is '# my classes', not only a wnid"),
        (None, "cannot be read as a file .*; pass all, found, or a file of wnids"),
        (b"\n\n", "lists no class"),
        (b"n1\nn2\nn1\n", "lists a class twice: n1"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_bad_file_is_refused(tmp_path: Path, content: bytes | None, message: str):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(IngestError, match=message):
        read_class_rule(str(path))


def test_index_is_the_rank_in_ascii_order(pieces):
    train = _train(pieces, "n00000030", "n00000010", "n00000020")
    assert choose_classes(FOUND, train, _leaves(pieces)) == ("n00000010", "n00000020", "n00000030")
    listed = ClassRule("file", ("n00000030", "n00000010"))
    assert choose_classes(listed, train, _leaves(pieces)) == ("n00000010", "n00000030")


def test_all_takes_the_thousand(pieces):
    assert choose_classes(ClassRule("all"), _train(pieces, *reversed(THOUSAND)), THOUSAND) == tuple(THOUSAND)


def test_all_names_what_is_missing(pieces):
    train = _train(pieces, *[wnid for wnid in THOUSAND if wnid not in ("n00000007", "n00000500")])
    with pytest.raises(IngestError, match=r"lacks 2 of the 1000 classes \(n00000007, n00000500\).*--classes found"):
        choose_classes(ClassRule("all"), train, THOUSAND)


def test_all_needs_the_official_devkit(pieces):
    with pytest.raises(IngestError, match=r"devkit has 4 classes.*pass --classes found"):
        choose_classes(ClassRule("all"), _train(pieces, "n00000010"), _leaves(pieces))


def test_misspelt_folder_gets_the_nearest_name(pieces):
    train = pieces.split("train", {"n0000001O": ["x.JPEG"]})
    with pytest.raises(IngestError, match="'n0000001O' is not a class of the devkit; did you mean n00000010"):
        choose_classes(FOUND, train, _leaves(pieces))


def test_misspelt_folder_gets_the_name_that_its_files_bear(pieces):
    train = pieces.split("train", {"n00000011": ["n00000020_1.JPEG"]})
    with pytest.raises(IngestError, match="files have the names of n00000020, so rename the folder"):
        choose_classes(FOUND, train, _leaves(pieces))


def test_misspelt_folder_of_the_whole_set_is_named_rather_than_the_missing_class(pieces):
    wnids = [wnid for wnid in THOUSAND if wnid != "n00000007"]
    train = pieces.split("train", {wnid: [f"{wnid}_1.JPEG"] for wnid in wnids} | {"n0000007": ["n00000007_1.JPEG"]})
    with pytest.raises(IngestError, match=r"train/n0000007: .* have the names of n00000007"):
        choose_classes(ClassRule("all"), train, THOUSAND)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (("n00000010", "n00000012"), "'n00000012' is not a class of the devkit; did you mean"),
        (("n00000010", "n00000040"), "n00000040 has no folder in train/"),
    ],
)
def test_listed_class_must_exist(pieces, listed: tuple[str, ...], message: str):
    with pytest.raises(IngestError, match=message):
        choose_classes(ClassRule("file", listed), _train(pieces, "n00000010", "n00000020"), _leaves(pieces))


def test_list_passes_over_folders_that_are_no_classes(pieces):
    train = _train(pieces, "n00000010", "lost+found")
    assert choose_classes(ClassRule("file", ("n00000010",)), train, _leaves(pieces)) == ("n00000010",)


def test_empty_class_folder_is_refused(pieces):
    train = pieces.split("train", {"n00000010": ["n00000010_1.JPEG"], "n00000020": []})
    with pytest.raises(IngestError, match="train/n00000020: contains no images"):
        choose_classes(FOUND, train, _leaves(pieces))


def test_without_devkit_any_folder_is_a_class(pieces):
    assert choose_classes(ClassRule("all"), _train(pieces, "cats", "Bats"), None) == ("Bats", "cats")
