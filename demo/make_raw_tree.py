"""Make a raw tree of real images in the exact layout of ILSVRC2012: `python demo/make_raw_tree.py OUT`.

The images are scikit-learn's handwritten digits, enlarged and coloured. OUT/train, OUT/val and the devkit look like an
ImageNet download, even in its meta.mat, whose ILSVRC2012_ID order is not the order of the wnids. train contains four
unusual files. OUT/score is a folder to predict, with one file that is not an image. Every run writes equal bytes.
"""

import argparse
import gzip
import hashlib
import io
import json
import shutil
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WNIDS = tuple(f"n9000000{digit}" for digit in range(10))
ILSVRC_IDS = tuple((7 * digit + 3) % 10 + 1 for digit in range(10))  # not in the order of the wnids, as in ImageNet
VAL_IMAGES = 397  # of 1,797 digits, so that 1,400 are left for train
SCORE_IMAGES = 24
TREE_VERSION = 1  # raise when the tree changes, so that an old one is not taken for a new one
_MARK = "demo-tree.json"
_DEVKIT = "ILSVRC2012_devkit_t12"
_SEED = 2012
_MAT_TEXT = b"MATLAB 5.0 MAT-file, made for the demo of convnext_imagenet".ljust(116)  # SciPy's has the time of day
_NO_IMAGE = b"<!DOCTYPE html><title>404</title>a page that was saved under the name of an image\n"
_SYNSET_FIELDS = (
    "ILSVRC2012_ID",
    "WNID",
    "words",
    "gloss",
    "num_children",
    "children",
    "wordnet_height",
    "num_train_images",
)


@dataclass(frozen=True)
class Digit:
    """One handwritten digit: its number in scikit-learn's set, its class 0..9, 8 x 8 ink values 0..16."""

    number: int
    label: int
    ink: np.ndarray


def make_raw_tree(out: Path) -> bool:
    """Make the tree at `out`, whole or not at all, and return True; return False when it already exists.

    Raises FileExistsError when `out` contains anything else, ImportError without scikit-learn.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        _refuse_unless_ours(out)
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for path, data in tree_files(*split_digits(load_digits())):
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        (partial / path).write_bytes(data)
    mark = {"made_by": "demo/make_raw_tree.py", "version": TREE_VERSION, "listing": _listing(partial)}
    (partial / _MARK).write_text(json.dumps(mark, indent=1) + "\n")
    partial.replace(out)
    return True


def load_digits() -> list[Digit]:
    """Return all 1,797 digits of scikit-learn's set, which the package contains."""
    from sklearn import datasets

    loaded = datasets.load_digits()
    pairs = zip(loaded.images, loaded.target.tolist(), strict=True)
    return [Digit(number, label, ink) for number, (ink, label) in enumerate(pairs)]


def split_digits(digits: list[Digit]) -> tuple[list[Digit], list[Digit]]:
    """Return the digits of train by number, and of val in a random order that is always the same."""
    order = np.random.Generator(np.random.Philox(_SEED)).permutation(len(digits)).tolist()
    val = [digits[number] for number in order[:VAL_IMAGES]]
    return [digits[number] for number in sorted(order[VAL_IMAGES:])], val


def tree_files(train: list[Digit], val: list[Digit]) -> Iterator[tuple[str, bytes]]:
    """Yield path and bytes of each file of the tree."""
    seen: set[int] = set()
    for digit in train:
        wnid, is_first = WNIDS[digit.label], digit.label not in seen
        seen.add(digit.label)
        data = odd_bytes(digit) if is_first else jpeg_bytes(picture(digit))
        yield f"train/{wnid}/{wnid}_{digit.number}.JPEG", data
    for number, digit in enumerate(val, start=1):
        data = jpeg_bytes(picture(digit))
        yield f"val/ILSVRC2012_val_{number:08d}.JPEG", data
        if number <= SCORE_IMAGES:
            yield f"score/{NAMES[digit.label]}-{number:02d}.JPEG", data
    yield "score/no-image.JPEG", _NO_IMAGE
    labels = [digit.label for digit in train]
    yield f"{_DEVKIT}.tar.gz", devkit_bytes([labels.count(label) for label in range(10)], [d.label for d in val])


def picture(digit: Digit) -> Image.Image:
    """Return the digit with sides of 56 to 72 px, light on dark; its number decides size and colours."""
    rng = np.random.Generator(np.random.Philox([_SEED, digit.number]))
    size_px = tuple(rng.integers(56, 73, size=2).tolist())
    paper, ink = rng.integers(0, 80, size=3), rng.integers(160, 256, size=3)
    gray = Image.fromarray(np.uint8(np.round(digit.ink * (255 / 16))))
    share_HW1 = np.asarray(gray.resize(size_px, Image.Resampling.BICUBIC), np.float64)[..., None] / 255
    return Image.fromarray(np.uint8(np.round(paper + (ink - paper) * share_HW1)))


def jpeg_bytes(image: Image.Image) -> bytes:
    """Return the image as a JPEG of quality 95."""
    return _encoded(image, "JPEG", quality=95)


def odd_bytes(digit: Digit) -> bytes:
    """Return the digit as an unusual file of the kinds in real ImageNet, by its class; most are plain JPEGs."""
    image = picture(digit)
    match NAMES[digit.label]:
        case "one":
            return jpeg_bytes(image.convert("CMYK"))
        case "two":
            return jpeg_bytes(image.convert("L"))
        case "three":
            return _encoded(image, "PNG")
        case "four":
            whole = jpeg_bytes(image)
            return whole[: len(whole) * 2 // 3]
        case _:
            return jpeg_bytes(image)


def devkit_bytes(train_counts: list[int], val_labels: list[int]) -> bytes:
    """Return the devkit's tar.gz: meta.mat, and one ILSVRC2012_ID for each val image by number."""
    members = {
        f"{_DEVKIT}/data/meta.mat": meta_bytes(train_counts),
        f"{_DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt": "".join(
            f"{ILSVRC_IDS[label]}\n" for label in val_labels
        ).encode(),
        f"{_DEVKIT}/readme.txt": b"Ten handwritten digits in the shape of the ILSVRC2012 development kit.\n",
    }
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), mtime=0)


def meta_bytes(train_counts: list[int]) -> bytes:
    """Return a meta.mat with ten leaves by ILSVRC2012_ID and, after them, three ancestors."""
    leaves: list[tuple[Any, ...]] = sorted(
        (ILSVRC_IDS[d], WNIDS[d], NAMES[d], f"the handwritten digit {d}", 0, [], 0, train_counts[d]) for d in range(10)
    )
    even, odd = (sorted(ILSVRC_IDS[d] for d in range(first, 10, 2)) for first in (0, 1))
    ancestors = [
        (11, "n90000011", "digit", "one of the ten digits", 2, [12, 13], 2, 0),
        (12, "n90000012", "even digit", "a digit that two divides", len(even), even, 1, 0),
        (13, "n90000013", "odd digit", "a digit that two does not divide", len(odd), odd, 1, 0),
    ]
    synsets = np.empty((len(leaves) + len(ancestors), 1), dtype=[(name, object) for name in _SYNSET_FIELDS])
    for row, values in enumerate([*leaves, *ancestors]):
        synsets[row, 0] = tuple(np.array(value) if isinstance(value, list) else value for value in values)
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": synsets}, do_compression=True)
    return _MAT_TEXT + buffer.getvalue()[len(_MAT_TEXT) :]


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _listing(root: Path) -> str:
    """Return the SHA-256 of path and size of each file below `root`, without the mark."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path != root / _MARK)
    text = "".join(f"{path.relative_to(root)} {path.stat().st_size}\n" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_unless_ours(out: Path) -> None:
    if not (out / _MARK).is_file():
        raise FileExistsError(f"{out}: not empty and not a demo tree; choose another folder")
    try:
        mark = json.loads((out / _MARK).read_bytes())
        is_whole = mark["version"] == TREE_VERSION and mark["listing"] == _listing(out)
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise FileExistsError(
            f"{out}: a demo tree of another version, or changed since it was made; delete it and run this again"
        )


def main() -> None:
    """Make the tree, and print what it contains."""
    parser = argparse.ArgumentParser(description="Make a raw tree of digits in the layout of ILSVRC2012.")
    parser.add_argument("out", type=Path, help="folder to create")
    out = parser.parse_args().out
    try:
        is_new = make_raw_tree(out)
    except ImportError as error:
        sys.exit(
            f"Error: the demo needs scikit-learn ({error}); install it with: pip install 'convnext_imagenet[demo]'"
        )
    except OSError as error:
        sys.exit(f"Error: {error}")
    train = sum(1 for _ in (out / "train").glob("*/*"))
    print(
        f"{out}: {'created' if is_new else 'exists already'}, {train:,} train and {VAL_IMAGES} val images\n"
        f"  unusual in train: a CMYK and a gray JPEG, a PNG named .JPEG, a truncated JPEG"
    )


if __name__ == "__main__":
    main()
