"""Records to ready uint8 batches: the host's part of the input, decode + crop + resize, once per pixel.

Threads decode and resize (both release the interpreter lock); the device does the rest. What a batch holds depends
on (seed, epoch, step) alone, never on the number of workers, so any step of any epoch is a place to resume from.
RandAugment on the host joins in `training_pixels`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from convnext_imagenet.records.images import BadImage, decode_rgb
from convnext_imagenet.records.order import epoch_order
from convnext_imagenet.records.reading import Split
from convnext_imagenet.train.config import Config
from convnext_imagenet.train.draws import crop_box, flips
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.plan import StepPlan


@dataclass(frozen=True)
class Batch:
    """One global batch: uint8 pixels (N, S, S, 3), int32 labels, int64 sample ids, and whether to mirror each."""

    pixels: np.ndarray
    labels: np.ndarray
    sample_ids: np.ndarray
    flip: np.ndarray


def batches(
    split: Split, config: Config, plan: StepPlan, epoch: int, workers: int, first_step: int = 0
) -> Iterator[Batch]:
    """Yield the batches of `epoch` from its step `first_step` on; `workers` is at most the core count.

    Raises TrainError for a row that does not decode.
    """
    size, seed = plan.global_batch_size, config.train.seed
    order = epoch_order(plan.rows, seed, epoch)[first_step * size : plan.steps_per_epoch * size]
    failures: list[str] = []

    def prepare(image: np.ndarray, sample_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            return training_pixels(image.tobytes(), config, epoch, int(sample_id)), sample_id
        except BadImage as error:
            failures.append(f"sample_id {int(sample_id)}: {error}")
            raise

    dataset = split.dataset(order, ("image", "label", "sample_id"), workers)
    dataset = dataset.map([prepare], ["image", "sample_id"], ["pixels", "sample_id"], num_parallel_workers=workers)
    dataset = dataset.batch(size, drop_remainder=True)
    try:
        for columns in dataset.create_dict_iterator(num_epochs=1, output_numpy=True):
            sample_ids_N = columns["sample_id"].reshape(-1)
            flip_N = flips(seed, epoch, sample_ids_N, config.augment.flip_prob)
            yield Batch(columns["pixels"], columns["label"].reshape(-1), sample_ids_N, flip_N)
    except RuntimeError:
        if not failures:
            raise
        raise TrainError(
            f"{split.folder}: an image does not decode ({failures[0]}); "
            f"run `convnext-records verify {split.folder.parent}`, then build the records again"
        ) from None


def training_pixels(image: bytes, config: Config, epoch: int, sample_id: int) -> np.ndarray:
    """Return one sample's random crop as uint8 (S, S, 3); raises BadImage.

    The crop is cut out before Pillow's antialiased bicubic resize, so no pixel outside of the box takes part, as
    in torchvision. OpenCV's resize is faster and does not antialias: 13 gray levels off on photographs.
    """
    pixels_HWC = decode_rgb(image)
    height, width, _ = pixels_HWC.shape
    augment, size_px = config.augment, config.data.size_px
    top, left, crop_height, crop_width = crop_box(
        config.train.seed, epoch, sample_id, height, width, augment.crop_scale, augment.crop_ratio
    )
    # Contiguous, since Pillow takes 1.5 ms to copy a strided slice and holds the interpreter lock meanwhile.
    crop_HWC = np.ascontiguousarray(pixels_HWC[top : top + crop_height, left : left + crop_width])
    resized = Image.fromarray(crop_HWC).resize((size_px, size_px), Image.Resampling.BICUBIC)
    return np.asarray(resized)
