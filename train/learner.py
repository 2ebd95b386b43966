"""Network, optimizer and compiled step of a run, and their whole state as NumPy arrays by name."""

import dataclasses
from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from convnext_imagenet.model.convnext import VARIANTS, ConvNeXtConfig, drop_path_rates, init_parameters
from convnext_imagenet.model.network import Classifier
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import ModelCard, assign_parameters, build_network, read_parameters
from convnext_imagenet.train.config import Config, DataSection, ModelSection, unknown_name
from convnext_imagenet.train.device_augment import DeviceAugment, SoftTargets
from convnext_imagenet.train.draws import drop_path_keep
from convnext_imagenet.train.errors import ConfigError, TrainError
from convnext_imagenet.train.optimizer import AdamW
from convnext_imagenet.train.pipeline import Batch
from convnext_imagenet.train.step import TrainStep


def network_config(section: ModelSection, classes: int) -> ConvNeXtConfig:
    """Return the network that `section` asks for over `classes` classes of the records.

    Raises ConfigError for an unknown variant and for a stated class count that is not the records'.
    """
    if section.variant not in VARIANTS:
        raise ConfigError(f"model.variant: {unknown_name('variant', section.variant, VARIANTS)}")
    if section.num_classes not in (0, classes):
        raise ConfigError(
            f"model.num_classes = {section.num_classes}: the records hold {classes} classes; give other records, "
            f"or pass --set model.num_classes=0 to take their count"
        )
    variant = VARIANTS[section.variant]
    return dataclasses.replace(
        variant,
        depths=section.depths or variant.depths,
        dims=section.dims or variant.dims,
        num_classes=classes,
        drop_path_rate=section.drop_path_rate,
        layer_scale_init=section.layer_scale_init,
        head_init_scale=section.head_init_scale,
    )


def evaluation_transform(section: DataSection) -> EvalTransform:
    """Return the evaluation transform of the configuration; its mean and std serve in training too."""
    return EvalTransform(size_px=section.eval_size_px, crop_pct=section.eval_crop_pct, mode=section.eval_mode)


class Learner:
    """What learns in a run: freshly initialised from the configuration's seed, or restored."""

    def __init__(self, config: Config, card: ModelCard) -> None:
        self.config = config
        self.rates = drop_path_rates(card.config)
        self.network = build_network(card, init_parameters(card.config, config.train.seed))
        self.parameters: dict[str, Parameter] = dict(self.network.parameters_and_names())
        self.optimizer = AdamW(self.parameters, config.optimizer)
        self.step = TrainStep(
            self.network,
            self.parameters,
            DeviceAugment(card.transform.mean, card.transform.std),
            SoftTargets(card.config.num_classes, config.augment.label_smoothing),
            self.optimizer,
        )
        self.classifier: nn.Cell = Classifier(self.network, card.transform)

    def learn(self, batch: Batch, epoch: int, rate: float) -> tuple[Tensor, Tensor]:
        """Run one optimizer step; returns the loss and the count of rows guessed right, perhaps not computed yet."""
        if not self.network.training:  # an evaluation was between; the CPU kernels keep no gradient inputs there
            self.step.set_train(True)
        keep_NB = None
        if any(self.rates):
            keep_NB = Tensor(drop_path_keep(self.config.train.seed, epoch, batch.sample_ids, self.rates))
        return self.step(
            Tensor(batch.pixels),
            Tensor(batch.labels, ms.int32),
            Tensor(batch.flip),
            keep_NB,
            Tensor(rate, ms.float32),
        )

    def weights(self) -> dict[str, np.ndarray]:
        """Return a copy of the weights by Facebook's names."""
        return read_parameters(self.network)

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of all that is not a weight and that the next step depends on."""
        return {name: parameter.asnumpy().copy() for name, parameter in self.optimizer.state().items()}

    def restore(self, weights: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]) -> None:
        """Take the whole of a saved state; raises TrainError when it is not exactly this learner's."""
        own = self.optimizer.state()
        odd = sorted(own.keys() ^ state.keys())
        odd += [name for name in own.keys() & state.keys() if _kind(own[name].asnumpy()) != _kind(state[name])]
        if odd:
            raise TrainError(
                f"the checkpoint's optimizer state does not fit this network ({len(odd)} tensors, first {odd[0]}); "
                f"train into a new directory"
            )
        assign_parameters(self.network, weights)
        for name, parameter in own.items():
            parameter.set_data(Tensor(state[name]))


def _kind(array: np.ndarray) -> tuple[tuple[int, ...], np.dtype]:
    return array.shape, array.dtype
