"""The model card of an export in Markdown: what the file is, how to prepare an image, how to run it, its origin.

It depends only on its arguments, not on times, hosts or folders: equal cards mean equal exports (DECISIONS,
2026-11-26). So other words here make every older export "another export".
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import parameter_count
from convnext_imagenet.model.transform import EvalTransform


@dataclass(frozen=True)
class ExportFacts:
    """Facts about an export: `files` are (name, bytes, SHA-256), the model last; `checkpoint` is (name, SHA-256).

    `interface` lists (what, meaning), for example ("input", "`pixels`, uint8 ..."). `example` is Python that runs the
    file. `training` holds what the RUN states about the checkpoint, such as epoch and top-1; `stored` is the type of
    the parameters.
    """

    title: str
    files: Sequence[tuple[str, int, str]]
    checkpoint: tuple[str, str]
    classes_sha256: str
    interface: Sequence[tuple[str, str]]
    example: str
    training: Mapping[str, Any]
    stored: str = "float32"


def card_markdown(card: ModelCard, facts: ExportFacts) -> str:
    """Return the whole card in Markdown."""
    parts = [
        f"# {card.config.variant}, {facts.title}",
        _table(("", ""), _identity(card, facts)),
        f"## Prepare an image\n{_preparation(card.transform)}",
        f"## Run the model\n```python\n{facts.example}\n```",
        f"## Licence\n{licence_in_words(card)}",
        f"## Origin\n{_origin(card, facts)}",
    ]
    if card.classes:
        rows = [(str(n), *both) for n, both in enumerate(card.classes)]
        parts.append(f"## Classes\n{_table(('index', 'wnid', 'name'), rows)}")
    return "\n\n".join(parts) + "\n"


def licence_in_words(card: ModelCard) -> str:
    """Return the licence of the weights that this card's come from, as far as it is known."""
    licences = [(name, values) for name, values in _licensed(card.provenance, "the weights") if values.get("licence")]
    if not licences:
        return "The checkpoint states none: whoever trained it decides."
    return " ".join(
        f"{name.capitalize()} ({values.get('file', 'a file')}): {values['licence']}, from {values['licence_from']}. "
        f"{values['licence_words']}".rstrip()
        for name, values in licences
    )


def _licensed(value: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each object of a provenance that states a licence: also of what it was made from."""
    if "licence" in value:
        yield name, value
    for key, inner in sorted(value.items()):
        for item in inner if isinstance(inner, list) else [inner]:
            if isinstance(item, Mapping):
                yield from _licensed(item, f"{name}, {key}" if key not in ("imported", "licences") else name)


def _identity(card: ModelCard, facts: ExportFacts) -> list[tuple[str, str]]:
    config = card.config
    files = [("file", f"`{name}`, {size:,} bytes, SHA-256 `{sha256}`") for name, size, sha256 in facts.files]
    return [
        *files,
        ("made from", f"`{facts.checkpoint[0]}`, SHA-256 `{facts.checkpoint[1]}`"),
        ("network", f"ConvNeXt {'V2' if config.grn else 'V1'}, depths {config.depths}, dims {config.dims}"),
        ("parameters", f"{parameter_count(config):,}, {facts.stored}"),
        ("classes", f"{len(card.classes)}, SHA-256 of their list `{facts.classes_sha256}`"),
        *facts.interface,
    ]


def _preparation(transform: EvalTransform) -> str:
    side, how = transform.size_px, f"Pillow's antialiased {transform.interpolation} filter"
    if transform.mode == "squash":
        shape = [f"Resize the whole image to {side} x {side} pixels by {how}, ignoring its proportions."]
    else:
        shape = [
            f"Resize the short side to {transform.resize_px} pixels ({side} / {transform.crop_pct:g}, rounded down) "
            f"and the long side in proportion, rounded down, by {how}.",
            f"Crop the central {side} x {side} pixels.",
        ]
    steps = [
        "Decode to RGB, 8 bits per channel; ignore EXIF rotation.",
        *shape,
        f"Normalise each channel: (value / 255 - mean) / std, mean {_numbers(transform.mean)}, "
        f"std {_numbers(transform.std)}. If the input is uint8 pixels, the file does this itself.",
    ]
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _origin(card: ModelCard, facts: ExportFacts) -> str:
    known = ", ".join(f"{name} {value}" for name, value in facts.training.items() if value is not None)
    metrics = f"From its training run: {known}." if known else "The accuracy of this checkpoint is not known."
    values = "\n".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in _leaves(card.provenance))
    return f"{metrics} The checkpoint states:\n```\n{values}\n```" if values else metrics


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a JSON object with dotted names, sorted."""
    for name, inner in sorted(value.items()):
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
