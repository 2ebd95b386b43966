"""A few files by name: their answers in order, as text and as pictures that overwrite no input."""

from pathlib import Path

import pytest
from PIL import Image

from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.infer import Answer, answer_lines, classify_files, first_name, plan_pictures, write_picture

from .conftest import picture

STURGEON = {"class_index": 394, "wnid": "n02640242", "name": "sturgeon, huso", "score": 0.97314}
OTHER = {"class_index": 0, "wnid": "n01440764", "name": "tench, Tinca tinca", "score": 0.00005}


def test_the_first_line_is_the_class_the_rest_a_table():
    assert answer_lines(Answer(Path("a/b.jpg"), (STURGEON, OTHER))) == [
        "{394: 'sturgeon'}",
        "  a/b.jpg",
        "  97.3140%   394  n02640242  sturgeon, huso",
        "   0.0050%     0  n01440764  tench, Tinca tinca",
    ]


def test_an_apostrophe_in_a_name_is_printed_as_python_does():
    name = {**STURGEON, "class_index": 458, "name": "carpenter's kit, tool kit"}
    assert answer_lines(Answer(Path("x"), (name,)))[0] == '{458: "carpenter\'s kit"}'
    assert first_name("tench") == "tench"


def test_every_file_is_answered_in_order_across_batches(fake, folder):
    names = ["a.jpg", "cut.jpg", "b/gray.jpg", "missing.jpg"] * 5
    moved = []
    answers = classify_files(fake, [folder / name for name in names], 2, 3, moved.append)
    assert [answer.path for answer in answers] == [folder / name for name in names]
    assert [len(answer.guesses) for answer in answers] == [2, 0, 2, 0] * 5
    assert answers[1].error.startswith("decode_error: truncated")
    assert answers[3].error == "read_error: No such file or directory"
    assert {answers[0].guesses == answers[k].guesses for k in (4, 8, 12)} == {True}
    assert moved == [16, 4]


@pytest.mark.parametrize(
    ("files", "out", "pictures"),
    [
        (["a.png"], "p.jpg", ["p.jpg"]),
        (["a.png"], "deep/p.PNG", ["deep/p.PNG"]),
        (["a.png"], "folder", ["folder/a.jpg"]),
        (["a.png"], "there.is", ["there.is/a.jpg"]),
        (["a.png", "x/a.gif", "b", "y/a.jpg"], "folder", [f"folder/{n}.jpg" for n in ("a", "a-2", "b", "a-3")]),
        (["a-2.jpg", "a.jpg", "x/a.jpg"], "folder", [f"folder/{n}.jpg" for n in ("a-2", "a", "a-3")]),
    ],
)
def test_where_pictures_go(tmp_path, monkeypatch, files, out, pictures):
    monkeypatch.chdir(tmp_path)
    Path("there.is").mkdir()
    assert plan_pictures([Path(file) for file in files], Path(out)) == [Path(picture) for picture in pictures]


@pytest.mark.parametrize(
    ("files", "out", "text"),
    [
        (["a.jpg", "b.jpg"], "p.jpg", "one picture cannot show 2 files"),
        (["a.jpg"], "p.gif", r"\.jpg, \.jpeg, \.png"),
        (["a.jpg"], "x/../a.jpg", "never overwritten"),
        (["here/a.jpg", "b.jpg"], "here", "never overwritten"),
        (["a.jpg"], "file", "a file is in the way"),
    ],
)
def test_places_that_are_refused(tmp_path, monkeypatch, files, out, text):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("x").mkdir()
    with pytest.raises(ServeError, match=text):
        plan_pictures([Path(file) for file in files], Path(out))


def test_the_picture_shows_the_image_that_was_answered(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(1, 640, 480))
    write_picture(Answer(tmp_path / "a.jpg", (STURGEON,)), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert image.width == 640
        assert image.height > 480
