"""Tiny things to serve: a checkpoint with random weights, finished records, a folder of good and bad files."""

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import ConvNeXtConfig, init_parameters
from convnext_imagenet.model.runtime import prepare
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import save_weights
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.schema import Row
from convnext_imagenet.serve.checkpoint import Checkpoint, load_checkpoint

from ..records_of import finished_records

SIZE_PX = 32
TRANSFORM = EvalTransform(size_px=SIZE_PX)


def picture(seed: int, width: int = 40, height: int = 30, mode: str = "RGB", form: str = "JPEG") -> bytes:
    """The bytes of a noisy picture, blocky enough to survive a resize."""
    channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, channels), dtype=np.uint8)
    planes = [Image.fromarray(small[..., c]).resize((width, height)) for c in range(channels)]
    buffer = io.BytesIO()
    Image.merge(mode, planes).save(buffer, form)
    return buffer.getvalue()


def class_table(count: int) -> tuple[tuple[str, str], ...]:
    return tuple((f"n{index:08d}", f"name {index}, synonym {index}") for index in range(count))


def write_checkpoint(path: Path, classes: int = 7, seed: int = 3) -> Path:
    """A weights file of the smallest network; a large head makes its answers differ between pictures."""
    config = ConvNeXtConfig("convnext_test", (1, 1, 1, 1), (8, 16, 24, 32), num_classes=classes, head_init_scale=40.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, init_parameters(config, seed), ModelCard(config, class_table(classes), TRANSFORM))
    return path


def build_records(root: Path, images: list[bytes], labels: list[int], classes: int = 7, key: str = "val_{}") -> Path:
    """A finished RECORDS directory whose val split holds `images`, in one shard; `key` takes their numbers from 0."""
    rows = [
        Row(image, label, sample_id=index, key=key.format(index), height=30, width=40)
        for index, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    table = [ClassEntry(i, wnid, name) for i, (wnid, name) in enumerate(class_table(classes))]
    return finished_records(root, {"val": rows}, table, {"rows": len(rows)}, is_verified=False)


class _Answer:
    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def asnumpy(self) -> np.ndarray:
        return self.values


class FakeNetwork:
    """A network that is a function of the pixels, remembers the shapes it saw, and compiles in no time.

    Its features, where asked for, are the means of the three colours.
    """

    def __init__(
        self, logits: Callable[[np.ndarray], np.ndarray], seen: list[tuple[int, ...]], with_features: bool = False
    ) -> None:
        self.logits, self.seen, self.with_features, self.training = logits, seen, with_features, True

    def set_train(self, mode: bool) -> None:
        self.training = mode

    def __call__(self, pixels_NHWC: Any) -> Any:
        self.seen.append(pixels_NHWC.shape)
        logits_NK = _Answer(self.logits(pixels_NHWC.asnumpy()))
        if not self.with_features:
            return logits_NK
        return logits_NK, _Answer(pixels_NHWC.asnumpy().astype(np.float32).mean(axis=(1, 2)))


@dataclasses.dataclass(frozen=True)
class FakeCheckpoint(Checkpoint):
    """A checkpoint of a fake network; `seen` collects the shapes of all batches."""

    logits: Callable[[np.ndarray], np.ndarray] = lambda pixels_NHWC: _by_mean(pixels_NHWC)
    seen: list[tuple[int, ...]] = dataclasses.field(default_factory=list)

    def classifier(self, with_features: bool = False, precision: str = "float32") -> Any:
        return FakeNetwork(self.logits, self.seen, with_features)


def _by_mean(pixels_NHWC: np.ndarray) -> np.ndarray:
    means_N = pixels_NHWC.astype(np.float64).mean(axis=(1, 2, 3))
    return -np.abs(means_N[:, None] - np.linspace(60, 190, 7)).astype(np.float32) / 10


@pytest.fixture(scope="session", autouse=True)
def _runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MindSpore on the CPU, and a cache of our own; the built kernels in it are the user's, to build them once."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convnext_imagenet" / "kernels"
    cache = tmp_path_factory.mktemp("cache")
    with contextlib.suppress(OSError):  # a home that cannot be written: each process builds for itself
        usual.mkdir(parents=True, exist_ok=True)
    (cache / "convnext_imagenet").mkdir()
    (cache / "convnext_imagenet" / "kernels").symlink_to(usual)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        prepare("CPU")
        yield


@pytest.fixture(scope="session")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.weights.safetensors")


@pytest.fixture
def fake(checkpoint_file: Path) -> FakeCheckpoint:
    loaded = load_checkpoint(checkpoint_file)
    return FakeCheckpoint(loaded.path, loaded.sha256, loaded.card, loaded.arrays)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven inputs: six that can be scored, five that cannot, and two that are hidden."""
    root = tmp_path / "images"
    (root / "b").mkdir(parents=True)
    (root / ".hidden").mkdir()
    whole = picture(1)
    for name, data in {
        "a.jpg": whole,
        "b/cmyk.JPEG": picture(2, mode="CMYK"),
        "b/gray.jpg": picture(3, mode="L"),
        "b/named.JPEG": picture(4, form="PNG"),
        "cut.jpg": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "extensionless": picture(5),
        "page.jpg": b"<html><body>404</body></html>",
        "z.png": picture(6, form="PNG"),
        "\udcff.gif": b"GIF89a not really",
        ".secret.jpg": whole,
        ".hidden/x.jpg": whole,
    }.items():
        (root / name).write_bytes(data)
    (root / "dead.jpg").symlink_to("nowhere.jpg")
    return root
