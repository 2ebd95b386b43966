"""Weights of another program become a checkpoint of ours: their tensors, classes, evaluation transform, provenance."""

from dataclasses import dataclass, field
from pathlib import Path

from convnext_imagenet.base.files import publish_new, sha256_file
from convnext_imagenet.base.protocol import read_finished
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.exchange.class_names import ClassTable, imagenet_classes, read_classes, unnamed_classes
from convnext_imagenet.model.exchange.foreign_preprocessing import describe_transform, find_transform
from convnext_imagenet.model.exchange.import_names import Translation, recognise_scheme, translate
from convnext_imagenet.model.exchange.source_file import read_source
from convnext_imagenet.model.transform import changed
from convnext_imagenet.model.weight_check import describe
from convnext_imagenet.model.weights import weights_payload
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.settings import TransformOptions

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class ImportOptions:
    """What the user decides about an import; None leaves it to the file.

    `scheme` is whose names the user expects, `use` "raw" or "ema", `classes` a RECORDS directory or a list of classes.
    """

    scheme: str | None = None
    use: str | None = None
    classes: Path | None = None
    fresh_head: bool = False
    transform: TransformOptions = field(default_factory=TransformOptions)


@dataclass(frozen=True)
class Imported:
    """What was made of a file: its card, and lines about it for the user."""

    card: ModelCard
    lines: tuple[str, ...]


def import_weights(source: Path, out: Path, options: ImportOptions) -> Imported:
    """Read `source`, check that it is one whole ConvNeXt, and write it to `out` as a checkpoint of ours.

    An existing `out` stays when it has the same bytes. Raises ServeError or ModelError, and writes nothing, otherwise,
    and for whatever is wrong with the source, the classes or the transform.
    """
    listed = _listed_classes(options)
    file = read_source(source)
    tensors, used_weights = file.choose(options.use)
    scheme = recognise_scheme(tensors, str(source), options.scheme)
    made = translate(tensors, scheme, str(source), len(listed) if listed and options.fresh_head else None)
    classes, named_by = _classes(source, made.config.num_classes, listed, options)
    stated_transform, reason = find_transform(source, scheme.name, made.outputs)
    transform = changed(stated_transform, options.transform.changes())
    if transform != stated_transform:
        reason += ", changed by options"
    origin = {"file": source.name, "sha256": sha256_file(source), "scheme": scheme.name, "weights": used_weights}
    origin |= {"head": "new" if made.is_head_new else "from the file", "transform": reason}
    card = ModelCard(made.config, classes, transform, {"imported": origin})
    is_new = publish_new(out, weights_payload(out, made.arrays, card))
    lines = [
        f"{source}: {describe(made.config)} in {scheme.title} names, {len(made.arrays)} parameters"
        + (f", {made.ignored} other tensors left aside" if made.ignored else ""),
        *_remarks(made, used_weights, file.holds_both),
        f"classes: {named_by}",
        f"evaluated at {describe_transform(transform)} ({reason})",
        f"{out}: " + ("written" if is_new else "there already, the same bytes"),
    ]
    return Imported(card, tuple(lines))


def _remarks(made: Translation, used_weights: str, holds_both: bool) -> list[str]:
    lines = []
    if holds_both:
        which, other = ("the moving average", "raw") if used_weights == "ema" else ("the weights as trained", "ema")
        lines.append(f"holds weights and their moving average: took {which} (--use {other} takes the other)")
    if made.is_head_new:
        lines.append("the classifier is new and knows nothing yet: fine-tune by `convnext-train run --init-from`")
    if made.scheme.remark:
        lines.append(made.scheme.remark)
    return lines


def _listed_classes(options: ImportOptions) -> ClassTable | None:
    """The classes that the user named, from records or from a text."""
    if options.classes is None:
        if options.fresh_head:
            raise ServeError(
                "--fresh-head makes a classifier for the classes that --classes names; pass --classes, too"
            )
        return None
    if options.classes.is_dir():
        manifest = Manifest.from_json(read_finished(options.classes, "records"))
        return tuple((entry.wnid, entry.name) for entry in manifest.classes)
    return read_classes(options.classes)


def _classes(source: Path, outputs: int, listed: ClassTable | None, options: ImportOptions) -> tuple[ClassTable, str]:
    if listed is not None:
        if len(listed) != outputs:
            raise ServeError(
                f"{source}: its classifier has {outputs} outputs, {options.classes} names {len(listed)} classes; give "
                f"the list of those {outputs}, or pass --fresh-head for a new classifier to be fine-tuned"
            )
        return listed, f"{outputs} of {options.classes}"
    if outputs == IMAGENET_CLASSES:
        return imagenet_classes(), "the 1000 of ILSVRC2012, as it has 1000 outputs"
    return unnamed_classes(outputs), f"{outputs} without names; `eval` needs them: pass --classes RECORDS or a list"
