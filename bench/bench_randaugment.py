"""`make bench PART=randaugment`: what each of RandAugment's operations costs an image of 224 px, ours beside Pillow.

In the graph every layer does all three stages to the whole batch, whatever was drawn, so there the stages are timed:
the whole cell over a batch of 32 with one layer, and its parts.
"""

import numpy as np
from harness import Case, interleaved_rates, report
from PIL import Image, ImageEnhance, ImageOps

from convnext_imagenet.model.runtime import prepare
from convnext_imagenet.train.augment.randaugment import Op
from convnext_imagenet.train.augment.randaugment_host import FILL_RGB, affine_matrix, augment_images

SIZE_PX, BATCH, IMAGES, ROUNDS = 224, 32, 16, 5
ARGUMENTS = {Op.ROTATE: 27.0, Op.POSTERIZE: 1.0, Op.SOLARIZE: 26.0, Op.SOLARIZE_ADD: 99.0}
ARGUMENTS |= dict.fromkeys((Op.COLOR, Op.CONTRAST, Op.BRIGHTNESS, Op.SHARPNESS), 1.81)
ARGUMENTS |= dict.fromkeys((Op.SHEAR_X, Op.SHEAR_Y), 0.27) | dict.fromkeys((Op.TRANSLATE_X, Op.TRANSLATE_Y), 0.405)
ENHANCERS = {
    Op.COLOR: ImageEnhance.Color,
    Op.CONTRAST: ImageEnhance.Contrast,
    Op.BRIGHTNESS: ImageEnhance.Brightness,
    Op.SHARPNESS: ImageEnhance.Sharpness,
}
PLAIN = {Op.AUTO_CONTRAST: ImageOps.autocontrast, Op.EQUALIZE: ImageOps.equalize, Op.INVERT: ImageOps.invert}


def main() -> None:
    """Time every operation on the host, then the stages of the graph."""
    images = _images()
    ops = [op for op in Op if op != Op.NONE]
    cases = [_ours(images, op) for op in ops] + [_pillow(images, op) for op in ops]
    rates = interleaved_rates(cases, ROUNDS)
    half = len(ops)
    rows = [
        {"what": op.name.lower(), "ours_ms": 1e3 / rates[at], "pillow_ms": 1e3 / rates[half + at]}
        for at, op in enumerate(ops)
    ]
    report("randaugment", [*rows, *_graph_rows(images)])


def _images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)) for _ in range(IMAGES)]
    return [np.asarray(each.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)) for each in coarse]


def _ours(images: list[np.ndarray], op: Op) -> Case:
    pixels, drawn = np.stack(images), [((op, ARGUMENTS.get(op, 0.0)),)] * IMAGES
    return Case(op.name, IMAGES, lambda: augment_images(pixels, drawn), {})


def _pillow(images: list[np.ndarray], op: Op) -> Case:
    opened = [Image.fromarray(image) for image in images]
    return Case(op.name, IMAGES, lambda: [_by_pillow(image, op) for image in opened], {})


def _by_pillow(image: Image.Image, op: Op) -> Image.Image:
    argument = ARGUMENTS.get(op, 0.0)
    if op in ENHANCERS:
        return ENHANCERS[op](image).enhance(argument)
    if op in PLAIN:
        return PLAIN[op](image)
    if op == Op.POSTERIZE:
        return ImageOps.posterize(image, int(argument))
    if op == Op.SOLARIZE:
        return ImageOps.solarize(image, int(argument))
    if op == Op.SOLARIZE_ADD:
        return image.point([min(255, level + 99) if level < 128 else level for level in range(256)] * 3)
    matrix = affine_matrix(op, argument, SIZE_PX, SIZE_PX)
    bicubic = Image.Resampling.BICUBIC
    return image.transform(image.size, Image.Transform.AFFINE, matrix, bicubic, fillcolor=FILL_RGB)


def _graph_rows(images: list[np.ndarray]) -> list[dict[str, object]]:
    prepare()
    from mindspore import Tensor, float32

    from convnext_imagenet.train.augment.randaugment_device import DeviceRandAugment

    cell = DeviceRandAugment()
    batch = np.stack([images[n % IMAGES] for n in range(BATCH)])
    ops = Tensor(np.full((BATCH, 1), int(Op.EQUALIZE), np.int32)), Tensor(np.zeros((BATCH, 1), np.float32))
    flat = tuple(each.reshape(-1) for each in ops)
    whole, pixels = Tensor(batch), Tensor(batch, float32)
    stages = {
        "graph: one layer": lambda: cell(whole, *ops).asnumpy(),
        "graph: affine stage": lambda: cell.affine(pixels, *flat).asnumpy(),
        "graph: blend stage": lambda: cell.blend(pixels, *flat).asnumpy(),
        "graph: level stage": lambda: cell.levels(pixels, *flat).asnumpy(),
    }
    rates = interleaved_rates([Case(what, BATCH, run, {}) for what, run in stages.items()], ROUNDS)
    return [{"what": what, "ours_ms": 1e3 / rate} for what, rate in zip(stages, rates, strict=True)]
