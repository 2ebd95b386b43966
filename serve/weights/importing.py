"""Converts weights of another program to a checkpoint of ours: tensors, classes, evaluation transform, provenance."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from convnext_imagenet.base.files import publish_new, sha256_file
from convnext_imagenet.base.protocol import read_finished
from convnext_imagenet.base.wording import plural
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import ConvNeXtConfig
from convnext_imagenet.model.exchange.class_names import (
    ClassTable,
    named_classes,
    packaged_classes,
    packaged_counts,
    read_classes,
    unnamed_classes,
)
from convnext_imagenet.model.exchange.foreign_network import Stated, read_stated
from convnext_imagenet.model.exchange.foreign_preprocessing import describe_transform, find_transform
from convnext_imagenet.model.exchange.image_projection import Tensors, clip_projection
from convnext_imagenet.model.exchange.import_names import Translation, recognise_scheme, translate
from convnext_imagenet.model.exchange.licences import NOT_STATED, Licence, find_licence
from convnext_imagenet.model.exchange.source_file import SourceFile, read_source
from convnext_imagenet.model.exchange.text_embeddings import read_text_embeddings
from convnext_imagenet.model.exchange.wrappers import named_sets, unwrap
from convnext_imagenet.model.transform import EvalTransform, changed
from convnext_imagenet.model.weight_check import describe
from convnext_imagenet.model.weights import weights_payload
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.settings import TransformOptions

_IN_THE_FILE = "the model card in the file"  # which an export of ours holds; stored in cards
IMAGENET_CLASSES = 1000  # an unnamed classifier of this many outputs is ILSVRC2012's (DECISIONS, 2026-11-26)


@dataclass(frozen=True)
class ImportOptions:
    """What the user chooses for an import; None means what the file holds.

    `scheme` is the program whose names the user expects, `use` "raw" or "ema", `classes` a RECORDS directory or a list
    of classes. `no_head` leaves the classifier out. `zero_shot` is a file of text embeddings, which become the
    classifier of a CLIP network, and `logit_scale` replaces the scale that a file states.
    """

    scheme: str | None = None
    use: str | None = None
    classes: Path | None = None
    fresh_head: bool = False
    no_head: bool = False
    zero_shot: Path | None = None
    logit_scale: float | None = None
    transform: TransformOptions = field(default_factory=TransformOptions)


@dataclass(frozen=True)
class Imported:
    """An imported file: its model card, and lines about the import for the user."""

    card: ModelCard
    lines: tuple[str, ...]


def import_weights(source: Path, out: Path, options: ImportOptions) -> Imported:
    """Read `source`, check that it is one whole ConvNeXt, and write it to `out` as a checkpoint of ours.

    An existing `out` with the same bytes is kept. Raises ServeError or ModelError, and writes nothing, for any other
    existing `out` and for a source, classes or a transform that cannot be used.
    """
    listed = _listed_classes(options)
    file = _with_named_sets(read_source(source))
    tensors, used_weights = file.choose(options.use)
    tensors, wrapper = unwrap(tensors, str(source), used_weights)
    scheme = recognise_scheme(tensors, str(source), options.scheme)
    stated = read_stated(source, scheme) if file.card is None else _stated_by(file.card)
    made = translate(tensors, scheme, str(source), _new_head(listed, options), stated)
    _compare_with_card(made, file.card, source)
    zero_shot: dict[str, Any] = {}
    if options.zero_shot is None:
        classes, named_by = _classes(source, made, listed, stated.labels, options, file.card)
    else:
        made, classes, zero_shot = _with_text_head(
            made, tensors, listed, source, options.zero_shot, options.logit_scale
        )
        named_by = f"{plural(len(classes), 'class')} from {options.zero_shot}"
    stated_transform, reason = _transform(source, made, file.card)
    transform = changed(stated_transform, options.transform.changes())
    if transform != stated_transform:
        reason += ", changed by options"  # stored in the card: other words would be other bytes
    origin = {"file": source.name, "sha256": sha256_file(source), "scheme": scheme.name, "weights": used_weights}
    head = "text embeddings" if zero_shot else "from the file" if classes else "none"
    origin |= {"head": "new" if made.is_head_new else head, "transform": reason} | zero_shot
    licence = _licence(source, made, stated, file.card)
    origin |= {"licence": licence.name, "licence_from": licence.origin, "licence_words": licence.words}
    if not made.config.has_usual_functions:
        origin["functions"] = functions_in_words(made.config)
    card = ModelCard(made.config, classes, transform, {"imported": origin})
    is_new = publish_new(out, weights_payload(out, made.arrays, card))
    lines = [
        f"{source}: {describe(made.config)}, {scheme.title} names, {plural(len(made.arrays), 'tensor')}"
        + (f", {plural(made.ignored, 'other')} ignored" if made.ignored else "")
        + (", the classifier is new" if made.is_head_new else ""),
        *([f"names wrapped by {wrapper!r}"] if wrapper else []),
        *_remarks(made, used_weights, file.holds_both),
        f"functions: {functions_in_words(made.config)}",
        f"classes: {named_by}",
        *([f"zero-shot: {zero_shot['zero_shot']}"] if zero_shot else []),
        f"evaluation transform: {describe_transform(transform)} ({reason})",
        f"licence: {licence.name} ({licence.origin})" + (f". {licence.words}" if licence.words else ""),
        f"{out}: " + ("written" if is_new else "there already with the same bytes"),
    ]
    return Imported(card, tuple(lines))


def _stated_by(card: ModelCard) -> Stated:
    """Return the functions that the model card in an export states."""
    config = card.config
    return Stated(config.norm_epsilon, config.head_norm_epsilon, config.activation)


def _compare_with_card(made: Translation, card: ModelCard | None, source: Path) -> None:
    """Raise ServeError for tensors of another network than the model card in their file states."""
    if card is None:
        return
    found = replace(made.config, num_classes=made.outputs or 0)
    if any(getattr(found, name) != getattr(card.config, name) for name in ("depths", "dims", "grn", "num_classes")):
        raise ServeError(
            f"{source}: its tensors are {describe(found)}, but the model card in its metadata states "
            f"{describe(card.config)}; save it without this metadata, and pass --classes"
        )


def _transform(source: Path, made: Translation, card: ModelCard | None) -> tuple[EvalTransform, str]:
    if card is not None:
        return card.transform, _IN_THE_FILE
    return find_transform(source, made.scheme.name, made.outputs)


def _licence(source: Path, made: Translation, stated: Stated, card: ModelCard | None) -> Licence:
    if card is None:
        return find_licence(source, made.scheme.name, stated.settings or {}, grn=made.config.grn)
    known = card.provenance.get("licences", ())
    names, words = (dict.fromkeys(each[key] for each in known if each[key]) for key in ("licence", "licence_words"))
    return Licence(", ".join(names) or NOT_STATED, _IN_THE_FILE, " ".join(words))


def _with_named_sets(file: SourceFile) -> SourceFile:
    """Return the file with its moving average, if the names of its tensors tell of one."""
    sets = named_sets(file.raw or ())
    if file.ema is not None or "ema" not in sets:
        return file
    return replace(file, raw=file.raw if "raw" in sets else None, ema=file.raw)


def _remarks(made: Translation, used_weights: str, holds_both: bool) -> list[str]:
    lines = []
    if holds_both:
        which, other = ("the moving average", "raw") if used_weights == "ema" else ("the weights as trained", "ema")
        lines.append(f"the file holds two sets of weights: took {which} (--use {other} takes the other set)")
    if made.is_head_new:
        lines.append("the classifier is new and untrained: fine-tune it by `convnext-train run --init-from`")
    lines += made.remarks
    if made.scheme.remark:
        lines.append(made.scheme.remark)
    return lines


def _new_head(listed: ClassTable | None, options: ImportOptions) -> int | None:
    """Return the outputs of a new classifier, 0 for none, None for the file's own."""
    if options.no_head or options.zero_shot is not None:
        return 0
    return len(listed) if listed and options.fresh_head else None


def functions_in_words(config: ConvNeXtConfig) -> str:
    """Return the epsilons and the activation of a network in words."""
    epsilon = f"LayerNorm's epsilon {config.norm_epsilon:g}"
    if config.head_norm_epsilon != config.norm_epsilon:
        epsilon += f", {config.head_norm_epsilon:g} in the last norm"
    return f"{'exact GELU' if config.activation == 'gelu' else 'GELU by tanh'}, {epsilon}"


def _listed_classes(options: ImportOptions) -> ClassTable | None:
    """Return the classes that the user listed, from RECORDS or from a text file."""
    if options.classes is None:
        if options.fresh_head:
            raise ServeError("--fresh-head needs the classes of the new classifier; pass --classes, too")
        return None
    if options.classes.is_dir():
        manifest = Manifest.from_json(read_finished(options.classes, "records"))
        return tuple((entry.wnid, entry.name) for entry in manifest.classes)
    return read_classes(options.classes)


def _with_text_head(
    made: Translation, tensors: Tensors, listed: ClassTable | None, source: Path, path: Path, scale: float | None
) -> tuple[Translation, ClassTable, dict[str, Any]]:
    """Return the network with a head that compares its projected features with text embeddings, as OpenCLIP does.

    Also its classes, and what its card states about them. Raises ModelError for a file without a projection, embeddings
    of another length, and a scale that nothing states.
    """
    texts = read_text_embeddings(path, listed)
    projection = clip_projection(tensors, made.config.dims[-1], str(source))
    classes, width = texts.classes, projection.widths[-1]
    if texts.vectors.shape[1] != width:
        raise ServeError(
            f"{path}: its embeddings have {texts.vectors.shape[1]} values, but {source} projects to {width}; give the "
            f"embeddings of the text tower that belongs to it"
        )
    scales = ((scale, "--logit-scale"), (texts.logit_scale, path.name), (projection.logit_scale, "the weights"))
    found = next(((value, origin) for value, origin in scales if value is not None), None)
    if found is None:
        raise ServeError(
            f"neither {source} nor {path} states the scale of logits; pass --logit-scale, which is 100 for CLIP"
        )
    config = replace(made.config, num_classes=len(classes), head_projection=projection.widths)
    head = {
        "head.weight": (found[0] * texts.vectors).astype(np.float32),
        "head.bias": np.full(len(classes), projection.logit_bias, np.float32),
    }
    prompts = f"{texts.fewest}" if texts.fewest == texts.most else f"{texts.fewest} to {texts.most}"
    words = (
        f"{prompts} {'prompt' if texts.most == 1 else 'prompts'} a class, {width} values; logits are {found[0]:g} (of "
        f"{found[1]}) times the cosine"
    )
    facts = {"zero_shot": words, "text_embeddings": {"file": path.name, "sha256": sha256_file(path)}}
    arrays, ignored = {**made.arrays, **projection.arrays, **head}, made.ignored - projection.taken
    return replace(made, config=config, arrays=arrays, ignored=ignored), classes, facts


def _classes(
    source: Path, made: Translation, listed: ClassTable | None, labels: tuple[str, ...] | None, options: ImportOptions,
    card: ModelCard | None,
) -> tuple[ClassTable, str]:  # fmt: skip
    outputs = made.config.num_classes
    if outputs == 0:
        if listed is not None:
            raise ServeError(
                f"{source}: has no classifier, so {options.classes} names nothing; pass --fresh-head, too, for a new "
                f"one to be fine-tuned, or leave out --classes"
            )
        return (), "none: the network gives features, the pooled values after its last norm"
    if listed is not None:
        if len(listed) != outputs:
            raise ServeError(
                f"{source}: its classifier has {plural(outputs, 'output')}, but {options.classes} lists "
                f"{plural(len(listed), 'class')}; pass a list of {outputs}, or --fresh-head for a new classifier to be "
                f"fine-tuned"
            )
        return listed, f"{outputs} from {options.classes}"
    if card is not None:
        return card.classes, f"{outputs} of {_IN_THE_FILE}"
    if labels is not None:
        return named_classes(str(source), outputs, labels)
    if outputs in (IMAGENET_CLASSES - 1, IMAGENET_CLASSES + 1):
        raise ServeError(
            f"{source}: its classifier has {outputs} outputs, ImageNet {IMAGENET_CLASSES} classes, so nothing tells "
            f"which is which; pass --classes with their list"
        )
    if outputs in packaged_counts():
        title, classes = packaged_classes(outputs)
        return classes, f"the {outputs} of {title}, because the file has {outputs} outputs"
    return unnamed_classes(outputs), f"{outputs} without names; `eval` needs names: pass --classes RECORDS or a list"
