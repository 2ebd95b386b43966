"""Lists of classes: the packaged thousand, and those that users bring."""

import pytest

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.class_names import imagenet_classes, named_classes, read_classes, unnamed_classes


def test_the_packaged_list_is_imagenets():
    classes = imagenet_classes()
    wnids = [wnid for wnid, _ in classes]
    assert len(set(wnids)) == 1000
    assert wnids == sorted(wnids)
    assert classes[0] == ("n01440764", "tench, Tinca tinca")
    assert classes[134] == ("n02012849", "crane")
    assert classes[517] == ("n03126707", "crane")
    assert classes[999] == ("n15075141", "toilet tissue, toilet paper, bathroom tissue")


def test_a_list_may_have_comments_and_lack_names(tmp_path):
    (tmp_path / "list").write_text("# ours\nn00000002 two words, naïve\n\nn00000001\n")
    assert read_classes(tmp_path / "list") == (("n00000002", "two words, naïve"), ("n00000001", "n00000001"))
    (tmp_path / "list").write_text("n00000002 two words, naïve\nn00000001\n", encoding="utf-8-sig")
    assert read_classes(tmp_path / "list") == (("n00000002", "two words, naïve"), ("n00000001", "n00000001"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"tench\n", "line 1: 'tench' is not a wnid such as n01440764"),
        (b"n00000001 a\nn00000001 b\n", "line 2: 'n00000001' is listed twice"),
        (b"# nothing\n", "lists no classes"),
        (b"\xff\xfe\x00", "cannot be read as a list of classes"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path, content, expected):
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(ModelError, match=expected):
        read_classes(tmp_path / "list")


def test_a_missing_list_is_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot be read as a list of classes"):
        read_classes(tmp_path / "absent")


def test_fewer_labels_than_outputs_are_refused_with_the_way_out():
    with pytest.raises(ModelError, match=r"3 outputs, but 2 labels are stated; pass --classes with the list"):
        named_classes("w.pth", 3, ("cat", "dog"))


def test_unnamed_classes_have_no_wnid():
    assert unnamed_classes(2) == (("", "class 0"), ("", "class 1"))
