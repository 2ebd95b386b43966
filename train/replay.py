"""Replays what the network saw of one sample in one epoch, from only the configuration and the records."""

from dataclasses import dataclass

import numpy as np
from mindspore import Tensor

from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.row_lookup import find_key
from convnext_imagenet.train.augment.device import DeviceAugment, DeviceDraws, device_draws, graph_draws
from convnext_imagenet.train.augment.host import training_pixels
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.schedule import StepPlan, plan_steps
from convnext_imagenet.train.data.order import draw_ids, training_order, training_rows
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.step.parameters import evaluation_transform


@dataclass(frozen=True)
class ReplayedSample:
    """One sample as it entered the network: uint8 pixels (S, S, 3), rounded, and the shares of its target.

    `step` counts the epoch's optimizer steps from 1. `shares` holds (key, weight in the target), the sample itself
    first.
    """

    pixels: np.ndarray
    step: int
    shares: tuple[tuple[str, float], ...]


def replay_sample(config: Config, records: Records, key: str, epoch: int) -> ReplayedSample:
    """Return what the network saw of the training sample `key` in `epoch`, which counts from 1.

    Raises ArtefactError for an unknown key. Raises TrainError for a row of val, for an epoch that the run does not
    have, and for a row that the epoch drops because its last batch is incomplete.
    """
    split, row = find_key(records, key)
    if split != "train":
        raise TrainError(f"{key}: is in split {split!r}, but training uses only train; choose a key of train")
    if not 1 <= epoch <= config.train.epochs:
        raise TrainError(f"--epoch {epoch}: the run has only epochs 1 to {config.train.epochs}; choose one of them")
    plan = plan_steps(config, len(training_rows(records.split("train"), config)))
    order = training_order(records.split("train"), config, epoch)
    step, index, pair = _pair_of(order.rows, row, plan, key, epoch)
    rows = list(records.split("train").read(order.rows[pair], ("image", "sample_id", "key")))
    sample_ids = draw_ids(np.array([row["sample_id"] for row in rows]), order.occurrences[pair])
    size_px = config.data.size_px
    draws = device_draws(config, epoch, step, sample_ids, drop_path_rates=())  # drop path changes no pixel
    pixels = np.empty((len(rows), size_px, size_px, 3), np.uint8)
    training_pixels([row["image"] for row in rows], config, epoch, sample_ids, pixels)
    seen = _through_the_graph(config, pixels, draws)[index]
    lam = 1.0 if draws.mix_lam is None else float(draws.mix_lam[index])
    own, partner = rows[index]["key"], rows[-1 - index]["key"]
    shares = ((own, lam),) if lam == 1.0 else ((own, lam), (partner, 1.0 - lam))
    return ReplayedSample(seen, step + 1, shares)


def _pair_of(order: np.ndarray, row: int, plan: StepPlan, key: str, epoch: int) -> tuple[int, int, np.ndarray]:
    """Return the row's step, its index (0 or 1) in the pair with its partner, and the pair's positions in the order.

    If a row comes several times, this is the first time.
    """
    batch, positions = plan.global_batch_size, np.flatnonzero(order == row)
    if not len(positions):
        raise TrainError(
            f"{key}: epoch {epoch} leaves this image out (data.balance_power or data.leave_out); try another epoch or "
            f"another key"
        )
    step, position = divmod(int(positions[0]), batch)
    if step >= plan.steps_per_epoch:
        raise TrainError(
            f"{key}: epoch {epoch} skips this image, which falls into its last, incomplete batch; try another epoch"
        )
    first, last = sorted((position, batch - 1 - position))
    return step, int(position == last and first != last), step * batch + np.array([first, last])


def _through_the_graph(config: Config, pixels_NHWC: np.ndarray, draws: DeviceDraws) -> np.ndarray:
    transform: EvalTransform = evaluation_transform(config.data)
    augment = DeviceAugment(config.augment, transform, config.train.seed)
    x_NHWC = augment(Tensor(pixels_NHWC), graph_draws(draws)).asnumpy()
    return np.clip(np.rint((x_NHWC * transform.std + transform.mean) * 255.0), 0, 255).astype(np.uint8)
