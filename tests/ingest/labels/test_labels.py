"""Each label is joined by number, checked against folder, name, ground truth and counts."""

import re

import pytest

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.labels.authority import LabelAuthority
from convnext_imagenet.ingest.labels.classes import ClassRule
from convnext_imagenet.ingest.labels.devkit import Devkit, Leaf
from convnext_imagenet.ingest.labels.labels import label_plain_tree, label_tree

FOUND, ALL = ClassRule("found"), ClassRule("all")
VAL_WNIDS = ["n00000010", "n00000030", "n00000020", "n00000020", "n00000040", "n00000010", "n00000030", "n00000010"]


def _train(counts: dict[str, int]) -> dict[str, list[str]]:
    return {wnid: [f"{wnid}_{number}.JPEG" for number in range(count)] for wnid, count in counts.items()}


def _val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


TRAIN = _train({"n00000010": 7, "n00000020": 5, "n00000030": 6})
FLAT_VAL = {"": [_val_name(number) for number in range(1, 9)]}


def test_train_label_is_the_rank_of_the_folder(pieces):
    train = label_tree(pieces.tree(TRAIN, FLAT_VAL), pieces.devkit, FOUND).train
    assert list(train.labels) == [0] * 7 + [1] * 5 + [2] * 6
    assert train.paths[0] == "train/n00000010/n00000010_0.JPEG"
    assert train.keys[-1] == "n00000030_5"
    assert list(train.sizes[:3]) == [100, 101, 102]


def test_classes_carry_index_wnid_and_words(pieces):
    classes = label_tree(pieces.tree(TRAIN, FLAT_VAL), pieces.devkit, FOUND).classes
    assert [(entry.index, entry.wnid, entry.name) for entry in classes] == [
        (0, "n00000010", "first"),
        (1, "n00000020", "second"),
        (2, "n00000030", "third, last"),
    ]


def test_val_is_joined_by_number_and_other_classes_are_left_out(pieces):
    val = label_tree(pieces.tree(TRAIN, FLAT_VAL), pieces.devkit, FOUND).val
    assert list(val.labels) == [0, 2, 1, 1, 0, 2, 0]
    assert val.left_out == 1
    assert _val_name(5).removesuffix(".JPEG") not in val.keys


@pytest.mark.parametrize("lost", range(1, 9))
def test_missing_val_image_shifts_no_other_label(pieces, lost: int):
    flat = {"": [name for name in FLAT_VAL[""] if name != _val_name(lost)]}
    whole = label_tree(pieces.tree(TRAIN, FLAT_VAL), pieces.devkit, FOUND).val
    val = label_tree(pieces.tree(TRAIN, flat), pieces.devkit, FOUND).val
    label_of = dict(zip(whole.keys, whole.labels, strict=True))
    assert [label_of[key] for key in val.keys] == list(val.labels)


def _foldered(wnids: list[str]) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = {}
    for number, wnid in enumerate(wnids, start=1):
        folders.setdefault(wnid, []).append(_val_name(number))
    return folders


def test_foldered_val_gives_the_same_labels_as_flat(pieces):
    flat = label_tree(pieces.tree(TRAIN, FLAT_VAL), pieces.devkit, FOUND).val
    foldered = label_tree(pieces.tree(TRAIN, _foldered(VAL_WNIDS)), pieces.devkit, FOUND).val
    assert sorted(zip(flat.keys, flat.labels, strict=True)) == sorted(zip(foldered.keys, foldered.labels, strict=True))


def test_foldered_val_is_checked_against_the_ground_truth(pieces):
    wrong = ["n00000020", *VAL_WNIDS[1:]]
    with pytest.raises(
        IngestError, match=r"val_00000001\.JPEG: the folder says n00000020, but the ground truth says n00000010"
    ):
        label_tree(pieces.tree(TRAIN, _foldered(wrong)), pieces.devkit, FOUND)


def test_swapped_class_folders_are_refused(pieces):
    swapped = TRAIN | {"n00000010": TRAIN["n00000020"], "n00000020": TRAIN["n00000010"]}
    with pytest.raises(
        IngestError,
        match=r"train/n00000010: 5 of its 5 images have the name of another class, such as n00000020_0.*n00000020",
    ):
        label_tree(pieces.tree(swapped, FLAT_VAL), pieces.devkit, FOUND)


def test_single_stray_image_is_found(pieces):
    stray = TRAIN | {"n00000010": [*TRAIN["n00000010"][:6], "n00000030_9.JPEG"]}
    with pytest.raises(IngestError, match=r"1 of its 7 images .* such as n00000030_9\.JPEG"):
        label_tree(pieces.tree(stray, FLAT_VAL), pieces.devkit, FOUND)


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ({"n00000010": ["cat.JPEG"]}, FLAT_VAL, r"cat\.JPEG: not named WNID_<number>\.JPEG.*--unverified"),
        ({"n00000010": ["n00000010_1_n00000020.JPEG"]}, FLAT_VAL, "the name says both n00000010 and n00000020"),
        (
            TRAIN,
            {"n00000020": ["ILSVRC2012_val_00000001_n00000020.JPEG"]},
            r"_n00000020\.JPEG: the name says n00000020, but the ground truth says n00000010; download it again",
        ),
        ({"n00000010": ["n00000010_1 (1).JPEG"]}, FLAT_VAL, "not named WNID.*remove it, or if all of the tree"),
        ({"n00000010": ["n00000010_x.JPEG"]}, FLAT_VAL, "not named WNID"),
        (TRAIN, {"": ["ILSVRC2012_val_1.JPEG"]}, "not named ILSVRC2012_val_"),
        (TRAIN, {"": ["ILSVRC2012_test_00000001.JPEG"]}, "not named ILSVRC2012_val_"),
        (TRAIN, {"": [_val_name(9)]}, "the ground truth has only images 1 to 8;.*--devkit"),
        (TRAIN, {"": [_val_name(0)]}, "the ground truth has only images 1 to 8"),
        (TRAIN, {"": [_val_name(5)]}, "val/: contains no image of the 3 chosen classes"),
        (TRAIN | _train({"n00000010": 8}), FLAT_VAL, "train/n00000010: 8 images, but the devkit states 7"),
        (
            {"n00000010": ["n00000010_1.JPEG", "n00000010_1.jpg"]},
            FLAT_VAL,
            "2 images have the same name n00000010_1; keep one",
        ),
        (TRAIN, {"": [_val_name(1), "ILSVRC2012_val_00000001.jpeg"]}, "2 images have the same name"),
        ({"n00000010": ["n00000010_0.JPEG"], "n0000020": []}, FLAT_VAL, "did you mean n00000020"),
    ],
)
def test_contradiction_is_refused(pieces, train, val, message: str):
    with pytest.raises(IngestError, match=message):
        label_tree(pieces.tree(train, val), pieces.devkit, FOUND)


def test_incomplete_classes_are_counted_for_a_subset(pieces):
    train = TRAIN | _train({"n00000010": 6})
    assert label_tree(pieces.tree(TRAIN, FLAT_VAL), pieces.devkit, FOUND).incomplete_classes == 0
    assert label_tree(pieces.tree(train, FLAT_VAL), pieces.devkit, FOUND).incomplete_classes == 1


def test_listed_classes_leave_the_others_out_unread(pieces):
    train = TRAIN | {"n00000020": ["anything.JPEG"]}
    tree = label_tree(pieces.tree(train, FLAT_VAL), pieces.devkit, ClassRule("file", ("n00000030", "n00000010")))
    assert [entry.wnid for entry in tree.classes] == ["n00000010", "n00000030"]
    assert (tree.train.left_out, tree.val.left_out) == (1, 3)


@pytest.fixture(scope="module")
def official() -> tuple[LabelAuthority, dict[str, list[str]], dict[str, list[str]]]:
    """A devkit of 1000 classes with two train images each, and names that go with it."""
    leaves = tuple(Leaf(1000 - i, f"n{i:08d}", f"class {i}", 2) for i in reversed(range(1000)))
    truth = tuple(number % 1000 + 1 for number in range(50_000))
    val = {"": [_val_name(number) for number in range(1, 50_001)]}
    return Devkit(leaves, truth, "1" * 64).authority, _train({leaf.wnid: 2 for leaf in leaves}), val


def test_complete_set_is_accepted_as_all(pieces, official):
    devkit, train, val = official
    tree = label_tree(pieces.tree(train, val), devkit, ALL)
    assert (len(tree.train.labels), len(tree.val.labels)) == (2000, 50_000)
    assert tree.val.labels[0] == 999
    assert [entry.wnid for entry in tree.classes] == sorted(train)


def test_all_refuses_a_missing_train_image(pieces, official):
    devkit, train, val = official
    train = train | {"n00000123": ["n00000123_0.JPEG"]}
    message = re.escape("1 of 1000 classes lack images (n00000123 has 1 of 2); download them, or pass --classes found")
    with pytest.raises(IngestError, match=message):
        label_tree(pieces.tree(train, val), devkit, ALL)


def test_all_refuses_a_missing_val_image(pieces, official):
    devkit, train, val = official
    with pytest.raises(IngestError, match=r"val/: 1 of 1000 classes lack images \(n00000999 has 49 of 50\)"):
        label_tree(pieces.tree(train, {"": val[""][1:]}), devkit, ALL)


def test_plain_tree_takes_folders_as_labels(pieces):
    tree = pieces.tree({"dogs": ["a.jpg", "b.png"], "cats": ["a.jpg"]}, {"cats": ["c.jpg"]})
    labelled = label_plain_tree(tree, ALL)
    assert [entry.wnid for entry in labelled.classes] == ["cats", "dogs"]
    assert dict(zip(labelled.train.keys, labelled.train.labels, strict=True)) == {
        "dogs/a.jpg": 1,
        "dogs/b.png": 1,
        "cats/a.jpg": 0,
    }
    assert not labelled.is_verified


@pytest.mark.parametrize(
    ("val", "rule", "message"),
    [
        ({"": ["a.jpg"]}, ALL, "the images of val are in no class folders, so their labels are unknown"),
        ({"cats": ["a.jpg"], "birds": ["b.jpg"]}, ALL, "val/birds: in val/ but not in train/"),
        ({"cats": []}, ALL, "val/: contains no image"),
        ({"cats": ["a\n.jpg"]}, ALL, "not printable"),
        ({"cats": ["a.jpg"]}, ClassRule("file", ("cat",)), "cat has no folder in train/; did you mean cats"),
    ],
)
def test_plain_tree_that_cannot_be_labelled_is_refused(pieces, val, rule: ClassRule, message: str):
    with pytest.raises(IngestError, match=message):
        label_plain_tree(pieces.tree({"dogs": ["a.jpg"], "cats": ["a.jpg"]}, val), rule)


def test_plain_tree_leaves_out_what_is_not_listed(pieces):
    tree = pieces.tree({"dogs": ["a.jpg"], "cats": ["a.jpg"]}, {"cats": ["a.jpg"], "birds": ["b.jpg"]})
    labelled = label_plain_tree(tree, ClassRule("file", ("cats",)))
    assert (labelled.train.left_out, labelled.val.left_out) == (1, 1)


NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (
            {NFC: ["a.jpg"], NFD: ["b.jpg"]},
            {NFC: ["c.jpg"]},
            r"two class folders of this name, .* in two Unicode forms",
        ),
        ({NFC: ["a.jpg"]}, {NFD: ["c.jpg"]}, r"train/ has this class in another Unicode form, 'caf\\xe9' instead of"),
    ],
)
def test_names_that_look_alike_are_told_apart(pieces, train, val, message: str):
    with pytest.raises(IngestError, match=message):
        label_plain_tree(pieces.tree(train, val), FOUND)
