"""ConvNeXt-T in MindSpore as a process of its own: `ours` (CPU kernels) or `mindspore` (its own operators).

Reads lines `forward 8` or `train 8` and answers with seconds; `memory 0` gives the peak in MiB.
"""

import functools
import os
import resource
import sys
import time
from dataclasses import replace

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from convnext_imagenet.model.convnext import VARIANTS, init_parameters
from convnext_imagenet.model.runtime import prepare
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import ModelCard, build_network
from convnext_imagenet.train.config import OptimizerSection
from convnext_imagenet.train.device_augment import DeviceAugment, SoftTargets
from convnext_imagenet.train.optimizer import AdamW
from convnext_imagenet.train.step import TrainStep

CONFIG = replace(VARIANTS["convnext_tiny"], drop_path_rate=0.0)
CARD = ModelCard(CONFIG, tuple((f"n{k:08d}", str(k)) for k in range(1000)), EvalTransform(), {})


class Answers:
    """The compiled forward pass and the full training step, made when first asked for: memory is its own."""

    @functools.cached_property
    def frozen(self) -> nn.Cell:
        network = build_network(CARD, init_parameters(CONFIG, 0))
        network.set_train(False)
        return network

    @functools.cached_property
    def step(self) -> nn.Cell:
        network = build_network(CARD, init_parameters(CONFIG, 0))
        parameters = dict(network.parameters_and_names())
        augment, targets = DeviceAugment(CARD.transform.mean, CARD.transform.std), SoftTargets(1000, 0.1)
        step = TrainStep(network, parameters, augment, targets, AdamW(parameters, OptimizerSection()))
        step.set_train(True)
        return step

    def forward(self, batch: int) -> None:
        pixels = np.random.default_rng(0).standard_normal((batch, 224, 224, 3), np.float32)
        self.frozen(Tensor(pixels)).asnumpy()

    def train(self, batch: int) -> None:
        """Augment, forward, gradients, AdamW."""
        rng = np.random.default_rng(0)
        pixels = Tensor(rng.integers(0, 256, (batch, 224, 224, 3), np.uint8))
        labels, flip = Tensor(rng.integers(0, 1000, batch), ms.int32), Tensor(np.zeros(batch, bool))
        loss, _ = self.step(pixels, labels, flip, None, Tensor(1e-4, ms.float32))
        ops.depend(loss, loss).asnumpy()


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
        begin = time.perf_counter()
        getattr(answers, what)(int(batch))
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()
