"""A few files by name: their answers in order, as text and as pictures that overwrite no input."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from convnext_imagenet.serve.classify import (
    Classification,
    classification_json,
    classification_lines,
    classify_files,
    find_files,
    first_name,
    plan_pictures,
    write_picture,
)
from convnext_imagenet.serve.cli import main
from convnext_imagenet.serve.errors import ServeError

from ..json_page import check_object
from .conftest import picture

STURGEON = {"class_index": 394, "wnid": "n02640242", "name": "sturgeon, huso", "score": 0.97314}
OTHER = {"class_index": 0, "wnid": "n01440764", "name": "tench, Tinca tinca", "score": 0.00005}


def test_the_first_line_is_the_class_the_rest_a_table():
    assert classification_lines(Classification(Path("a/b.jpg"), (STURGEON, OTHER))) == [
        "{394: 'sturgeon'}",
        "  a/b.jpg",
        "  97.3140%   394  n02640242  sturgeon, huso",
        "   0.0050%     0  n01440764  tench, Tinca tinca",
    ]


def test_an_apostrophe_in_a_name_is_printed_as_python_does():
    name = {**STURGEON, "class_index": 458, "name": "carpenter's kit, tool kit"}
    assert classification_lines(Classification(Path("x"), (name,)))[0] == '{458: "carpenter\'s kit"}'
    assert first_name("tench") == "tench"


def test_every_file_is_answered_in_order_across_batches(fake, folder):
    names = ["a.jpg", "cut.jpg", "b/gray.jpg", "missing.jpg"] * 5
    moved = []
    answers = classify_files(fake, [folder / name for name in names], 2, 3, moved.append)
    assert [answer.path for answer in answers] == [folder / name for name in names]
    assert [len(answer.guesses) for answer in answers] == [2, 0, 2, 0] * 5
    assert [answer.status for answer in answers] == ["ok", "decode_error", "ok", "read_error"] * 5
    assert answers[1].error.startswith("truncated")
    assert answers[3].error == "No such file or directory"
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
        (["a.jpg"], "file", "exists and is a file"),
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
    write_picture(Classification(tmp_path / "a.jpg", (STURGEON,)), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert image.width == 640
        assert image.height > 480


def test_a_folder_stands_for_its_visible_files_in_order(folder):
    names = ["a.jpg", "cut.jpg", "dead.jpg", "empty.jpg", "extensionless", "page.jpg", "z.png", "\udcff.gif"]
    assert find_files([folder]) == [folder / name for name in names]


def test_folders_and_files_keep_the_order_in_which_they_were_named(folder):
    one = folder / "z.png"
    assert find_files([one, folder / "b", one])[::4] == [one, one]
    assert find_files([folder / "missing.jpg"]) == [folder / "missing.jpg"], "its answer says that it is missing"


def test_a_folder_without_files_is_refused(tmp_path):
    (tmp_path / ".hidden.jpg").touch()
    (tmp_path / "deeper").mkdir()
    with pytest.raises(ServeError, match=r"holds no files .*convnext-serve predict"):
        find_files([tmp_path])


def test_an_answer_as_json_is_one_line_with_all_of_it():
    line = classification_json(Classification(Path("a\nb/\u00e9\udcff.jpg"), (STURGEON, OTHER)))
    assert "\n" not in line
    value = {"file": "a\nb/\u00e9\\xff.jpg", "status": "ok", "error": None, "topk": [STURGEON, OTHER]}
    assert json.loads(line) == value
    line.encode()
    failed = json.loads(classification_json(Classification(Path("x"), (), "read_error", "No such file")))
    assert failed == {"file": "x", "status": "read_error", "error": "No such file", "topk": []}


def test_json_lines_alone_go_to_standard_output_and_the_exit_code_stays(checkpoint_file, folder, tmp_path):
    command = ["infer", str(checkpoint_file), str(folder), "--json", "--topk", "2", "--out", str(tmp_path / "drawn")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    values = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(value["file"]).name for value in values] == [
        "a.jpg", "cut.jpg", "dead.jpg", "empty.jpg", "extensionless", "page.jpg", "z.png", "\\xff.gif",
    ]  # fmt: skip
    assert all(check_object(line, "convnext-serve infer") for line in result.stdout.splitlines())
    assert [len(value["topk"]) for value in values] == [2, 0, 0, 0, 2, 0, 2, 0]
    assert all((value["status"] == "ok") == (value["error"] is None) for value in values)
    assert "Error: 5 of 8 files could not be read" in result.stderr
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert drawn == ["a.jpg", "extensionless.jpg", "z.jpg"]


def test_a_folder_of_readable_files_ends_with_0(checkpoint_file, folder):
    result = CliRunner().invoke(main, ["infer", str(checkpoint_file), str(folder / "b")])
    assert result.exit_code == 0, result.output
    assert "3 images classified" in result.stderr
