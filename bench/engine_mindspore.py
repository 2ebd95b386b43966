"""ConvNeXt-T in MindSpore as a process of its own: `ours`, `ours-bfloat16` (CPU kernels) or `mindspore` (its own
operators).

Reads lines `forward 8` or `train 8` and answers with seconds; `memory 0` gives the peak in MiB.
"""

import functools
import os
import resource
import sys
import time
from dataclasses import replace

import numpy as np
from mindspore import Tensor, nn

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import VARIANTS, init_parameters
from convnext_imagenet.model.runtime import prepare
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import build_inference_network
from convnext_imagenet.train.augment.device import device_draws
from convnext_imagenet.train.config.config import config_from_mapping
from convnext_imagenet.train.data.pipeline import Batch
from convnext_imagenet.train.step.learner import Learner

CONFIG = replace(VARIANTS["convnext_tiny"], drop_path_rate=0.0)
CARD = ModelCard(CONFIG, tuple((f"n{k:08d}", str(k)) for k in range(1000)), EvalTransform(), {})
IS_LOW = sys.argv[1].endswith("bfloat16")
TRAINING = config_from_mapping(  # draws only flips
    {
        "model": {"drop_path_rate": 0.0},
        "augment": {"erase_prob": 0.0, "auto_augment": ""},
        "mix": {"prob": 0.0},
        "precision": {"level": "O1", "dtype": "bfloat16"} if IS_LOW else {},
    }
)


class Answers:
    """The compiled forward pass and the full training step, made when first asked for: memory is its own."""

    def __init__(self) -> None:
        self.compiled: set[int] = set()

    @functools.cached_property
    def frozen(self) -> nn.Cell:
        network = build_inference_network(CARD, init_parameters(CONFIG, 0), "bfloat16" if IS_LOW else "float32")
        network.set_train(False)
        return network

    @functools.cached_property
    def learner(self) -> Learner:
        return Learner(TRAINING, CARD, init_parameters(CONFIG, 0))

    def forward(self, batch: int) -> float:
        pixels = np.random.default_rng(0).standard_normal((batch, 224, 224, 3), np.float32)
        network = self.frozen
        begin = time.perf_counter()
        network(Tensor(pixels)).asnumpy()
        return time.perf_counter() - begin

    def train(self, batch: int) -> float:
        """Flip and normalise, forward, gradients, AdamW."""
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (batch, 224, 224, 3), np.uint8)
        draws = device_draws(TRAINING, 1, 0, np.arange(batch), ())
        rows = Batch(pixels, rng.integers(0, 1000, batch), np.arange(batch), draws)
        if batch not in self.compiled:
            self.learner.compile([rows])
            self.compiled.add(batch)
        begin = time.perf_counter()
        self.learner.learn([rows], 1e-4, 1.0).asnumpy()
        return time.perf_counter() - begin


def main() -> None:
    """Answer until standard input ends."""
    if sys.argv[1] == "mindspore":
        os.environ["CONVNEXT_KERNELS"] = "off"
    prepare()
    answers = Answers()
    for line in sys.stdin:
        what, batch = line.split()
        if what == "memory":
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
            continue
        print(getattr(answers, what)(int(batch)), flush=True)


if __name__ == "__main__":
    main()
