"""`build --onto` records of somebody's own images: in any form, on the same sides, with the same classes."""

import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convnext_imagenet.ingest.cli import main
from convnext_imagenet.ingest.labels.splitting import Fractions, split_more
from convnext_imagenet.records import open_records
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.verify import verify_records

from .own_images import FORMS, Images, csv_table, jpeg, make_images, put, root_folders, split_folders

pytestmark = pytest.mark.usefixtures("write_here")
IMAGES = make_images(60)
OLD, NEW = IMAGES[:44], IMAGES[44:]
SHARES = ("--val-fraction", "0.3", "--test-fraction", "0.2")


def run(data: Path, out: Path, *options: object) -> Result:
    return CliRunner().invoke(main, ["build", str(data), "--out", str(out), "--workers", "1", *map(str, options)])


def build(data: Path, out: Path, *options: object) -> str:
    done = run(data, out, *options)
    assert done.exit_code == 0, done.output
    return done.output


def rows_of(root: Path) -> dict[str, list[tuple]]:
    """The rows of each split, in order."""
    splits = Records.open(root, check="sizes").manifest.splits
    sources = {name: open_records(root, name) for name in splits}
    return {
        name: [(row.sample_id, row.key, row.label, row.image) for row in map(source.fields, range(len(source)))]
        for name, source in sources.items()
    }


def sides_of(root: Path) -> dict[str, str]:
    return {row[1]: split for split, rows in rows_of(root).items() for row in rows}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    root_folders(root / "raw", OLD)
    build(root / "raw", root / "records", *SHARES)
    return root / "records"


def test_images_in_every_form_grow_to_the_same_shards_on_the_sides_of_a_whole_build(parent, tmp_path):
    root_folders(tmp_path / "whole", IMAGES)
    build(tmp_path / "whole", tmp_path / "at-once", *SHARES)
    old, shards = rows_of(parent), {}
    for form in ("root folders", "csv", "zip", "parquet", "whole"):
        if form != "whole":
            FORMS[form](tmp_path / form, NEW)
        out = tmp_path / f"{form}-out"
        said = build(tmp_path / form, out, "--onto", parent, *SHARES)
        assert "new: " in said
        found = {path.name: path.read_bytes() for path in sorted(out.glob("*/*.mindrecord"))}
        shards[form] = {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}
        new = rows_of(out)
        for split, rows in old.items():
            assert new[split][: len(rows)] == rows
    assert [form for form, each in shards.items() if each != shards["csv"]] == []
    assert sides_of(out) == sides_of(tmp_path / "at-once")
    assert sum(map(len, new.values())) == len(IMAGES)
    assert verify_records(out).problems == ()
    assert "nothing to do" in build(tmp_path / "whole", out, "--onto", parent, *SHARES)


def test_a_copy_of_a_stored_image_is_on_its_side(parent, tmp_path):
    sides = sides_of(parent)
    for number, (_, label, name, data) in enumerate(OLD):
        put(tmp_path / "raw" / label / f"copy_{number}.jpg", data)
        assert f"{label}/{name}" in sides
    build(tmp_path / "raw", tmp_path / "out", "--onto", parent, *SHARES)
    grown = sides_of(tmp_path / "out")
    for number, (_, label, name, _data) in enumerate(OLD):
        assert grown[f"{label}/copy_{number}.jpg"] == sides[f"{label}/{name}"]


def test_splits_that_are_given_and_sets_that_are_only_evaluated_grow_too(tmp_path):
    given = [(("train", "val", "test")[n % 3], *image[1:]) for n, image in enumerate(IMAGES)]
    split_folders(tmp_path / "raw", given[:44])
    build(tmp_path / "raw", tmp_path / "parent")
    csv_table(tmp_path / "more", given[44:])
    build(tmp_path / "more", tmp_path / "grown", "--onto", tmp_path / "parent")
    assert sides_of(tmp_path / "grown") == {f"{label}/{name}": split for split, label, name, _ in given}
    only_val = [image for image in given[44:] if image[0] == "val"]
    split_folders(tmp_path / "val", only_val)
    build(tmp_path / "val", tmp_path / "some", "--onto", tmp_path / "parent")
    assert len(rows_of(tmp_path / "some")["val"]) == len(rows_of(tmp_path / "parent")["val"]) + len(only_val)
    root_folders(tmp_path / "all", OLD)
    build(tmp_path / "all", tmp_path / "evaluated", "--eval-only")
    root_folders(tmp_path / "rest", NEW)
    build(tmp_path / "rest", tmp_path / "more-val", "--onto", tmp_path / "evaluated", "--eval-only")
    assert set(sides_of(tmp_path / "more-val").values()) == {"val"}
    refused = run(tmp_path / "rest", tmp_path / "no", "--onto", tmp_path / "parent")
    assert "its splits are 'as given', but here they would be 'by a hash" in " ".join(refused.output.split())


def _other(images: Images) -> Images:
    return [(split, label, name, jpeg(700, side=40)) for split, label, name, _ in images]


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (NEW, ("--val-fraction", "0.3"), "but here they would be 'by a hash of the names: val 0.3'; pass images with"),
        (NEW, (*SHARES, "--seed", "4"), "its seed is 0, but here it is 4"),
        (NEW, (*SHARES, "--max-side", "16"), "its reencoding is"),
        ([("", "orchid", "a.jpg", jpeg(1))], SHARES, "orchid: not among the 4 classes of"),
        (_other(OLD[:1]), SHARES, "changed images need another build"),
        ([("", OLD[0][1] + "x", OLD[0][2], OLD[0][3])], SHARES, "a new class would change the class indices"),
        (NEW, (*SHARES, "--train-shards", "3"), "--train-shards has no effect with --onto"),
        (NEW, (*SHARES, "--keep-order"), "--keep-order has no effect with --onto"),
    ],
)
def test_what_contradicts_the_records_is_refused(parent, tmp_path, images, options, words):
    root_folders(tmp_path / "raw", images)
    done = run(tmp_path / "raw", tmp_path / "out", "--onto", parent, *options)
    assert done.exit_code in (1, 2), done.output
    assert words in " ".join(done.output.split())
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_samples_that_belong_to_known_ones_follow_them():
    names, groups = ["a/1", "a/2", "b/3", "b/4"], ["p", "p", "", ""]
    contents = {1: "x", 2: "x"}
    followed = split_more(names, groups, contents, {0: "val"}, Fractions(0.0001))
    assert followed == ["val", "val", "val", "train"], "by the group, and by the copy of a member"
    assert split_more(names, groups, contents, {}, Fractions(0.9999)) == ["val"] * 4
    assert split_more(names, groups, {}, {0: "val", 1: "val", 2: "train"}, Fractions(0.9999))[2] == "train"


def test_own_images_take_a_number_of_train_shards(tmp_path):
    root_folders(tmp_path / "raw", OLD)
    build(tmp_path / "raw", tmp_path / "out", "--train-shards", "3")
    assert len(list((tmp_path / "out" / "train").glob("*.mindrecord"))) == 3
