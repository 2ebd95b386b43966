"""The same images in any form that people have give the same records; what is wrong in a form is said by its line."""

import hashlib
import os
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from convnext_imagenet.ingest import build_command
from convnext_imagenet.ingest.cli import main
from convnext_imagenet.ingest.errors import FailedIngestError, IngestError
from convnext_imagenet.ingest.labels.classes import ClassRule
from convnext_imagenet.ingest.labels.given import Wishes, label_samples
from convnext_imagenet.ingest.make_plan import make_given_plan
from convnext_imagenet.ingest.shards.source_reader import SourceReader
from convnext_imagenet.ingest.source.detect import scan_data
from convnext_imagenet.ingest.source.samples import Sample, SampleTree
from convnext_imagenet.ingest.source.unpack import Unpacker
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.verify import verify_records

from .own_images import CLASSES, FORMS, Images, add, fresh, jpeg, make_images, put, root_folders, with_splits

pytestmark = pytest.mark.usefixtures("write_here")
SPLIT_ONLY = {"split folders"}


def _run(data: Path, out: Path, *options: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["build", str(data), "--out", str(out), *map(str, options)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def _build(data: Path, out: Path, *options: object) -> str:
    code, output = _run(data, out, *options)
    assert code == 0, output
    assert verify_records(out).problems == ()
    return output


def _shards(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("*/*.mindrecord"))}


def _split_of(out: Path) -> dict[str, str]:
    rows = pq.read_table(out / "index.parquet", columns=["key", "split"]).to_pylist()
    return {row["key"]: row["split"] for row in rows}


def _compare(forms: dict, images: Images, tmp_path: Path, options: tuple[object, ...] = ()) -> Path:
    seen = {}
    for form, make in forms.items():
        make(tmp_path / form, images)
        before = sorted(path for path in (tmp_path / form).rglob("*"))
        _build(tmp_path / form, tmp_path / f"{form}-out", *options)
        assert sorted((tmp_path / form).rglob("*")) == before, "DATA is never written to"
        seen[form] = _shards(tmp_path / f"{form}-out")
    first = next(iter(seen.values()))
    assert len(first) >= 2
    assert [form for form, shards in seen.items() if shards != first] == []
    assert not list(tmp_path.glob(".*unpacked")), "unpacked files are removed"
    return tmp_path / f"{next(iter(forms))}-out"


@pytest.mark.slow
def test_ten_forms_of_400_images_give_the_same_shards(tmp_path: Path):
    images = make_images(400)
    without = {form: make for form, make in FORMS.items() if form not in SPLIT_ONLY}
    out = _compare(without, images, tmp_path, ("--val-fraction", 0.2, "--test-fraction", 0.1))
    manifest = Records.open(out).manifest
    assert {name: split.rows for name, split in manifest.splits.items()}.keys() == {"train", "val", "test"}
    assert sum(split.rows for split in manifest.splits.values()) == 400
    assert all(min(split.rows_per_class) > 0 for split in manifest.splits.values())
    assert manifest.source["labels"] == "as given"
    whole = {form: make for form, make in FORMS.items() if form != "root folders"}
    split_out = _compare(whole, with_splits(images, _split_of(out)), tmp_path / "with-splits")
    assert _shards(split_out) == _shards(out), "a split that is given is the one that was made"


def _plan(data: Path, classes: str = "all", unverified: bool = False, **options):
    columns = {name: options.pop(name, "") for name in ("label_column", "group_by")}
    unpacker = Unpacker(data.with_name(f".{data.name}.unpacked"))
    tree = scan_data(data, unpacker, unverified=unverified, **columns)
    assert isinstance(tree, SampleTree)
    return tree, make_given_plan(tree, data, classes, unverified, Wishes(**options), seed=0)


def _sides(plan) -> dict[str, str]:
    return {key: split.name for split in plan.splits for key in split.keys}


def test_added_images_move_none_and_no_class_is_without_val(tmp_path: Path):
    images = make_images(80)
    root_folders(tmp_path / "a", images)
    _, plan = _plan(tmp_path / "a", val_fraction=0.2)
    before = _sides(plan)
    for number in range(40):
        put(tmp_path / "a" / CLASSES[number % 4] / f"new_{number}.jpg", jpeg(1000 + number))
    put(tmp_path / "a" / "rare" / "1.jpg", jpeg(2000))
    put(tmp_path / "a" / "rare" / "2.jpg", jpeg(2001))
    _, plan = _plan(tmp_path / "a", val_fraction=0.2)
    after = _sides(plan)
    assert {key: after[key] for key in before} == before
    assert sorted(side for key, side in after.items() if key.startswith("rare/")) == ["train", "val"]
    assert 0.1 < sum(side == "val" for side in after.values()) / len(after) < 0.3


def test_copies_and_groups_stay_on_one_side(tmp_path: Path):
    for number in range(60):
        data = jpeg(number % 20)  # each content three times, under three names
        put(tmp_path / "a" / CLASSES[number % 4] / f"img_{number:03d}.jpg", data)
    _, plan = _plan(tmp_path / "a", val_fraction=0.3)
    sides = _sides(plan)
    of_content = [{side for key, side in sides.items() if int(key[-7:-4]) % 20 == seed} for seed in range(20)]
    assert [sides for sides in of_content if len(sides) != 1] == []
    for number in range(60):
        put(tmp_path / "b" / CLASSES[number % 4] / f"patient_{number // 4 % 5}" / f"{number}.jpg", jpeg(number))
    _, plan = _plan(tmp_path / "b", val_fraction=0.3, group_by="folder")
    groups: dict[str, set[str]] = {}
    for split in plan.splits:
        for path in split.paths:
            groups.setdefault(path.rpartition("/")[0], set()).add(split.name)
    assert len(groups) == 20
    assert [sides for sides in groups.values() if len(sides) != 1] == []


def test_numbered_classes_are_in_the_order_of_their_numbers_or_of_the_file(tmp_path: Path):
    for number in range(12):
        for image in range(2):
            put(tmp_path / "a" / str(number) / f"{image}.jpg", jpeg(10 * number + image))
    _, plan = _plan(tmp_path / "a")
    assert [entry.name for entry in plan.classes] == [str(number) for number in range(12)]
    assert plan.source["class_index"] == "order of the numbers in the names"
    put(tmp_path / "list.txt", "10\n2\n7\n")
    _, plan = _plan(tmp_path / "a", classes=str(tmp_path / "list.txt"), keeps_order=True)
    assert [entry.name for entry in plan.classes] == ["10", "2", "7"]
    assert plan.source["left_out"] == {"train": 0, "val": 0} | {"train": 18}


def _csv(*lines: str) -> dict[str, str]:
    return {"labels.csv": "\n".join(["path,label", *lines]) + "\n"}


TWO = {"a/1.jpg": 1, "a/2.jpg": 2, "b/1.jpg": 3, "b/2.jpg": 4}
ROWS = ("a/1.jpg,x", "a/2.jpg,x", "b/1.jpg,y", "b/2.jpg,y")
BAD = {
    "files that are not there": (
        TWO,
        _csv(*ROWS, "c/9.jpg,y"),
        {},
        r"1 of 5 rows name files that are not there: c/9\.jpg \(labels\.csv: line 6\)",
    ),
    "no label": (TWO, _csv(*ROWS[:3], "b/2.jpg,"), {}, r"labels\.csv: line 5: no label for b/2\.jpg"),
    "an absolute path": (TWO, _csv(*ROWS, "/etc/passwd,y"), {}, r"line 6: '/etc/passwd' is an absolute"),
    "a path that leads out": (TWO, _csv(*ROWS, "../secret.jpg,y"), {}, r"line 6: '\.\./secret\.jpg' leads out"),
    "a row twice": (TWO, _csv(*ROWS, ROWS[0]), {}, r"line 6: a/1\.jpg is in .*labels\.csv: line 2 already"),
    "a comma without quotes": (TWO, _csv(*ROWS[:3], "b/2.jpg,y,z"), {}, r"line 5: 3 values for 2 columns"),
    "an open quote": (TWO, _csv(*ROWS[:3], '"b/2.jpg,y'), {}, r"labels\.csv: line \d+: .*quotes must be closed"),
    "no column of labels": (
        TWO,
        {"labels.csv": "path,kind\na/1.jpg,x\n"},
        {},
        r"columns path, kind, none of label.*--label-column",
    ),
    "a group in two splits": (
        TWO,
        {"labels.csv": "path,label,split,group\na/1.jpg,x,train,p\na/2.jpg,x,val,p\nb/1.jpg,y,train,q\n"},
        {},
        r"1 group in several splits: .p.; .p. is in train and val",
    ),
    "a split for some": (
        TWO,
        {"labels.csv": "path,label,split\na/1.jpg,x,train\na/2.jpg,x,\nb/1.jpg,y,val\n"},
        {},
        r"1 of 3 images have no split, others have: .*labels\.csv: line 3; give all a split",
    ),
    "an unknown split": (
        TWO,
        {"labels.csv": "path,label,split\na/1.jpg,x,holdout\n"},
        {},
        r"line 2: the split is 'holdout'",
    ),
    "two tables": (
        TWO,
        {**_csv(*ROWS), "more.csv": "path,label\n"},
        {},
        r"several tables of images, labels\.csv, more\.csv",
    ),
    "one image in a class": (TWO | {"c/1.jpg": 5}, {}, {}, r"1 class with too few images.*c \(1 of 2 needed\)"),
    "one image": ({"c/1.jpg": 5}, {}, {}, r"1 class with too few images"),
    "nothing": ({}, {"README": "x"}, {}, r"no known layout; found README"),
    "wnids": (
        {f"n0000000{n}/{n}{k}.JPEG": 2 * n + k for n in range(2) for k in range(2)},
        {},
        {},
        r"ImageNet's wnids, such as n00000000.*--unverified",
    ),
    "val by hand and by fraction": (
        {f"{split}/{path}": seed for split in ("train", "val") for path, seed in TWO.items()},
        {},
        {"val_fraction": 0.1},
        r"has the splits train, val; leave --val-fraction",
    ),
    "only val": (
        {f"val/{path}": seed for path, seed in TWO.items()},
        {},
        {},
        r"has only val, nothing to train on.*--eval-only",
    ),
    "two names of val": (
        {f"{split}/{path}": seed for split in ("train", "val", "valid") for path, seed in TWO.items()},
        {},
        {},
        r"val and valid name the same split",
    ),
    "one level deeper": (
        {f"flowers/{path}": seed for path, seed in TWO.items()},
        {},
        {},
        r"contains only the folder flowers.*pass .*/flowers",
    ),
    "zips": ({}, {"train.zip": "PK", "val.zip": "PK"}, {}, r"train\.zip: damaged or truncated.*or download it again"),
    "backslashes": (
        {"train\\a\\1.jpg": 1},
        {},
        {},
        r"no known layout; found train.*: names with backslashes.*pass the folder of the zip",
    ),
    "a part of an archive": ({}, {"flowers.zip.001": "PK"}, {}, r"join the parts first: cat flowers\.zip\.\*"),
    "val in an archive": (
        {f"train/{path}": seed for path, seed in TWO.items()},
        {"val.rar": "Rar!"},
        {},
        r"val\.rar: an archive beside train, so unpacking may have been interrupted",
    ),
    "splits of other names": (
        {"set_train/a/1.jpg": 1, "set_train/b/1.jpg": 2, "set_val/a/2.jpg": 3},
        {},
        {},
        r"if set_train/ is the split train, rename it to train/, or make a link: ln -s set_train DATA/train",
    ),
    "a misspelt train": (
        {"trian/a/1.jpg": 1, "val/a/2.jpg": 3},
        {},
        {},
        r"if trian is a split, rename it to train, val or test; if it is above the classes.*--group-by folder",
    ),
    "an option with nothing to choose": (
        TWO,
        {},
        {"label_column": "x"},
        r"class folders, so --label-column has nothing",
    ),
    "a flat train": (
        {"train/1.jpg": 1, "train/2.jpg": 2, "val/a/1.jpg": 3},
        {},
        {},
        r"train: contains images outside class folders.*metadata\.csv",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, case: str):
    images, texts, options, message = BAD[case]
    (tmp_path / "a").mkdir()
    for name, seed in images.items():
        put(tmp_path / "a" / name, jpeg(seed))
    for name, text in texts.items():
        put(tmp_path / "a" / name, text)
    with pytest.raises(IngestError, match=message) as refused:
        _plan(tmp_path / "a", **options)
    assert "\n" not in str(refused.value)


def test_a_broken_link_in_place_of_val_is_no_reason_to_split_by_a_hash(tmp_path: Path):
    for path, seed in TWO.items():
        put(tmp_path / "a" / "train" / path, jpeg(seed))
    (tmp_path / "a" / "valid").symlink_to("/mnt/moved/val")
    with pytest.raises(IngestError, match=r"valid: a broken or circular link; fix or remove it"):
        _plan(tmp_path / "a")


def test_files_without_a_row_are_left_out_with_a_count(tmp_path: Path):
    for name, seed in TWO.items():
        put(tmp_path / "a" / name, jpeg(seed))
    put(tmp_path / "a" / "a" / "3.jpg", jpeg(9))
    put(tmp_path / "a" / "labels.csv", _csv(*ROWS)["labels.csv"])
    tree, plan = _plan(tmp_path / "a")
    assert (tree.unlabelled.count, tree.unlabelled.first) == (1, "a/3.jpg")
    assert plan.source["unlabelled"] == 1
    assert plan.images == 4


def test_one_class_is_enough_and_100_001_are_too_many(tmp_path: Path):
    put(tmp_path / "a" / "x" / "1.jpg", jpeg(1))
    put(tmp_path / "a" / "x" / "2.jpg", jpeg(2))
    _, plan = _plan(tmp_path / "a")
    assert [len(split.paths) for split in plan.splits] == [1, 1]
    samples = [Sample(f"{n}.jpg", f"c{n // 2}", "", "", n) for n in range(200_002)]
    with pytest.raises(IngestError, match="100,001 classes, at most 100,000"):
        label_samples(SampleTree("table", samples), ClassRule("all"), Wishes(), False, lambda samples: {})
    given = label_samples(SampleTree("table", samples[:-2]), ClassRule("all"), Wishes(), False, lambda samples: {})
    assert len(given.tree.classes) == 100_000
    assert len(set(given.tree.val.labels)) == 100_000


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("form", ["parquet", "save_to_disk", "webdataset", "tar.gz", "zip"])
def test_a_cut_container_is_refused_by_its_name(tmp_path: Path, form: str):
    FORMS[form](tmp_path / "a", make_images(20))
    container = max(
        (path for path in (tmp_path / "a").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    _plan(tmp_path / "a")
    Unpacker(tmp_path / ".a.unpacked").remove()
    _cut(container)
    with pytest.raises(IngestError) as refused:
        _plan(tmp_path / "a")
    assert container.name in str(refused.value)
    assert not (tmp_path / ".a.unpacked").exists()


def test_folders_beside_an_archive_are_no_finished_unpacking(tmp_path: Path):
    images = make_images(20)
    FORMS["tar.gz"](tmp_path / "a", images)
    put(tmp_path / "a" / "README", "flowers")
    tree, _ = _plan(tmp_path / "a")
    assert (tree.ignored.count, tree.ignored.first) == (1, "README")
    put(tmp_path / "a" / "daisy" / "1.jpg", jpeg(1))
    with pytest.raises(IngestError, match=r"daisy: a folder of images beside class folders in flowers\.tar\.gz"):
        _plan(tmp_path / "a")


def test_what_is_unpacked_is_used_again_until_its_source_changes(tmp_path: Path):
    images = make_images(20)
    FORMS["tar.gz"](tmp_path / "a", images)
    _, plan = _plan(tmp_path / "a")
    (unpacked,) = (tmp_path / ".a.unpacked").iterdir()
    first = unpacked.stat().st_ino
    _, again = _plan(tmp_path / "a")
    assert again.document == plan.document
    assert unpacked.stat().st_ino == first
    FORMS["tar.gz"](fresh(tmp_path / "a"), images[:-1])
    _, changed = _plan(tmp_path / "a")
    assert unpacked.stat().st_ino != first
    assert changed.images == 19


def test_records_do_not_go_into_the_images(tmp_path: Path):
    root_folders(tmp_path / "a", make_images(20))
    code, output = _run(tmp_path / "a", tmp_path / "a" / "records")
    assert code == 1
    assert "is inside the raw tree" in output
    assert not (tmp_path / "a" / "records").exists()


def test_a_label_without_an_image_and_an_image_without_a_label(tmp_path: Path):
    (tmp_path / "a").mkdir()

    def pack(members: dict[str, bytes]) -> None:
        with tarfile.open(tmp_path / "a" / "0.tar", "w") as tar:
            for name, data in members.items():
                add(tar, name, data)

    whole = {f"{n}.jpg": jpeg(n) for n in range(4)} | {f"{n}.cls": b"%d" % (n % 2) for n in range(4)}
    pack(whole | {"9.jpg": jpeg(9)})
    tree, plan = _plan(tmp_path / "a")
    assert (plan.images, tree.unlabelled.count, tree.unlabelled.first) == (4, 1, "0.tar/9.jpg")
    pack(whole | {"9.cls": b"1"})
    with pytest.raises(IngestError, match=r"0\.tar: 1 label without an image: 9; pack the tar again"):
        _plan(tmp_path / "a")
    pack(whole | {"img.1.jpg": jpeg(9), "img.2.jpg": jpeg(10), "img.1.cls": b"1"})
    with pytest.raises(IngestError, match=r"the key img has 2 images \(1\.jpg, 2\.jpg\); a key ends at the first dot"):
        _plan(tmp_path / "a")
    put(tmp_path / "a" / "classnames.txt", "one\n")
    pack(whole)
    with pytest.raises(IngestError, match=r"the class is 1, but classnames\.txt has only 1 names"):
        _plan(tmp_path / "a")


@pytest.mark.parametrize(
    ("folders", "options", "last"),
    [
        (["10", "9", "0"], ["--eval-only"], "class 0 is 0, class 2 10: order of the numbers in the names"),
        (
            ["test/n00000001", "test/n00000000"],
            ["--eval-only", "--unverified"],
            "class 0 is n00000000, class 1 n00000001",
        ),
    ],
)
def test_sets_that_networks_are_only_evaluated_on(tmp_path: Path, folders: list[str], options: list[str], last: str):
    for seed, folder in enumerate(folders):
        put(tmp_path / "a" / folder / "1.jpg", jpeg(seed))
    output = _build(tmp_path / "a", tmp_path / "out", *options)
    assert last in output
    assert f"all val (--eval-only): val {len(folders)}" in output
    assert "to evaluate a network on them: convnext-serve eval CHECKPOINT --records" in output
    assert "to train" not in output


def test_a_member_of_a_zip_that_is_damaged_costs_only_itself(tmp_path: Path):
    FORMS["zip"](tmp_path / "a", make_images(40))
    path = tmp_path / "a" / "flowers.zip"
    with zipfile.ZipFile(path) as file:
        info = file.getinfo("flowers/daisy/img_0000.jpg")
    data = bytearray(path.read_bytes())
    data[info.header_offset + 30 + len(info.filename) + 100] ^= 0xFF
    path.write_bytes(data)
    output = _build(tmp_path / "a", tmp_path / "out")
    assert "flowers.zip/flowers/daisy/img_0000.jpg  damaged: in the zip: " in output
    assert sum(split.rows for split in Records.open(tmp_path / "out").manifest.splits.values()) == 39


def test_a_zip_that_changes_during_the_build_stops_it(tmp_path: Path):
    FORMS["zip"](tmp_path / "a", make_images(20))
    _, plan = _plan(tmp_path / "a")
    os.utime(tmp_path / "a" / "flowers.zip", ns=(1, 1))
    with (
        SourceReader(tmp_path / "a") as reader,
        pytest.raises(FailedIngestError, match=r"flowers\.zip: changed during"),
    ):
        reader.read(plan.splits[0].shard_rows(0)[0])


@pytest.mark.parametrize("was_unpacked", [False, True])
def test_a_dry_run_removes_what_it_unpacked_but_not_what_a_build_left(was_unpacked, tmp_path, monkeypatch):
    FORMS["tar.gz"](tmp_path / "raw", make_images(12))
    folder = tmp_path / ".out.unpacked"
    if was_unpacked:
        put(folder / "of-a-build", b"")
    seen = []
    forecast = SimpleNamespace(to_json=dict)
    monkeypatch.setattr(build_command, "forecast_lines", lambda forecast: [])
    monkeypatch.setattr(build_command, "forecast_build", lambda *_: seen.extend(folder.iterdir()) or forecast)
    assert _run(tmp_path / "raw", tmp_path / "out", "--dry-run")[0] == 0
    assert any(path.suffix == ".tar" for path in seen)
    assert folder.exists() == was_unpacked
    assert not (tmp_path / "out").exists()


def test_a_refused_build_names_the_folder_of_what_it_unpacked(tmp_path: Path) -> None:
    FORMS["tar.gz"](tmp_path / "raw", make_images(12))
    code, said = _run(tmp_path / "raw", tmp_path / "out", "--classes", str(tmp_path / "absent.txt"))
    assert code == 1
    folder = tmp_path / ".out.unpacked"
    assert folder.exists() == (f"{folder}: has unpacked images" in said)
    assert folder.exists()


def test_a_dry_run_refuses_the_folder_that_a_build_would_refuse(tmp_path: Path) -> None:
    put(tmp_path / "raw" / "train" / "a" / "1.jpg", b"")
    put(tmp_path / "out" / "thesis.tex", b"")
    code, said = _run(tmp_path / "raw", tmp_path / "out", "--dry-run")
    assert code == 1
    assert "not created by this program (it holds 'thesis.tex')" in said
