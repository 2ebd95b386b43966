"""Copies of images of eight kinds, as people make them; Pillow makes all of them. Also used by the tests."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Pixels = Image.Image


def encode(image: Pixels, quality: int = 90) -> bytes:
    """Return the image as JPEG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _resized(image: Pixels, rng: np.random.Generator) -> bytes:
    scale = rng.uniform(0.5, 2.0)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return encode(image.resize((size[0], size[1]), Image.Resampling.BICUBIC))


def _cropped(image: Pixels, rng: np.random.Generator) -> bytes:
    width, height = (round(side * 0.9) for side in image.size)
    left, top = (int(rng.integers(0, side - part + 1)) for side, part in zip(image.size, (width, height), strict=True))
    return encode(image.crop((left, top, left + width, top + height)))


def _lit(image: Pixels, rng: np.random.Generator) -> bytes:
    brighter = ImageEnhance.Brightness(image).enhance(rng.uniform(0.7, 1.3))
    return encode(ImageEnhance.Contrast(brighter).enhance(rng.uniform(0.7, 1.3)))


def _bordered(image: Pixels, rng: np.random.Generator) -> bytes:
    level = int(rng.choice([0, 128, 255]))
    return encode(ImageOps.expand(image, round(image.width * rng.uniform(0.03, 0.12)), (level, level, level)))


def _marked(image: Pixels, rng: np.random.Generator) -> bytes:
    """Return the image with a black or white box in a corner, 3.6 % of the area."""
    marked, (width, height) = image.copy(), (round(image.width * 0.3), round(image.height * 0.12))
    left, top = int(rng.choice([2, image.width - width - 2])), int(rng.choice([2, image.height - height - 2]))
    level = int(rng.choice([0, 255]))
    marked.paste((level, level, level), (left, top, left + width, top + height))
    return encode(marked)


KINDS: dict[str, Callable[[Pixels, np.random.Generator], bytes]] = {
    "re-encoded": lambda image, rng: encode(image, int(rng.integers(50, 96))),
    "resized": _resized,
    "cropped": _cropped,
    "mirrored": lambda image, rng: encode(ImageOps.mirror(image)),
    "gray": lambda image, rng: encode(image.convert("L")),
    "brightness": _lit,
    "bordered": _bordered,
    "watermark": _marked,
}
