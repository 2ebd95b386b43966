"""The configurations of the audit: every branch of the compiled graphs, as few compilations as possible."""

from collections.abc import Mapping
from dataclasses import dataclass

from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.source import load_config

# A network that compiles in seconds and has every layer, on images that have every augmentation.
_TINY = (
    "model.depths=[1,1,1,1]",
    "model.dims=[32,64,96,128]",
    "data.size_px=64",
    "data.eval_size_px=64",
    "data.global_batch_size=8",
    "data.eval_batch_size=8",
    "optimizer.accumulate_steps=1",
)
_DEVICES = 8
CLASSES = 1000


@dataclass(frozen=True)
class Audited:
    """A preset with its overrides, for a number of devices."""

    preset: str
    overrides: tuple[str, ...]
    devices: int = 1

    @property
    def config(self) -> Config:
        """The configuration."""
        return load_config(self.preset, self.overrides)


def _tiny(preset: str, *overrides: str, devices: int = 1) -> Audited:
    return Audited(preset, (*_TINY, *overrides), devices)


# Two processes take turns with those of one device, so dear ones and cheap ones alternate.
TINY: Mapping[str, Audited] = {
    "seed": _tiny("seed", "data.global_batch_size=16", "optimizer.accumulate_steps=2"),
    "O1 bfloat16, clipped, erased by a constant": _tiny(
        "paper-tiny",
        "precision.level=O1",
        "precision.dtype=bfloat16",
        "optimizer.clip_norm=1.0",
        "augment.erase_mode=const",
    ),
    "paper, RandAugment on the device": _tiny("paper-tiny", "augment.device=all", "optimizer.layer_decay=0.9"),
    "auto float16, dynamic scale, SGD": _tiny(
        "paper-tiny",
        "precision.level=auto",
        "precision.loss_scale=dynamic",
        "optimizer.name=sgd",
        "optimizer.nesterov=true",
        "mix.mode=elem",
    ),
    "O2 bfloat16, LAMB, V2, erased by a colour": _tiny(
        "v2-tiny",
        "precision.level=O2",
        "precision.dtype=bfloat16",
        "optimizer.name=lamb",
        "augment.erase_mode=rand",
    ),
    "O2 bfloat16, Muon": _tiny("medium", "precision.level=O2", "precision.dtype=bfloat16"),
    "O3 float16, static scale, frozen stages": _tiny(
        "finetune",
        "model.variant=convnext_base",
        "precision.level=O3",
        "precision.loss_scale=static",
        "model.frozen_stages=2",
        "ema.decay=0.9",
    ),
    "auto bfloat16, no mix, no erasing": _tiny(
        "nette96", "precision.level=auto", "precision.dtype=bfloat16", "mix.prob=0", "augment.erase_prob=0"
    ),
    "8 devices": _tiny(
        "paper-tiny",
        "data.global_batch_size=64",
        "optimizer.accumulate_steps=2",
        "optimizer.clip_norm=1.0",
        "precision.level=O1",
        "precision.dtype=bfloat16",
        devices=_DEVICES,
    ),
}
# At full size: what people would rent cards for.
FULL: Mapping[str, Audited] = {
    "paper-tiny, 8 devices of 128 rows, O1 bfloat16": Audited(
        "paper-tiny",
        (
            "data.global_batch_size=1024",
            "optimizer.accumulate_steps=1",
            "precision.level=O1",
            "precision.dtype=bfloat16",
        ),
        _DEVICES,
    ),
}
