"""Passes over records by our pipeline or by MindSpore's own operators: CASE RECORDS; a rate for each line of input."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from load_rates import BATCH, CROP_AREAS, CROP_RATIOS, SIZE_PX, WORKERS, answer


def main(case: str, records: str) -> None:
    """Answer each line of standard input with the rate of one pass."""
    from convnext_imagenet.records.reader import Records

    split = Records.open(Path(records)).split("train")
    passes = {"mindspore": _mindspore, "read": _read}
    answer(lambda epoch: passes[case](split) if case in passes else _ours(split, case, epoch))


def _ours(split, policy: str, epoch: int) -> Iterator[int]:
    from convnext_imagenet.train.config.config import config_from_mapping
    from convnext_imagenet.train.config.schedule import plan_steps
    from convnext_imagenet.train.data.pipeline import batches

    augment = {"auto_augment": policy if policy.startswith("rand-") else ""}
    if policy == "bilinear":
        augment["interpolation"] = policy
    config = config_from_mapping({"data": {"global_batch_size": BATCH, "size_px": SIZE_PX}, "augment": augment})
    for batch in batches(split, config, plan_steps(config, split.rows), epoch, WORKERS):
        yield len(batch.pixels)


def _mindspore(split) -> Iterator[int]:
    import mindspore.dataset.vision as vision

    dataset = split.dataset(np.random.default_rng(0).permutation(split.rows), ("image", "label"), WORKERS)
    crop = vision.RandomCropDecodeResize(SIZE_PX, CROP_AREAS, CROP_RATIOS, vision.Inter.LINEAR)
    dataset = dataset.map([crop, vision.RandomHorizontalFlip()], "image", num_parallel_workers=WORKERS)
    for columns in dataset.batch(BATCH, True).create_dict_iterator(num_epochs=1, output_numpy=True):
        yield len(columns["image"])


def _read(split) -> Iterator[int]:
    order = np.random.default_rng(0).permutation(split.rows)
    for _ in split.dataset(order, ("image", "label")).create_tuple_iterator(num_epochs=1, output_numpy=True):
        yield 1


if __name__ == "__main__":
    main(*sys.argv[1:])
