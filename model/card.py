"""The model card: what the numbers of a weights file mean, stored as JSON in the file's own metadata."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from convnext_imagenet.base.wording import plural
from convnext_imagenet.model.convnext import ConvNeXtConfig
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.variants import EPSILON

# Fields that only networks of other programs set: left out at their usual values, as in cards before they existed.
_USUAL = {"norm_epsilon": EPSILON, "head_norm_epsilon": EPSILON, "activation": "gelu", "head_projection": ()}


@dataclass(frozen=True)
class ModelCard:
    """The network, its classes (wnid, name) by index, its evaluation transform, and the origin of the weights.

    `provenance` holds JSON values. Raises ModelError unless there is one class for each output.
    """

    config: ConvNeXtConfig
    classes: tuple[tuple[str, str], ...]
    transform: EvalTransform
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.classes) != self.config.num_classes:
            raise ModelError(
                f"the model card names {plural(len(self.classes), 'class')}, its network has "
                f"{plural(self.config.num_classes, 'output')}; give one (wnid, name) for each output"
            )


def inherited_licence(card: ModelCard) -> dict[str, Any]:
    """Return what a network made from this one must state about licences: {} when nothing is known.

    The value of "licences" lists each licence with the file that it came from.
    """
    known = [*card.provenance.get("licences", ())]
    imported = card.provenance.get("imported", {})
    if imported.get("licence", "not stated") != "not stated":
        known.append({name: imported[name] for name in ("file", "licence", "licence_from", "licence_words")})
    return {"licences": known} if known else {}


def exported_card(card: ModelCard) -> ModelCard:
    """Return what a file for another program states of a network: all but how it was trained."""
    return replace(card, provenance=inherited_licence(card))


def card_to_json(card: ModelCard) -> str:
    """Return the card as canonical JSON: equal cards give equal text."""
    value = asdict(card)
    value["config"] = {name: held for name, held in value["config"].items() if _USUAL.get(name) != held}
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def card_from_json(text: str) -> ModelCard:
    """Return the card that `card_to_json` wrote. Raises ModelError, which names what is missing or unknown."""
    try:
        value = json.loads(text)
        config, transform = dict(value["config"]), dict(value["transform"])
        for name in ("depths", "dims", "head_projection"):
            if name in config:
                config[name] = tuple(config[name])
        for name in ("mean", "std"):
            transform[name] = tuple(transform[name])
        return ModelCard(
            config=ConvNeXtConfig(**config),
            classes=tuple((str(wnid), str(name)) for wnid, name in value["classes"]),
            transform=EvalTransform(**transform),
            provenance=dict(value["provenance"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the model card cannot be read ({type(error).__name__}: {error})") from error
