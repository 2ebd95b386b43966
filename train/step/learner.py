"""The networks, optimizer and compiled step of a run, and their complete state as NumPy arrays by name."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from convnext_imagenet.base.host import release_free_memory
from convnext_imagenet.launch.devices import joined_tensors
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.network import Classifier
from convnext_imagenet.model.weights import assign_parameters, build_network, device_layers
from convnext_imagenet.train.augment.device import DeviceAugment, device_draws, drawn_names, drawn_tensors
from convnext_imagenet.train.augment.mix import SoftTargets
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.data.pipeline import Batch
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.step.class_weights import class_weights
from convnext_imagenet.train.step.parameters import set_train, trained_drop_path_rates, training_network, without_frozen
from convnext_imagenet.train.step.precision import lower_precision, lowered_parameters
from convnext_imagenet.train.step.step import AccumulateStep, AllReduce, Gradients, TrainStep, UseSums
from convnext_imagenet.train.step.update import Update, make_buckets


class StepOutcome(NamedTuple):
    """The report of an optimizer step: mean loss, number of rows whose best class is their own label, gradient norm.

    `taken` is False if the step was skipped because its gradients overflowed at `loss_scale`. `asked_stop` and
    `asked_save` are true if any rank had asked for it when the step began. All ranks read the same values.
    """

    loss: float
    correct: float
    gradient_norm: float
    taken: bool
    loss_scale: float
    asked_stop: bool = False
    asked_save: bool = False


class Learner:
    """The learning part of a run: starts from `initial` weights or a restored state, and works with the other ranks.

    Evaluation has its own network, in float32 and exactly as `convnext-serve` builds it, which takes the weights or
    their average on demand (DECISIONS, 2026-11-24). `rows_per_class` counts the training rows, for class weights.
    """

    def __init__(
        self,
        config: Config,
        card: ModelCard,
        initial: Mapping[str, np.ndarray],
        ranks: int = 1,
        micro_batches: int = 1,
        rows_per_class: Sequence[int] = (),
    ) -> None:
        self.config = config
        frozen = config.model.frozen_stages
        self.drop_path_rates = trained_drop_path_rates(card.config, frozen)
        self.network = training_network(config, card, initial)
        # Named now: mixed precision wraps cells, and then the network gives their parameters other names.
        self.everything: dict[str, Parameter] = dict(self.network.parameters_and_names())
        self.parameters = without_frozen(self.everything, frozen)
        self.augment = DeviceAugment(config.augment, card.transform, config.train.seed)
        layers, joined = device_layers(), joined_tensors(ms.get_context("device_target"))
        lowered = lowered_parameters(self.network, self.parameters, config.precision, layers)
        buckets = make_buckets(self.parameters, config, card.config.depths, joined or 1, lowered)
        self.update = Update(buckets, config, card.config.depths, joined)
        self._draw_names = drawn_names(device_draws(config, 1, 0, np.arange(2), self.drop_path_rates))
        power = config.data.class_weight_power
        weights = class_weights(rows_per_class or [1] * card.config.num_classes, power) if power else None
        gradients = Gradients(
            lower_precision(self.network, config.precision, layers),
            self.parameters,
            self.augment,
            SoftTargets(card.config.num_classes, config.mix.label_smoothing, weights),
            self._draw_names,
        )
        self.micro_batches = micro_batches
        allreduce = AllReduce(ranks)
        self.step: nn.Cell = TrainStep(gradients, allreduce, self.update)
        if self.micro_batches > 1:
            self.accumulate = AccumulateStep(gradients, allreduce, self.update).set_train(True)
            self.step = UseSums(self.accumulate, allreduce, self.update, self.micro_batches)
        self.step.set_train(True)
        set_train(self.network)
        self._evaluated = build_network(card, initial)
        self.classifier: nn.Cell = Classifier(self._evaluated, card.transform)

    def compile(self, batches: Sequence[Batch]) -> None:
        """Compile the graphs of `learn` for micro-batches of these shapes, and take no step."""
        numbers, tensors = _numbers(0.0, 0.0, False, False), self._tensors(batches[0])
        if self.micro_batches > 1:
            self.accumulate.compile(*tensors)
            tensors = ()
        self.step.compile(*numbers, *tensors)
        release_free_memory()  # what the compiler needed: some 260 MB for ConvNeXt-T

    def learn(
        self, batches: Iterable[Batch], rate: float, decay: float, ask_stop: bool = False, ask_save: bool = False
    ) -> Tensor:
        """Start one optimizer step over its micro-batches; `read_outcome` waits for the returned tensor.

        If the iterator of `batches` raises, no step is taken, but sums of the first ones remain: only `restore` or the
        end of the process may follow.
        """
        numbers = _numbers(rate, decay, ask_stop, ask_save)
        if self.micro_batches == 1:
            (batch,) = batches
            return self.step(*numbers, *self._tensors(batch))
        for batch in batches:
            self.accumulate(*self._tensors(batch))
        return self.step(*numbers)

    def weights(self) -> dict[str, np.ndarray]:
        """Return a copy of the weights by Facebook's names, float32."""
        buckets = self.update.buckets
        learned = buckets.arrays(buckets.buffers)
        return {name: learned[name] if name in learned else _copy(p) for name, p in self.everything.items()}

    def average(self) -> dict[str, np.ndarray]:
        """Return a copy of the weights' moving average by the same names; empty if none is kept.

        A frozen weight equals its average.
        """
        average = self.update.average()
        frozen = self.everything.keys() - self.parameters.keys()
        return {name: _copy(self.everything[name]) for name in frozen} | average if average else {}

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of everything that the next step depends on besides the weights and their average."""
        return self.update.state()

    def show_to_evaluation(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Load these weights into `classifier`, the network for evaluation."""
        assign_parameters(self._evaluated, arrays)

    def restore(
        self, weights: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray], average: Mapping[str, np.ndarray]
    ) -> None:
        """Load a complete saved state. Raises TrainError when names, shapes or types differ from this learner's."""
        for own, saved in ((self.weights(), weights), (self.state(), state), (self.average(), average)):
            _check_fit(own, saved)
        buckets = self.update.buckets
        buckets.fill(buckets.buffers, weights)
        buckets.refresh()
        for name in self.everything.keys() - self.parameters.keys():
            self.everything[name].set_data(Tensor(weights[name]))
        self.update.restore(state, average)

    def _tensors(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the graph's inputs. Raises ValueError for other draws than the configuration's: names go by order."""
        if drawn_names(batch.draws) != self._draw_names:
            raise ValueError(f"draws {drawn_names(batch.draws)}: the step was compiled for {self._draw_names}")
        return Tensor(batch.pixels), Tensor(batch.labels, ms.int32), *drawn_tensors(batch.draws)


def read_outcome(running: Tensor) -> StepOutcome:
    """Wait for a step and return its outcome."""
    loss, correct, _, stop, save, norm, taken, scale = running.asnumpy().tolist()
    return StepOutcome(loss, correct, norm, taken > 0, scale, stop > 0, save > 0)


def _copy(parameter: Parameter) -> np.ndarray:
    return parameter.asnumpy().copy()


def _numbers(rate: float, decay: float, ask_stop: bool, ask_save: bool) -> tuple[Tensor, Tensor, Tensor]:
    asked = np.array([ask_stop, ask_save], np.float32)
    return Tensor(rate, ms.float32), Tensor(decay, ms.float32), Tensor(asked)


def _check_fit(own: Mapping[str, np.ndarray], saved: Mapping[str, np.ndarray]) -> None:
    odd = sorted(own.keys() ^ saved.keys())
    odd += [name for name in own.keys() & saved.keys() if _kind(own[name]) != _kind(saved[name])]
    if odd:
        raise TrainError(
            f"the checkpoint's weights or optimizer state do not fit this network ({len(odd)} tensors, "
            f"first {odd[0]}); train into a new directory"
        )


def _kind(array: np.ndarray) -> tuple[tuple[int, ...], np.dtype]:
    return array.shape, array.dtype
