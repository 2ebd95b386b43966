"""The keys of a configuration by section: defaults and rules.

A setting that changes numbers is a key here; paths and workers are options of the command line. The defaults are those
of the ConvNeXt paper (arXiv 2201.03545, table 5, and facebookresearch/ConvNeXt), so a TOML file states only what
differs.
"""

from dataclasses import dataclass
from typing import Any, Literal

from convnext_imagenet.records.folds import is_copies_file, parse_fold
from convnext_imagenet.train.config.policy import parse_policy
from convnext_imagenet.train.config.rules import (
    added_later,
    at_least,
    choice,
    fraction,
    interval,
    is_interval,
    key,
    outside_plan,
    positive,
    probability,
    ratios,
)
from convnext_imagenet.train.errors import ConfigError

_MOST_BLOCKS, _MOST_CHANNELS = 1000, 100_000  # of a stage; the largest variant has 27 and 2,816
_NONE_OR_PAIR = "must be 0 (a device's whole share of the batch) or at least 2: rows go in pairs"
_COPIES_OR_NONE = 'must be "" for none, or the path of a file copies-DIGEST.csv that an audit wrote'
_FOLD_OR_NONE = 'must be "" for none, or "K/N" with 1 <= K <= N and N >= 2, the K-th of N folds of train'
_POLICY = (
    'must be "" for none, or "rand-mM-mstdS-nN-incI" with a magnitude M and its deviation S, N operations, I 0 or 1'
)


def _four_or_none(most: int) -> Any:
    return key(
        (),
        f"must be [] for the variant's own, or four whole numbers in 1..{most}",
        lambda v: v == () or (len(v) == 4 and min(v) >= 1 and max(v) <= most),
    )


def _beta_parameter(default: float) -> Any:
    # Above 1000 all draws are 0.5 within a few percent; above 1e307 NumPy's are 0, so nothing would be mixed.
    return key(default, "must be in [0, 1000]", lambda v: 0 <= v <= 1000)


def _is_policy(value: str) -> bool:
    try:
        return not value or parse_policy(value) is not None
    except ConfigError:
        return False


@dataclass(frozen=True)
class ModelSection:
    """The network. `depths` and `dims` replace those of the variant; `num_classes = 0` uses the records' class count.

    A variant of "" takes the network of the weights that training starts from; a run's own configuration names it.
    The stem and the first `frozen_stages` stages, with the down-samplers between them, keep the weights of
    `--init-from`.
    """

    # `network_config` checks the name
    variant: str = key("convnext_tiny", 'must name a variant, or "" for that of the weights', lambda v: True)
    depths: tuple[int, ...] = _four_or_none(_MOST_BLOCKS)
    dims: tuple[int, ...] = _four_or_none(_MOST_CHANNELS)
    num_classes: int = key(0, "must be 0 (as many as the records hold) or at least 2", lambda v: v == 0 or v >= 2)
    drop_path_rate: float = fraction(0.1)
    layer_scale_init: float = positive(1e-6)
    head_init_scale: float = positive(1.0)
    frozen_stages: int = key(0, "must be in 0..4: the network has four stages", lambda v: 0 <= v <= 4)


@dataclass(frozen=True)
class DataSection:
    """Sizes and order of the images that the network sees; `global_batch_size` counts the rows of one optimizer step.

    `device_batch_size` is the most rows that a device computes at a time; it takes a larger share of the batch as
    micro-batches (`schedule.divide_batch`). It bounds the memory of a step, and no random draw depends on it.

    `eval_size_px = 0` evaluates at `size_px`; a configuration that was read holds the size itself.

    With `shuffle_block_rows` above 0, an epoch shuffles blocks of that many neighbouring rows, then the rows within
    windows of 64 blocks. Use it on disks with slow random reads.

    `balance_power` draws classes more evenly: a class of n rows gets a share of the epoch proportional to
    n ** (1 - power), so 1 makes all equal. `class_weight_power` instead weights the loss of a class by n ** -power.

    `leave_out = "2/5"` trains without the second of five folds of train, so that a network that has not seen an image
    can judge its label. The fold of an image follows from its bytes alone; `copies`, a file that an audit wrote, lets
    images that are copies of each other share one.
    """

    size_px: int = at_least(224, 32)
    global_batch_size: int = at_least(4096, 1)
    device_batch_size: int = outside_plan(key(0, _NONE_OR_PAIR, lambda v: v == 0 or v >= 2))
    shuffle_block_rows: int = at_least(0, 0)
    balance_power: float = added_later(probability(0.0), neutral=0.0)
    leave_out: str = added_later(key("", _FOLD_OR_NONE, lambda v: not v or parse_fold(v) is not None), neutral="")
    copies: str = added_later(key("", _COPIES_OR_NONE, lambda v: not v or is_copies_file(v)), neutral="")
    class_weight_power: float = added_later(probability(0.0), neutral=0.0)
    eval_size_px: int = key(0, "must be 0 (as data.size_px) or at least 32", lambda v: v == 0 or v >= 32)
    eval_crop_pct: float = key(0.875, "must be in (0, 1]", lambda v: 0 < v <= 1)
    eval_mode: Literal["crop", "squash"] = choice("crop")
    eval_batch_size: int = outside_plan(at_least(64, 1))

    def __post_init__(self) -> None:
        """Let evaluation follow the training size, unless the configuration states one."""
        object.__setattr__(self, "eval_size_px", self.eval_size_px or self.size_px)


@dataclass(frozen=True)
class AugmentSection:
    """Augmentation of single training images: RandomResizedCrop, flip, RandAugment, erasing.

    `device = "all"` computes RandAugment in the compiled graph, "rest" on the host; all later augmentations are in the
    graph in both cases. `erase_scale` is the share of the image that all its boxes together cover, `erase_ratio` is
    height / width of a box.
    """

    crop_scale: tuple[float, ...] = interval((0.08, 1.0))
    crop_ratio: tuple[float, ...] = ratios((0.75, 4 / 3), of="width / height")
    interpolation: Literal["bicubic", "bilinear", "lanczos", "random"] = choice("bicubic")
    flip_prob: float = probability(0.5)
    auto_augment: str = key("rand-m9-mstd0.5-inc1", _POLICY, _is_policy)
    device: Literal["rest", "all"] = choice("rest")
    erase_prob: float = probability(0.25)
    erase_mode: Literal["const", "rand", "pixel"] = choice("pixel")
    erase_count: int = key(1, "must be in 1..100", lambda v: 1 <= v <= 100)
    erase_scale: tuple[float, ...] = interval((0.02, 1 / 3))
    erase_ratio: tuple[float, ...] = ratios((0.3, 10 / 3), of="height / width")

    @property
    def is_on_host(self) -> bool:
        """Return whether the host does RandAugment, and therefore also the flip before it."""
        return bool(self.auto_augment) and self.device != "all"


@dataclass(frozen=True)
class MixSection:
    """Augmentation of pairs of training images and their targets: mixup, cutmix, label smoothing.

    Row i of a global batch of G rows mixes with row G - 1 - i. An alpha of 0 switches mixup or cutmix off; if both are
    on, `switch_prob` is the probability of cutmix. `mode` says whether a draw is for the batch, a pair or a row.
    `cutmix_minmax` replaces cutmix's Beta draw with sides uniform in [low, high] of the image's side.
    """

    mixup_alpha: float = _beta_parameter(0.8)
    cutmix_alpha: float = _beta_parameter(1.0)
    cutmix_minmax: tuple[float, ...] = key(
        (), "must be [] for none, or [low, high] with 0 < low <= high <= 1", lambda v: v == () or is_interval(v)
    )
    prob: float = probability(1.0)
    switch_prob: float = probability(0.5)
    mode: Literal["batch", "pair", "elem"] = choice("batch")
    label_smoothing: float = fraction(0.1)

    @property
    def has_cutmix(self) -> bool:
        """Return whether cutmix can be drawn."""
        return self.cutmix_alpha > 0 or bool(self.cutmix_minmax)

    @property
    def is_on(self) -> bool:
        """Return whether any pair can be mixed."""
        return self.prob > 0 and (self.mixup_alpha > 0 or self.has_cutmix)


@dataclass(frozen=True)
class OptimizerSection:
    """One optimizer step: its rule, gradient clipping and layer-wise learning rates.

    `accumulate_steps` states the number of micro-batches of a device for any number of devices, as configurations did
    before `data.device_batch_size`; 0 derives it.

    "adamw_uncorrected" is MindSpore's AdamWeightDecay, without bias correction. `momentum` and `nesterov` are for "sgd"
    and for "muon", whose usual momentum is 0.95. `clip_norm = 0` does not clip.
    `layer_decay` below 1 gives layers nearer the stem lower learning rates, by ConvNeXt's "twelve" groups or by
    "blocks".
    """

    name: Literal["adamw", "adamw_uncorrected", "sgd", "lamb", "muon"] = choice("adamw")
    beta1: float = fraction(0.9)
    beta2: float = fraction(0.999)
    eps: float = positive(1e-8)
    momentum: float = fraction(0.9)
    nesterov: bool = key(False, "must be true or false", lambda v: True)
    weight_decay: float = at_least(0.05, 0)
    clip_norm: float = at_least(0.0, 0)
    layer_decay: float = key(1.0, "must be in (0, 1]", lambda v: 0 < v <= 1)
    layer_groups: Literal["twelve", "blocks"] = choice("twelve")
    accumulate_steps: int = outside_plan(at_least(0, 0))


@dataclass(frozen=True)
class ScheduleSection:
    """The learning rate of each optimizer step: linear from `warmup_lr` to `base_lr`, then as `kind` says.

    "cosine" falls to `min_lr` at the end. "step" multiplies the rate by `decay_rate` every `decay_epochs`, but never
    goes below `min_lr`. "constant" stays at `base_lr`.
    """

    kind: Literal["cosine", "step", "constant"] = choice("cosine")
    base_lr: float = positive(4e-3)
    warmup_lr: float = at_least(0.0, 0)
    min_lr: float = at_least(1e-6, 0)
    warmup_epochs: float = at_least(20.0, 0)
    decay_epochs: float = positive(30.0)
    decay_rate: float = key(0.1, "must be in (0, 1]", lambda v: 0 < v <= 1)


@dataclass(frozen=True)
class EmaSection:
    """A moving average of the weights, updated after each optimizer step; `decay = 0` keeps none.

    With `warmup` the decay at step t is at most (1 + t) / (10 + t), so that a short run's average forgets the initial
    weights.
    """

    decay: float = fraction(0.0)
    warmup: bool = key(False, "must be true or false", lambda v: True)


@dataclass(frozen=True)
class PrecisionSection:
    """Mixed precision: O0 is float32, O1 lowers matrix products and convolutions, O2 and O3 lower all but the norms.

    On the CPU, bfloat16 is for O1 only: our kernels compute it. On Ascend O1 is O2, because GELU and residual are
    single operators there, which round their result once. "auto" follows the lists of MindSpore's amp. LayerNorm and
    GRN compute in float32 at every level. The loss scale "static" stays at `scale_init`; "dynamic" is divided by
    `scale_factor` after an overflow, and multiplied by it after `scale_window` steps without one.
    """

    level: Literal["O0", "O1", "O2", "O3", "auto"] = choice("O0")
    dtype: Literal["float16", "bfloat16"] = choice("float16")
    loss_scale: Literal["none", "static", "dynamic"] = choice("none")
    scale_init: float = at_least(2.0**24, 1)  # MindSpore's default, and the MindSpore example's
    scale_factor: float = key(2.0, "must be greater than 1", lambda v: v > 1)
    scale_window: int = at_least(2000, 1)


@dataclass(frozen=True)
class TrainSection:
    """The length of the run, its seed, how often it evaluates, and which checkpoints it keeps.

    `best_by` says which number of val decides the best checkpoint: top-1, or the lowest mean cross entropy; among
    equals the other one. With `patience_epochs` above 0 the run ends when it has not become better for so many epochs.
    """

    epochs: int = at_least(300, 1)
    seed: int = key(0, "must be in [0, 2**63)", lambda v: 0 <= v < 2**63)
    eval_every_epochs: int = outside_plan(at_least(1, 1))
    keep_checkpoints: int = outside_plan(
        key(3, "must be 0 (keep all) or at least 1: that many of the latest", lambda v: v >= 0)
    )
    keep_best: int = outside_plan(at_least(1, 1))
    best_by: Literal["top1", "loss"] = outside_plan(choice("top1"))
    patience_epochs: int = outside_plan(at_least(0, 0))
