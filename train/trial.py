"""One tiny training step on the real device, through the same graph as a run, and one sum over all ranks."""

import math

import numpy as np

from convnext_imagenet.launch.ranks import Ranks
from convnext_imagenet.model.convnext import init_parameters
from convnext_imagenet.model.weights import ModelCard
from convnext_imagenet.train.config import config_from_mapping
from convnext_imagenet.train.device_draws import device_draws
from convnext_imagenet.train.doctor import ERROR, OK, Finding
from convnext_imagenet.train.learner import Learner, outcome
from convnext_imagenet.train.networks import evaluation_transform, network_config
from convnext_imagenet.train.pipeline import Batch
from convnext_imagenet.train.plan import local_positions

_CLASSES, _SIZE_PX, _ROWS_A_RANK = 4, 32, 4
_MODEL = {"variant": "convnext_atto", "depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "drop_path_rate": 0.0}
_BLAME = "see the lines above, and MindSpore's installation guide for this device"


def try_sum(ranks: Ranks) -> Finding:
    """Add up the ranks' numbers, 0 + 1 + 2 + ..., by one all-reduce."""
    count = ranks.place.ranks
    if count == 1:
        return Finding(OK, "all-reduce", "not needed by one rank")
    found, expected = int(ranks.sum(np.array(ranks.place.rank))), count * (count - 1) // 2
    level = OK if found == expected else ERROR
    return Finding(level, "all-reduce", f"{found} over {count} ranks, expected {expected}", _BLAME)


def try_step(ranks: Ranks) -> Finding:
    """Train a network of four tiny blocks for one step on random images; its loss must be near ln(classes)."""
    config = config_from_mapping({"model": _MODEL, "data": {"size_px": _SIZE_PX, "eval_size_px": _SIZE_PX}})
    network = network_config(config.model, _CLASSES)
    classes = tuple((f"n{index:08d}", f"class {index}") for index in range(_CLASSES))
    card = ModelCard(network, classes, evaluation_transform(config.data))
    learner = Learner(config, card, init_parameters(network, config.train.seed), ranks.place.ranks)
    ids = local_positions(_ROWS_A_RANK * ranks.place.ranks, ranks.place.rank, ranks.place.ranks)
    pixels = np.random.default_rng(0).integers(0, 256, (_ROWS_A_RANK, _SIZE_PX, _SIZE_PX, 3), dtype=np.uint8)
    draws = device_draws(config, 1, 0, ids, learner.drop_path_rates)
    batch = Batch(pixels, (ids % _CLASSES).astype(np.int32), ids, draws)
    found = outcome(learner.learn([batch], rate=1e-3, decay=0.0))
    chance = math.log(_CLASSES)
    is_sane = math.isfinite(found.gradient_norm) and abs(found.loss - chance) < 0.1 * chance
    text = f"loss {found.loss:.4f}, ln({_CLASSES}) = {chance:.4f}, gradient norm {found.gradient_norm:.3g}"
    return Finding(OK if is_sane else ERROR, "training step", text, _BLAME)
