"""Passes over class folders by loaders of PyTorch, as their own documentation shows them: CASE TREE.

Runs where torch, torchvision, timm and OpenCV are installed. Each yields uint8 batches of 64 at 224 px, with two worker
processes; a rate for each line of input.
"""

import sys
import types

from load_rates import BATCH, CROP_AREAS, CROP_RATIOS, SIZE_PX, WORKERS, answer

# What torchvision declares for detection fails where its build and torch's are of different kinds; unused here.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("unused")


def _opencv_transform(path):
    import cv2
    import numpy as np
    import torch
    from torchvision.transforms import RandomResizedCrop

    cv2.setNumThreads(1)
    pixels = cv2.imread(path, cv2.IMREAD_COLOR_RGB)
    height, width = pixels.shape[:2]
    top, left, h, w = RandomResizedCrop.get_params(torch.empty(3, height, width), list(CROP_AREAS), list(CROP_RATIOS))
    crop = cv2.resize(pixels[top : top + h, left : left + w], (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_LINEAR)
    if torch.rand(1) < 0.5:
        crop = crop[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray(crop))


def _pillow_loader(transform):
    from PIL import Image

    def load(path):
        with Image.open(path) as image:
            return transform(image.convert("RGB"))

    return load


def _loader(case):
    if case == "opencv":
        return _opencv_transform
    from torchvision import transforms

    if case == "torchvision":
        steps = [
            transforms.RandomResizedCrop(SIZE_PX, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
        return _pillow_loader(transforms.Compose(steps))
    from timm.data.transforms_factory import transforms_imagenet_train

    policy = None if case == "timm" else case
    return _pillow_loader(
        transforms_imagenet_train(
            SIZE_PX, interpolation="bicubic", color_jitter=None, auto_augment=policy, use_prefetcher=True, re_prob=0.0
        )
    )


def main(case, tree):
    """Answer each line of standard input with the rate of one pass."""
    import torch
    from torchvision.datasets import ImageFolder

    data = ImageFolder(tree, loader=_loader(case))
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, drop_last=True)
    answer(lambda _: (len(pixels) for pixels, _ in loader))


if __name__ == "__main__":
    main(*sys.argv[1:])
