"""A small raw tree in ImageNet's shape, and the pieces to make others."""

import io
import shutil
import tarfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from convnext_imagenet.ingest.labels.authority import LabelAuthority
from convnext_imagenet.ingest.labels.devkit import Devkit, Leaf
from convnext_imagenet.ingest.source.scan_types import Folder, SplitScan, TreeScan

FIELDS = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images")
LEAVES = (
    Leaf(1, "n00000030", "third, last", 6),
    Leaf(2, "n00000010", "first", 7),
    Leaf(3, "n00000020", "second", 5),
    Leaf(4, "n00000040", "not in the tree", 9),
)
GROUND_TRUTH = (2, 1, 3, 3, 4, 2, 1, 2)


def _jpeg(seed: int, size_px: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, size=(size_px, size_px, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def _meta(leaves: tuple[Leaf, ...]) -> bytes:
    rows: list[tuple[Any, ...]] = [
        (leaf.ilsvrc_id, leaf.wnid, leaf.words, "a thing", 0, np.array([]), 0, leaf.train_images) for leaf in leaves
    ]
    children = np.array([leaf.ilsvrc_id for leaf in leaves])
    rows.append((len(leaves) + 1, "n00009999", "root", "all things", len(leaves), children, 1, 0))
    synsets = np.empty((len(rows), 1), dtype=[(name, object) for name in FIELDS])
    for index, row in enumerate(rows):
        synsets[index, 0] = row
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": synsets})
    return buffer.getvalue()


def _truth(ids: tuple[int, ...]) -> bytes:
    return "".join(f"{ilsvrc_id}\n" for ilsvrc_id in ids).encode()


def _tar_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _tar_gz(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _devkit_members(leaves: tuple[Leaf, ...], ids: tuple[int, ...]) -> dict[str, bytes]:
    return {
        "kit/data/meta.mat": _meta(leaves),
        "kit/data/ILSVRC2012_validation_ground_truth.txt": _truth(ids),
    }


@dataclass(frozen=True)
class Pieces:
    """What the tests build trees and devkits from."""

    jpeg: Callable[..., bytes] = _jpeg
    meta: Callable[[tuple[Leaf, ...]], bytes] = _meta
    truth: Callable[[tuple[int, ...]], bytes] = _truth
    tar: Callable[[dict[str, bytes]], bytes] = _tar_bytes
    tar_gz: Callable[[Path, dict[str, bytes]], Path] = _tar_gz
    devkit_members: Callable[[tuple[Leaf, ...], tuple[int, ...]], dict[str, bytes]] = _devkit_members
    leaves: tuple[Leaf, ...] = LEAVES
    ground_truth: tuple[int, ...] = GROUND_TRUTH

    @property
    def devkit(self) -> LabelAuthority:
        """What the small tree's devkit says, in memory."""
        return Devkit(self.leaves, self.ground_truth, "0" * 64).authority

    def split(self, name: str, folders: dict[str, list[str]]) -> SplitScan:
        """A scanned split in memory; the folder "" stands for a flat one. Sizes are 100, 101, ..."""
        scanned = tuple(
            Folder(f"{name}/{folder}" if folder else name, tuple(names), array("q", range(100, 100 + len(names))))
            for folder, names in folders.items()
        )
        return SplitScan(name, "" in folders, scanned)

    def tree(self, train: dict[str, list[str]], val: dict[str, list[str]]) -> TreeScan:
        """A scanned tree in memory."""
        return TreeScan(self.split("train", train), self.split("val", val), devkit=None)


@pytest.fixture(scope="session")
def pieces() -> Pieces:
    """Makers of images, devkits and scanned trees."""
    return Pieces()


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory, pieces: Pieces) -> Path:
    root = tmp_path_factory.mktemp("template") / "raw"
    for leaf in LEAVES[:3]:
        folder = root / "train" / leaf.wnid
        folder.mkdir(parents=True)
        for number in range(leaf.train_images):
            (folder / f"{leaf.wnid}_{number}.JPEG").write_bytes(pieces.jpeg(100 * leaf.ilsvrc_id + number))
    (root / "val").mkdir()
    for number in range(1, len(GROUND_TRUTH) + 1):
        (root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(pieces.jpeg(number))
    pieces.tar_gz(root / "ILSVRC2012_devkit_t12.tar.gz", pieces.devkit_members(LEAVES, GROUND_TRUTH))
    return root


@pytest.fixture
def raw_tree(_template: Path, tmp_path: Path) -> Path:
    """A raw tree on disk: 18 train images of 3 of the devkit's 4 classes, 8 flat val images, one of them of class 4."""
    return Path(shutil.copytree(_template, tmp_path / "raw"))


@pytest.fixture(scope="session")
def wide_tree(tmp_path_factory: pytest.TempPathFactory, pieces: Pieces) -> Path:
    """A raw tree of 1,030 train images, so of three shards, two of them bad, and 6 val images in class folders."""
    root = tmp_path_factory.mktemp("wide") / "raw"
    leaves = (Leaf(1, "n00000020", "second", 515), Leaf(2, "n00000010", "first", 515))
    images = [pieces.jpeg(seed) for seed in range(40)]
    for leaf in leaves:
        (root / "train" / leaf.wnid).mkdir(parents=True)
        for number in range(leaf.train_images):
            (root / "train" / leaf.wnid / f"{leaf.wnid}_{number}.JPEG").write_bytes(images[number % 40])
    (root / "train" / "n00000010" / "n00000010_7.JPEG").write_bytes(images[7][:-30])
    (root / "train" / "n00000020" / "n00000020_9.JPEG").write_bytes(b"")
    truth = (1, 2, 2, 1, 1, 2)
    for number, ilsvrc_id in enumerate(truth, start=1):
        folder = root / "val" / leaves[ilsvrc_id - 1].wnid
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(images[number])
    for name, data in pieces.devkit_members(leaves, truth).items():
        path = root / name.replace("kit/", "ILSVRC2012_devkit_t12/", 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


@pytest.fixture(scope="module")
def write_here() -> Iterator[list[str]]:
    """Let shards be written in this process, which is faster than a new one; lists the shards written."""
    written: list[str] = []

    def run_here(function, tasks, count, workers, on_progress, on_unit, start) -> None:
        for task in tasks:
            function(task, on_progress)
            written.append(task.shard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convnext_imagenet.ingest.shards.pool.run_units", run_here)
        yield written


def _folder_as_tar(folder: Path) -> bytes:
    # Backwards, so that nothing can lean on the order of the members.
    return _tar_bytes({path.name: path.read_bytes() for path in sorted(folder.iterdir(), reverse=True)})


@pytest.fixture
def tar_tree(raw_tree: Path, tmp_path: Path) -> Path:
    """The raw tree as the official archives hold it: a tar of class tars, a flat tar, the devkit."""
    root = tmp_path / "tars"
    root.mkdir()
    classes = {f"{folder.name}.tar": _folder_as_tar(folder) for folder in sorted((raw_tree / "train").iterdir())}
    (root / "ILSVRC2012_img_train.tar").write_bytes(_tar_bytes(classes))
    (root / "ILSVRC2012_img_val.tar").write_bytes(_folder_as_tar(raw_tree / "val"))
    shutil.copy(raw_tree / "ILSVRC2012_devkit_t12.tar.gz", root)
    return root


@pytest.fixture
def kaggle_tree(raw_tree: Path, tmp_path: Path, pieces: Pieces) -> Path:
    """The raw tree as Kaggle ships it: deeper folders, no devkit, a solution and a synset mapping."""
    root = tmp_path / "kaggle"
    for split in ("train", "val"):
        shutil.copytree(raw_tree / split, root / "ILSVRC" / "Data" / "CLS-LOC" / split)
    lines = [
        f"ILSVRC2012_val_{number:08d},{wnid} 1 2 30 40 {wnid} 5 6 7 8 "
        for number, wnid in enumerate(pieces.devkit.val_wnids, start=1)
    ]
    # Kaggle's rows are in no order.
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(lines)]) + "\n")
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{leaf.wnid} {leaf.words}\n" for leaf in pieces.leaves))
    return root
