"""`make bench PART=train`: ConvNeXt-T's complete training step at 224 px, and the share of augmentation in the graph.

All cases take turns in one process. BENCH_BATCH sets the batch size (32), BENCH_ROUNDS the number of rounds (5).
`percent_of_step` is the time of a case as a percentage of the step with the recipe.
"""

import os
from dataclasses import replace

import mindspore as ms
import numpy as np
from harness import Case, interleaved_rates, report
from mindspore import Tensor, nn

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import VARIANTS, drop_path_rates, init_parameters
from convnext_imagenet.model.runtime import prepare
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.train.augment.device import DeviceAugment, DeviceDraws, device_draws, graph_draws
from convnext_imagenet.train.augment.mix import SoftTargets
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.source import load_config
from convnext_imagenet.train.data.pipeline import Batch
from convnext_imagenet.train.step.learner import Learner

BATCH = int(os.environ.get("BENCH_BATCH", "32"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
CLASSES = 1000
PLAIN = ("augment.auto_augment=", "augment.flip_prob=0.0", "augment.erase_prob=0.0", "mix.prob=0.0")
IN_GRAPH = ("augment.device=all",)


class AugmentAndTargets(nn.Cell):
    """The part of a step before the network, as a separate graph."""

    def __init__(self, config: Config, card: ModelCard) -> None:
        super().__init__(auto_prefix=False)
        self.augment = DeviceAugment(config.augment, card.transform, config.train.seed)
        self.targets = SoftTargets(CLASSES, config.mix.label_smoothing)

    def construct(self, pixels_NHWC: Tensor, labels_N: Tensor, draws: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.augment(pixels_NHWC, draws), self.targets(labels_N, lam_N=draws.get("mix_lam"))


def main() -> None:
    """Time the steps and the cells, and report each relative to the step with the recipe."""
    prepare()
    recipe, plain, in_graph = _config(), _config(*PLAIN), _config(*IN_GRAPH)
    cases = [
        _step("step, recipe", recipe),
        _step("step, no augmentation", plain),
        _cell("augmentation in the graph, recipe", recipe),
        _cell("augmentation in the graph, RandAugment too", in_graph),
        Case("draws on the host, recipe", BATCH, lambda: _draws(recipe), {}),
    ]
    rates = interleaved_rates(cases, ROUNDS)
    rows = [
        {
            "what": case.what,
            "batch": BATCH,
            "images_per_s": round(rate, 2),
            "percent_of_step": round(100 * rates[0] / rate, 2),
        }
        for case, rate in zip(cases, rates, strict=True)
    ]
    report("train", rows)


def _config(*overrides: str) -> Config:
    return load_config("paper-tiny", (f"data.global_batch_size={BATCH}", *overrides))


def _card(config: Config) -> ModelCard:
    network = replace(VARIANTS["convnext_tiny"], drop_path_rate=config.model.drop_path_rate)
    return ModelCard(network, tuple((f"n{k:08d}", str(k)) for k in range(CLASSES)), EvalTransform(), {})


def _batch(config: Config) -> Batch:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (BATCH, config.data.size_px, config.data.size_px, 3), np.uint8)
    return Batch(pixels, rng.integers(0, CLASSES, BATCH), np.arange(BATCH), _draws(config))


def _draws(config: Config) -> DeviceDraws:
    return device_draws(config, 1, 0, np.arange(BATCH), drop_path_rates(_card(config).config))


def _step(what: str, config: Config) -> Case:
    card = _card(config)
    learner = Learner(config, card, init_parameters(card.config, 0))
    batch = _batch(config)
    return Case(what, BATCH, lambda: learner.learn([batch], 1e-4, 1.0).asnumpy(), {})


def _cell(what: str, config: Config) -> Case:
    cell = AugmentAndTargets(config, _card(config))
    batch = _batch(config)
    draws = graph_draws(batch.draws)
    pixels, labels = Tensor(batch.pixels), Tensor(batch.labels, ms.int32)

    def run() -> None:
        for result in cell(pixels, labels, draws):
            result.asnumpy()

    return Case(what, BATCH, run, {})
