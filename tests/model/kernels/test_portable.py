"""The kernels of the input path without AVX2: the same bits here, and on an aarch64 processor in an emulator.

The second part needs Debian's g++-aarch64-linux-gnu and qemu-user. CONVNEXT_AARCH64_LIBJPEG may name a libjpeg.a for
aarch64 (Debian: libjpeg62-turbo-dev:arm64); only then are crops of JPEGs made there, too.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from convnext_imagenet.model import crops, pixel_ops, resize
from convnext_imagenet.model.crops import Crop, crop_jpegs
from convnext_imagenet.model.kernels import build
from convnext_imagenet.model.pixel_ops import PIXEL_OP, Kind, apply_pixel_ops
from convnext_imagenet.model.resize import Interpolation, is_vertical_first, pass_weights

LIBJPEG = "CONVNEXT_AARCH64_LIBJPEG"
_COMPILER, _EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
# (height, width) before and after: shrunk, enlarged, in one direction, not at all, odd sides, one pixel
SIZES = [
    ((61, 83), (17, 29)),
    ((40, 30), (224, 224)),
    ((64, 64), (64, 21)),
    ((64, 50), (13, 50)),
    ((9, 7), (9, 7)),
    ((1, 1), (5, 3)),
    ((500, 333), (96, 96)),
]
MODES: tuple[Interpolation, ...] = ("bicubic", "bilinear", "lanczos")
OPS = [kind for kind in Kind if kind != Kind.NONE]


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    if build.network_library() is None:
        pytest.skip("the comparison needs the kernels for AVX2, too")


@pytest.fixture
def portable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The portable kernels in place of those of this processor."""
    caches = build._choose_library, resize._kernel, pixel_ops._kernel, crops._decoder
    monkeypatch.setenv(build.SWITCH, "portable")
    for cache in caches:
        cache.cache_clear()
    assert build.kernels_library() is not None
    yield
    for cache in caches:
        cache.cache_clear()


def _pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*before, 3), dtype=np.uint8) for before, _ in SIZES]


def _resized() -> list[np.ndarray]:
    return [
        resize.resize(pixels, (0, 0, *before), after, mode)
        for pixels, (before, after) in zip(_pictures(), SIZES, strict=True)
        for mode in MODES
    ]


def _operations(kind: Kind) -> np.ndarray:
    ops = np.zeros((4, 2), PIXEL_OP)
    rng = np.random.default_rng(int(kind))
    ops["kind"], ops["factor"] = kind, rng.uniform(0.05, 1.95, ops.shape)
    ops["table"], ops["fill"][..., :3] = rng.integers(0, 256, (4, 2, 256)), (124, 116, 104)
    turn, zoom = rng.uniform(-1, 1, (4, 2)), rng.uniform(0.7, 1.4, (4, 2))
    matrix = zoom * np.cos(turn), np.sin(turn), 7 * turn, -np.sin(turn), zoom * np.cos(turn), 20 - 9 * turn
    ops["matrix"] = np.stack(matrix, -1)
    ops["matrix"][0, 0] = 1, 0, 0, 0, 1, 0
    return ops


def _changed(kind: Kind) -> np.ndarray:
    pixels = np.random.default_rng(7).integers(0, 256, (4, 37, 53, 3), dtype=np.uint8)
    assert apply_pixel_ops(pixels, _operations(kind))
    return pixels


def _jpegs() -> list[Crop]:
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (20, 30, 3), np.uint8)
    picture = cv2.resize(small, (300, 211), interpolation=cv2.INTER_CUBIC)
    samplings = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    files = [cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, each])[1].tobytes() for each in samplings]
    boxes = [(0, 0, 211, 300), (13, 27, 101, 57), (200, 290, 11, 10)]
    return [Crop(data, 211, 300, box, "bicubic", index % 2 == 1) for data in files for index, box in enumerate(boxes)]


def _cropped() -> np.ndarray:
    out = np.zeros((len(_jpegs()), 32, 48, 3), np.uint8)
    assert all(crop_jpegs(_jpegs(), out))
    return out


def test_portable_kernels_give_the_same_bits(request: pytest.FixtureRequest) -> None:
    expected = [*_resized(), *(_changed(kind) for kind in OPS), _cropped()]
    request.getfixturevalue("portable")
    found = [*_resized(), *(_changed(kind) for kind in OPS), _cropped()]
    for index, (one, other) in enumerate(zip(expected, found, strict=True)):
        np.testing.assert_array_equal(one, other, err_msg=str(index))


@pytest.mark.slow
def test_aarch64_gives_the_same_bits(tmp_path: Path) -> None:
    for program, package in ((_COMPILER, "g++-aarch64-linux-gnu"), (_EMULATOR, "qemu-user")):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: {package})")
    library = os.environ.get(LIBJPEG, "")
    sources = [str(build.SOURCES / name) for name in build.PORTABLE_SOURCES]
    flags = [flag for flag in build.PORTABLE_FLAGS if flag not in ("-shared", "-fPIC")]
    flags += ["-static", f"-I{build.SOURCES}", *(["-DWITH_JPEG"] if library else [])]
    driver = tmp_path / "driver"
    own = str(Path(__file__).with_name("portable_driver.cpp"))
    command = [_COMPILER, *flags, own, *sources, *([library] if library else []), "-o", str(driver)]
    subprocess.run(command, check=True, capture_output=True)
    cases, results = tmp_path / "cases", tmp_path / "results"
    cases.write_bytes(b"".join(_cases(with_crops=bool(library))))
    subprocess.run([_EMULATOR, str(driver), str(cases), str(results)], check=True)
    expected = [*_resized(), *(_changed(kind) for kind in OPS), *([_cropped()] if library else [])]
    found = np.frombuffer(results.read_bytes(), np.uint8)
    np.testing.assert_array_equal(found, np.concatenate([one.reshape(-1) for one in expected]))


def _cases(with_crops: bool) -> Iterator[bytes]:
    """What the driver reads, in the order of the results."""
    for pixels, (before, after) in zip(_pictures(), SIZES, strict=True):
        for mode in MODES:
            across, down = pass_weights(before[1], after[1], mode), pass_weights(before[0], after[0], mode)
            numbers = 0, *before, *after, is_vertical_first(before, after), across.taps, down.taps
            yield np.array(numbers, np.int32).tobytes() + pixels.tobytes()
            yield from _weights(across, down)
    for kind in OPS:
        ops = _operations(kind)
        pixels = np.random.default_rng(7).integers(0, 256, (4, 37, 53, 3), dtype=np.uint8)
        yield np.array([1, *pixels.shape[:3], ops.shape[1], ops.nbytes], np.int32).tobytes()
        yield pixels.tobytes() + ops.tobytes()
    for crop in _jpegs() if with_crops else ():
        size = 32, 48
        across, down = (
            pass_weights(old, new, crop.interpolation) for old, new in zip(crop.box[:1:-1], size[::-1], strict=True)
        )
        order = is_vertical_first(crop.box[2:], size)
        numbers = (
            2,
            len(crop.data),
            crop.height,
            crop.width,
            *crop.box,
            *size,
            order,
            crop.is_mirrored,
            across.taps,
            down.taps,
        )
        yield np.array(numbers, np.int32).tobytes() + crop.data
        yield from _weights(across, down)


def _weights(across: resize.Weights, down: resize.Weights) -> Iterator[bytes]:
    for side in (across, down):
        yield side.first.tobytes() + side.weights.tobytes()
