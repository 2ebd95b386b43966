"""Write scikit-learn's handwritten digits as class folders: `python demo/own_digits.py OUT`.

OUT/zero/0000.png and so on: a set of images without a split, as people have them. Every run writes equal bytes.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SIDE_PX = 32


def write_digits(out: Path) -> int:
    """Write the 1,797 digits of 8 x 8 values, enlarged to 32 px, as PNG; return their number."""
    digits = load_digits()
    for number, (ink, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        pixels = np.round(ink * (255 / 16)).astype(np.uint8)
        path = out / NAMES[label] / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC).save(path)
    return len(digits.images)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    print(f"{target}: {write_digits(target)} images in {len(NAMES)} class folders")
