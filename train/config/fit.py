"""Whether a configuration fits what it is to run on: the records, the number of devices, their kind.

Every way out that one of these faults names fits the ways out of all the others. This module must not know MindSpore.
"""

from dataclasses import dataclass

from convnext_imagenet.base.host import processor_flags
from convnext_imagenet.launch.devices import is_first_generation
from convnext_imagenet.model.variants import VARIANTS
from convnext_imagenet.train.config.config import Config, contradictions
from convnext_imagenet.train.config.faults import Fault, fault, join_faults, refuse
from convnext_imagenet.train.config.schedule import batch_faults
from convnext_imagenet.train.config.sections import ModelSection, PrecisionSection
from convnext_imagenet.train.config.unknown import unknown_name

_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})  # what our CPU kernels need for products in bfloat16


@dataclass(frozen=True)
class RunFacts:
    """What a run meets: devices, training rows and classes, None where not known; device target and chip, or ""."""

    devices: int | None = None
    rows: int | None = None
    classes: int | None = None
    target: str = ""
    chip: str = ""


def fit_faults(config: Config, facts: RunFacts) -> list[Fault]:
    """Return why a run of `config` would be refused: keys that contradict each other, or the facts."""
    batch = [] if facts.devices is None else batch_faults(config, facts.devices, facts.rows)
    device = device_faults(config.precision, facts.target, facts.chip)
    return [*join_faults([*batch, *device], contradictions(config)), *model_faults(config.model, facts.classes)]


def check_fit(config: Config, facts: RunFacts) -> None:
    """Raise one ConfigError that names every fault of `fit_faults`."""
    refuse(fit_faults(config, facts))


def model_faults(section: ModelSection, classes: int | None) -> list[Fault]:
    """Return the faults of an unknown variant, and of a class count that is not the records' `classes`."""
    faults = []
    if section.variant and section.variant not in VARIANTS:  # an empty one is refused by its own rule
        faults.append(fault(f"model.variant: {unknown_name('variant', section.variant, VARIANTS)}", "model.variant"))
    if classes is not None and section.num_classes not in (0, classes):
        text = (
            f"model.num_classes = {section.num_classes}: the records hold {classes} classes; use other records, "
            f"or pass --set model.num_classes=0 to use their count"
        )
        faults.append(fault(text, "model.num_classes"))
    return faults


def device_faults(section: PrecisionSection, device_target: str, chip: str = "") -> list[Fault]:
    """Return the faults of a precision that the device cannot compute; `chip` is its name, "" if unknown."""
    faults = []
    if section.loss_scale != "none" and is_first_generation(chip):
        text = (
            f'precision.loss_scale = "{section.loss_scale}": {chip} turns an overflow into its largest number, so no '
            f"step would be found to overflow; pass --set precision.loss_scale=none --set precision.level=O0, or use "
            f"an Atlas A2 or later"
        )
        faults.append(fault(text, "precision.loss_scale"))
    if section.level != "O0" and section.dtype == "bfloat16" and device_target == "CPU":
        faults += _cpu_bfloat16_faults(section)
    return faults


def _cpu_bfloat16_faults(section: PrecisionSection) -> list[Fault]:
    scale = "" if section.loss_scale == "none" else " --set precision.loss_scale=none"
    if not processor_flags() & _BFLOAT16_FLAGS:
        text = (
            'precision.dtype = "bfloat16": this processor has neither AMX nor AVX512-BF16; use another one, a GPU or '
            f"Ascend, or pass --set precision.dtype=float16 or --set precision.level=O0{scale}"
        )
        return [fault(text, "precision.dtype", "precision.level")]
    if section.level == "O1":
        return []
    text = (
        f'precision.level = "{section.level}": on the CPU only matrix products compute in bfloat16; pass --set '
        f"precision.level=O1, or --set precision.level=O0{scale}"
    )
    return [fault(text, "precision.level", "precision.dtype")]
