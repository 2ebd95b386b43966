"""A tiny raw tree, the records of an undisturbed ingest of it, and ways to disturb one."""

import contextlib
import hashlib
import io
import os
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest
import scipy.io
from PIL import Image

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import read_json
from convnext_imagenet.base.protocol import read_receipt

WNIDS = ("n00000010", "n00000020")
TRAIN_PER_CLASS, VAL_IMAGES = 10, 6
COMMAND = [str(Path(sys.executable).parent / "convnext-ingest")]


def jpeg(seed: int, size_px: int = 24, mode: str = "RGB") -> bytes:
    """A small noisy JPEG."""
    channels = {"L": (), "RGB": (3,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 255, size=(size_px, size_px, *channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "JPEG")
    return buffer.getvalue()


def _meta() -> bytes:
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    rows: list[tuple[Any, ...]] = [
        (number, wnid, f"name {number}", "", 0, np.array([]), 0, TRAIN_PER_CLASS)
        for number, wnid in enumerate(reversed(WNIDS), start=1)
    ]
    rows.append((3, "n00009999", "root", "", 2, np.array([1, 2]), 1, 0))
    synsets = np.empty((len(rows), 1), dtype=[(name, object) for name in (*fields, "num_train_images")])
    for index, row in enumerate(rows):
        synsets[index, 0] = row
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": synsets})
    return buffer.getvalue()


def make_tree(root: Path) -> Path:
    """20 train images of two classes, 6 flat val images, a devkit; one image is truncated, others are odd."""
    modes = {0: "L", 1: "CMYK"}
    for label, wnid in enumerate(WNIDS):
        (root / "train" / wnid).mkdir(parents=True)
        for number in range(TRAIN_PER_CLASS):
            data = jpeg(100 * label + number, 20 + number, modes.get(number, "RGB"))
            (root / "train" / wnid / f"{wnid}_{number}.JPEG").write_bytes(data)
    bad = root / "train" / WNIDS[0] / f"{WNIDS[0]}_7.JPEG"
    bad.write_bytes(bad.read_bytes()[:-40])
    (root / "val").mkdir()
    for number in range(1, VAL_IMAGES + 1):
        (root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(jpeg(1000 + number))
    truth = "".join(f"{1 + number % 2}\n" for number in range(VAL_IMAGES)).encode()
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        for name, data in (("meta.mat", _meta()), ("ILSVRC2012_validation_ground_truth.txt", truth)):
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return root


def digests(out: Path) -> dict[str, str]:
    """The SHA-256 of each file of a directory, by path; the lock and the times of the source are no part."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name not in (".lock", ".stamps.json"))
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_marked_means_whole(out: Path) -> None:
    """Whatever a crash has left, a unit with a receipt is whole, and nothing else has a final name that counts."""
    if not (out / "plan.json").exists():
        return
    plan_id = read_json(out / "plan.json")["plan_id"]
    for split in ("train", "val"):
        for receipt in (out / split).glob("imagenet-*.json"):
            assert read_receipt(out / split, receipt.stem, plan_id, deep=True), receipt
    if (out / "_SUCCESS").exists():
        assert (out / "manifest.json").exists()


def wait_for_group_to_end(group: int, seconds: float = 20) -> None:
    """Wait until no process of a killed process group holds anything any more."""
    end = time.monotonic() + seconds
    while any(_is_of_group(process, group) for process in psutil.process_iter()):
        assert time.monotonic() < end, "processes are left"
        time.sleep(0.01)


def _is_of_group(process: psutil.Process, group: int) -> bool:
    """Whether a process of the group still holds files; one whose main thread alone has ended still does."""
    try:
        has_ended = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
        return os.getpgid(process.pid) == group and not has_ended
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False


class Bench:
    """Runs of the ingest of one tree, in a nursery."""

    def __init__(self, module: ModuleType, tree: Path, folder: Path) -> None:
        self.tree = tree
        self.folder = folder
        self.nursery = module.Nursery()
        self._run = module.Run

    def plan(self, out: Path, *options: str, **disturbance: Any) -> Any:
        """A run of the tree into `out`."""
        arguments = ["build", str(self.tree), "--out", str(out), "--classes", "found", "--workers", "2", *options]
        run = self._run([str(a) for a in arguments], output=str(out), log=str(self.folder / "log"))
        return replace(run, **disturbance)

    def run(self, out: Path, *options: str, **disturbance: Any) -> tuple[int, str]:
        """The exit code of a run and what it printed."""
        (self.folder / "log").write_bytes(b"")
        code = self.nursery.run(self.plan(out, *options, **disturbance))
        return code, self.log()

    def run_and_kill(self, out: Path, seconds: float) -> bool:
        """Kill a run with all its processes after some time; False when it had ended before that."""
        group = self.nursery.start(self.plan(out))
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        code = self.nursery.wait()
        wait_for_group_to_end(group)
        assert code in (0, -signal.SIGKILL), self.log()
        return code != 0

    digests = staticmethod(digests)
    is_of_group = staticmethod(_is_of_group)
    wait_for_group_to_end = staticmethod(wait_for_group_to_end)
    assert_marked_means_whole = staticmethod(assert_marked_means_whole)

    def log(self) -> str:
        """What the run printed."""
        return (self.folder / "log").read_text()


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny raw tree; do not change it."""
    return make_tree(tmp_path_factory.mktemp("faults") / "raw")


@pytest.fixture(scope="session")
def bench(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Runs of the tiny tree."""
    spec = spec_from_file_location("faults_nursery", Path(__file__).with_name("nursery.py"))
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    bench = Bench(module, tree, tmp_path_factory.mktemp("bench"))
    yield bench
    bench.nursery.close()


@pytest.fixture(scope="session")
def reference(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of an undisturbed ingest; do not change them."""
    out = tmp_path_factory.mktemp("reference") / "records"
    code, log = bench.run(out)
    assert code == 0, log
    return out


@pytest.fixture
def records(reference: Path, tmp_path: Path) -> Path:
    """A copy of the undisturbed records, to be damaged."""
    return Path(shutil.copytree(reference, tmp_path / "records"))


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the memory of checked files out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def refused() -> Callable[[Callable[[], object]], str]:
    """Calls a function that must refuse, and gives its one line."""

    def call(function: Callable[[], object]) -> str:
        with pytest.raises(ArtefactError) as caught:
            function()
        return str(caught.value)

    return call


@pytest.fixture
def own_tree(bench: Bench, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tree that a test may change; runs are of it."""
    copy = Path(shutil.copytree(tree, tmp_path / "raw"))
    monkeypatch.setattr(bench, "tree", copy)
    return copy
