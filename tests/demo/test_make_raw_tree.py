"""The demo's raw tree has ImageNet's exact shape, equal bytes on every run, and its four odd files."""

import importlib.util
import shutil
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from convnext_imagenet.ingest.labels.devkit import read_devkit
from convnext_imagenet.ingest.make_plan import make_plan
from convnext_imagenet.ingest.source.layout import find_devkit, scan_tree
from convnext_imagenet.records.image_headers import BadImage
from convnext_imagenet.records.images import check_image

pytest.importorskip("sklearn", reason="the demo's images are scikit-learn's: install the extra `demo`")


def _load_script() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "demo" / "make_raw_tree.py"
    spec = importlib.util.spec_from_file_location("make_raw_tree", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = _load_script()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's raw tree."""
    out = tmp_path_factory.mktemp("demo") / "new" / "raw"
    assert script.make_raw_tree(out) is True
    return out


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy of the tree that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "raw"))


def _info(path: Path):
    return check_image(path.read_bytes())


def test_tree_is_ingested_with_verified_labels(made: Path):
    plan = make_plan(scan_tree(made), "found", unverified=False, devkit=None, seed=0)
    assert [entry.name for entry in plan.classes] == list(script.NAMES)
    assert plan.source["verified"] is True
    assert plan.source["images"] == {"train": 1400, "val": 397}
    assert plan.source["left_out"] == {"train": 0, "val": 0}
    assert plan.source["incomplete_classes"] == 0


def test_labels_are_those_of_scikit_learn(made: Path):
    plan = make_plan(scan_tree(made), "found", unverified=False, devkit=None, seed=0)
    train, val = script.split_digits(script.load_digits())
    truth = {f"{script.WNIDS[digit.label]}_{digit.number}": digit.label for digit in train}
    truth |= {f"ILSVRC2012_val_{number:08d}": digit.label for number, digit in enumerate(val, start=1)}
    labels = {key: label for split in plan.splits for key, label in zip(split.keys, split.labels.tolist(), strict=True)}
    assert labels == truth


def test_no_digit_is_in_both_splits():
    train, val = script.split_digits(script.load_digits())
    numbers = [digit.number for digit in (*train, *val)]
    assert sorted(numbers) == list(range(1797))


def test_devkit_orders_ids_otherwise_than_wnids(made: Path):
    path = find_devkit(made)
    assert path is not None
    kit = read_devkit(path)
    by_id = [leaf.wnid for leaf in kit.leaves]
    assert len(by_id) == 10
    assert by_id != sorted(by_id)
    assert len(kit.ground_truth) == 397


def test_meta_mat_has_the_fields_of_the_real_one(tmp_path: Path):
    import scipy.io

    (tmp_path / "meta.mat").write_bytes(script.meta_bytes([1] * 10))
    synsets = scipy.io.loadmat(tmp_path / "meta.mat", squeeze_me=True)["synsets"]
    assert synsets.dtype.names == (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    assert synsets.shape == (13,)
    assert [int(count) for count in synsets["num_children"]] == [0] * 10 + [2, 5, 5]


def test_odd_files_are_what_they_are_meant_to_be(made: Path):
    kinds: Counter[tuple[str, str]] = Counter()
    bad = []
    for path in sorted((made / "train").glob("*/*.JPEG")):
        try:
            info = _info(path)
        except BadImage as error:
            bad.append(error.reason)
        else:
            kinds[info.format, info.mode] += 1
    assert bad == ["truncated"]
    assert kinds == {("jpeg", "RGB"): 1396, ("jpeg", "CMYK"): 1, ("jpeg", "L"): 1, ("png", "RGB"): 1}


def test_val_images_are_plain_and_about_64_px(made: Path):
    for path in (made / "val").iterdir():
        info = _info(path)
        assert (info.format, info.mode) == ("jpeg", "RGB")
        assert 56 <= min(info.width, info.height) <= max(info.width, info.height) <= 72


def test_ink_is_brighter_than_paper(made: Path):
    with Image.open(next((made / "val").iterdir())) as image:
        low, high = image.convert("L").getextrema()
    assert high - low > 60


def test_score_folder_holds_images_and_one_file_that_is_none(made: Path):
    bad = []
    for path in sorted((made / "score").iterdir()):
        try:
            _info(path)
        except BadImage:
            bad.append(path.name)
    assert bad == ["no-image.JPEG"]
    assert len(list((made / "score").iterdir())) == 25


def test_bytes_are_the_same_on_every_run(made: Path, tmp_path: Path):
    script.make_raw_tree(tmp_path / "again")
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    assert all((made / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)


def test_finished_tree_is_recognised(made: Path):
    before = (made / "demo-tree.json").stat().st_mtime_ns
    assert script.make_raw_tree(made) is False
    assert (made / "demo-tree.json").stat().st_mtime_ns == before


def test_changed_tree_is_refused(copy: Path):
    (copy / "val" / "ILSVRC2012_val_00000001.JPEG").unlink()
    with pytest.raises(FileExistsError, match="changed since it was made; delete it"):
        script.make_raw_tree(copy)


def test_folder_of_others_is_left_alone(tmp_path: Path):
    (tmp_path / "letter.txt").write_text("x")
    with pytest.raises(FileExistsError, match="not empty and not a demo tree"):
        script.make_raw_tree(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_broken_off_run_leaves_nothing_under_the_final_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def few_files(train, val):
        yield "train/a.JPEG", b"a"
        yield "val/b.JPEG", str(1 // divisor).encode()

    monkeypatch.setattr(script, "tree_files", few_files)
    divisor = 0
    with pytest.raises(ZeroDivisionError):
        script.make_raw_tree(tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
    divisor = 1
    assert script.make_raw_tree(tmp_path / "raw") is True
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
