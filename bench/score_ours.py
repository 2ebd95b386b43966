"""Scores a folder of JPEGs by our job, or runs only its network: CASE CHECKPOINT IMAGES OUT.

CASE is `ours` or `limit`, and may name a precision behind it: "ours bfloat16".

The first pass builds and compiles the network; later passes reuse it.
"""

import functools
import sys
from pathlib import Path

from score_passes import BATCH, SIZE_PX, TOPK, WORKERS, Watch, answer, image_paths


def main(case: str, checkpoint: str, images: str, out: str) -> None:
    """Answer each line of standard input with the rates of one pass; `make` writes CHECKPOINT, with random weights."""
    from convnext_imagenet.model.runtime import prepare

    prepare()
    if case == "make":
        _make(Path(checkpoint))
        return
    what, _, precision = case.partition(" ")
    one_pass = _network_alone if what == "limit" else _job
    answer(one_pass(Path(checkpoint), images, precision or "float32"), Path(out))


def _make(path: Path) -> None:
    from convnext_imagenet.model.card import ModelCard
    from convnext_imagenet.model.convnext import VARIANTS, init_parameters
    from convnext_imagenet.model.transform import EvalTransform
    from convnext_imagenet.model.weights import save_weights

    config = VARIANTS["convnext_tiny"]
    classes = tuple((f"n{index:08d}", f"class {index}") for index in range(1000))
    save_weights(path, init_parameters(config, 0), ModelCard(config, classes, EvalTransform(), {}))


def _network_alone(checkpoint: Path, images: str, precision: str):
    import mindspore as ms
    import numpy as np

    from convnext_imagenet.serve.checkpoint import load_checkpoint

    classifier = load_checkpoint(checkpoint).classifier(precision=precision)
    pixels_NHWC = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE_PX, SIZE_PX, 3), np.uint8)
    batch_NHWC, count = ms.Tensor(pixels_NHWC), len(image_paths(images))

    def one_pass(_: Path, watch: Watch) -> int:
        watch.start()
        for _first in range(0, count, BATCH):
            classifier(batch_NHWC).asnumpy()
        watch.stop()
        return -(-count // BATCH) * BATCH

    return one_pass


def _job(checkpoint: Path, images: str, precision: str):
    from convnext_imagenet.serve.checkpoint import Checkpoint, load_checkpoint
    from convnext_imagenet.serve.inputs.kinds import open_inputs
    from convnext_imagenet.serve.predict.job import open_job
    from convnext_imagenet.serve.settings import PredictOptions

    class Kept(Checkpoint):
        """A checkpoint whose network outlives a job."""

        classifier = functools.cache(Checkpoint.classifier)
        __hash__ = object.__hash__

    loaded = load_checkpoint(checkpoint)
    kept = Kept(loaded.path, loaded.sha256, loaded.card, loaded.arrays)
    options = PredictOptions(topk=TOPK, batch_size=BATCH, workers=WORKERS, precision=precision)

    def one_pass(target: Path, watch: Watch) -> int:
        watch.start()
        with open_job(kept, open_inputs(images, []), target, options) as job:
            summary = job.run(lambda _: None)
        watch.stop()
        if summary.error_rows:
            raise RuntimeError(f"{images}: {summary.error_rows} error rows")
        return summary.rows

    return one_pass


if __name__ == "__main__":
    main(*sys.argv[1:])
