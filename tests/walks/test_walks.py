"""The commands of docs/tasks/ run as they stand, on small data, in an empty home folder.

A block below `<!-- needs NAME -->` runs where the package NAME is installed; the rest of its page always runs.
"""

import functools
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.ingest.labels.devkit import read_devkit
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import ConvNeXtConfig, init_parameters
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import save_weights

from ..json_page import check_progress

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "tasks").glob("*.md"))
FAST = "[model]\nvariant='convnext_atto'\ndepths=[1,1,1,1]\ndims=[8,16,24,32]\nlayer_scale_init=1.0\n" + (
    "[data]\nsize_px=32\nglobal_batch_size=8\neval_batch_size=8\n[augment]\nauto_augment=''\n"
    "[schedule]\nbase_lr=1e-3\nwarmup_epochs=0\n[train]\nepochs=2\nkeep_checkpoints=0\n"
)
# What a page says, and what the test does instead because its data is small; each must be in the page.
INSTEAD = {
    "first-ten-minutes": {
        "python demo/": f"python {ROOT}/demo/",
        "run demo": "run demo --set train.epochs=2 --set schedule.warmup_epochs=0 --set data.global_batch_size=64",
    },
    "official-archives": {
        "build imagenet --out records\n": "build imagenet --out records --classes found --max-quarantine 1\n",
        "--dry-run": "--classes found --dry-run",
    },
    "hugging-face": {
        "build imagenet --out records\n": "build imagenet --out records --classes found --max-quarantine 1\n",
        "--dry-run": "--classes found --dry-run",
    },
    "own-folder": {"run own.toml": "run own.toml --set train.epochs=1 --set schedule.warmup_epochs=0"},
    "fine-tune": {
        "run small-finetune": "run small-finetune --set data.size_px=32 --set data.global_batch_size=8 "
        "--set train.epochs=2 --set schedule.warmup_epochs=0"
    },
    "score": {"s3://bucket/": 'file://"$PWD"/'},
}
# What the output of a page must contain, beside exit code 0; with an extra, what its blocks print.
SAYS = {
    "hugging-face": ("10 classes in an archive of Hugging Face's imagenet-1k", "labels verified against the devkit"),
    "audit-data": ("leak: 2", "1 across splits", "1 train, 0 val images left out"),
    "several-devices": ("2 ranks on CPU",),
    "from-pytorch": ("numpy uint8 (8, 32, 32, 3)",),
}
SAYS_WITH = {"torch": "torch torch.uint8 (8, 32, 32, 3) (8,)", "ray": "Ray: 1 node"}


def _photos(folder: Path) -> None:
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 6)):
        for place, name in enumerate(("dark", "light")):
            (folder / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(100 * place, 100 * place + 150, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / split / name / f"{split}-{name}-{number}.png")
    (folder / "own.toml").write_text(FAST)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A function that returns a folder of photos with a RUN, which it makes once."""

    @functools.cache
    def make() -> Path:
        folder = tmp_path_factory.mktemp("trained")
        _photos(folder)
        build = "convnext-ingest build photos --out first --unverified --classes found"
        printed = _bash(folder, f"{build}\nconvnext-train run own.toml --records first --out run --progress json")
        assert check_progress(printed) == {"train": 2 * 48}
        return folder

    return make


def _copy(folder: Path) -> None:
    photos = folder / "photos"
    with Image.open(photos / "train" / "dark" / "train-dark-0.png") as image:
        image.resize((80, 96)).save(photos / "val" / "dark" / "val-dark-9.png")


def _with_published_weights(folder: Path) -> None:
    _photos(folder)
    config = ConvNeXtConfig("convnext_atto", (1, 1, 1, 1), (8, 16, 24, 32), num_classes=3)
    card = ModelCard(config, tuple((f"n{index:08d}", f"name {index}") for index in range(3)), EvalTransform(size_px=32))
    save_weights(folder / "ours.safetensors", init_parameters(config, 3), card)
    export = "convnext-serve weights export ours.safetensors --out published.safetensors --format safetensors"
    _bash(folder, f"{export} --names timm\nrm ours.safetensors published.safetensors.md")


def _archives(folder: Path) -> None:
    _bash(folder, f"python {ROOT}/demo/make_raw_tree.py digits\nmkdir imagenet\nmv digits/*devkit* imagenet/")
    with tarfile.open(folder / "imagenet" / "ILSVRC2012_img_val.tar", "w") as val:
        for path in sorted((folder / "digits" / "val").iterdir()):
            val.add(path, path.name)
    with tarfile.open(folder / "imagenet" / "ILSVRC2012_img_train.tar", "w") as train:
        for path in sorted((folder / "digits" / "train").iterdir()):
            inner = folder / f"{path.name}.tar"
            with tarfile.open(inner, "w") as of_class:
                for image in sorted(path.iterdir()):
                    of_class.add(image, image.name)
            train.add(inner, inner.name)


def _hugging_face(folder: Path) -> None:
    _bash(folder, f"python {ROOT}/demo/make_raw_tree.py digits\nmkdir imagenet\nmv digits/*devkit* imagenet/")
    (devkit,) = (folder / "imagenet").iterdir()
    val = zip(sorted((folder / "digits" / "val").iterdir()), read_devkit(devkit).authority.val_wnids, strict=True)
    train = ((path, path.parent.name) for path in sorted((folder / "digits" / "train").glob("*/*")))
    for name, images in (("train_images_0", train), ("val_images", val)):
        with tarfile.open(folder / "imagenet" / f"{name}.tar.gz", "w:gz", compresslevel=1) as archive:
            for path, wnid in images:
                archive.add(path, f"{path.stem}_{wnid}{path.suffix}")


DATA: dict[str, Callable[[Path], None]] = {
    "first-ten-minutes": lambda folder: None,
    "official-archives": _archives,
    "hugging-face": _hugging_face,
    "own-folder": _photos,
    "audit-data": _copy,
    "several-devices": _photos,
    "cluster": lambda folder: None,
    "from-pytorch": _photos,
    "fine-tune": _with_published_weights,
    "resume": _photos,
    "score": lambda folder: None,
    "move-weights": lambda folder: None,
}
HAVE_RUN = {"audit-data", "cluster", "score", "move-weights"}


def _bash(folder: Path, script: str) -> str:
    """Run a script in `folder` with an empty home folder and our programs first on PATH; return what it printed."""
    (folder / "home").mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    environment = {"HOME": str(folder / "home"), "PATH": path, "LC_ALL": "C.UTF-8"}
    environment["XDG_CACHE_HOME"] = str(folder.parent / "cache")  # only the first page waits for the compiler
    done = subprocess.run(
        ["bash", "-e", "-x", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def _blocks(page: Path) -> list[tuple[str, str]]:
    """Return the script of each block with the package that it needs, or with an empty name."""
    return re.findall(r"^(?:<!-- needs (\w+) -->\n)?```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def _needs(page: Path) -> set[str]:
    return {name for name, _ in _blocks(page) if name}


def _script(page: Path, without: set[str] = frozenset()) -> str:
    script = "".join(block for name, block in _blocks(page) if name not in without)
    for said, done in INSTEAD.get(page.stem, {}).items():
        assert said in script, f"{page.name} no longer says {said!r}"
        script = script.replace(said, done)
    return script


def test_every_walk_has_data_and_is_in_the_index() -> None:
    assert {page.stem for page in PAGES} == DATA.keys()
    index = (ROOT / "docs" / "index.md").read_text()
    assert all(f"(tasks/{page.name})" in index for page in PAGES)
    assert all(_script(page, _needs(page)).count("convnext-") >= 3 for page in PAGES)
    assert set().union(*map(_needs, PAGES)) == SAYS_WITH.keys()
    assert {*SAYS, *INSTEAD} <= DATA.keys()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_as_they_stand(page: Path, tmp_path: Path, trained: Callable[[], Path]) -> None:
    if page.stem in HAVE_RUN:
        shutil.copytree(trained(), tmp_path, dirs_exist_ok=True)
    DATA[page.stem](tmp_path)
    missing = {name for name in _needs(page) if importlib.util.find_spec(name) is None}
    printed = _bash(tmp_path, _script(page, missing))
    for words in (*SAYS.get(page.stem, ()), *(SAYS_WITH[name] for name in _needs(page) - missing)):
        assert words in printed, printed[-4000:]
    if missing:
        pytest.skip(f"everything else of the page ran; its blocks that need {', '.join(missing)} did not")
