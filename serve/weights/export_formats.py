"""The export formats of a checkpoint: how each is written, checked and described. A new one is an entry in FORMATS."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange import onnx_graph
from convnext_imagenet.model.exchange.export_names import renamed_payload
from convnext_imagenet.model.exchange.mindir import open_mindir, variables_folder, write_mindir
from convnext_imagenet.model.exchange.naming import import_arrays, scheme_named
from convnext_imagenet.model.exchange.onnx_file import (
    add_metadata,
    data_file,
    import_onnx,
    import_onnxruntime,
    open_onnx,
    read_metadata,
    write_onnx,
)
from convnext_imagenet.model.exchange.onnx_precision import lowered
from convnext_imagenet.model.exchange.parity_check import check_parity, pixel_values, probe_pixels
from convnext_imagenet.model.exchange.usage_examples import mindir_example, onnx_example, timm_example
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.engine import network_engine
from convnext_imagenet.serve.weights.precision_loss import (
    PrecisionLoss,
    Reduction,
    calibration_batches,
    check_loss,
    loss_in_words,
    measure_loss,
    reduction_in_words,
)

_LOSS = "precision_loss"  # the entry of an ONNX file's metadata that holds the figures
ONNX_LIMIT, MINDIR_LIMIT = 1e-4, 1e-5  # of the largest logit; 1e-6 and 4e-7 were measured


@dataclass(frozen=True)
class ExportOptions:
    """What a user chooses for an export.

    `format` is a key of FORMATS. `preprocessing` puts the normalisation of uint8 pixels into an ONNX graph. `names` is
    the program whose parameter names a safetensors file uses, "facebook" or "timm". `features` adds the features as a
    second output of an ONNX graph, `reduction` lowers its precision.
    """

    format: str
    preprocessing: bool = False
    names: str = "facebook"
    features: bool = False
    reduction: Reduction | None = None


@dataclass(frozen=True)
class Format:
    """One export format.

    `write` makes the file at a path, checks its answers and returns all files that belong to it, the model last.
    `interface` returns rows (what, meaning) of the model card for the model's file, `example` Python that runs a file
    of this name. `check` raises ModelError when the export cannot be made at all, such as without a package. `beside`
    returns the file or folder of weights that one model's file cannot hold, None in a format without a limit.
    """

    title: str
    write: Callable[[Checkpoint, Path, ExportOptions], list[Path]]
    interface: Callable[[Checkpoint, ExportOptions, Path], list[tuple[str, str]]]
    example: Callable[[Checkpoint, ExportOptions, str], str]
    check: Callable[[], None] = lambda: None
    beside: Callable[[Path], Path | None] = lambda out: None


def _write_onnx(checkpoint: Checkpoint, path: Path, options: ExportOptions) -> list[Path]:
    transform = checkpoint.card.transform
    metadata = {
        "variant": checkpoint.card.config.variant,
        "classes": json.dumps(checkpoint.card.classes, ensure_ascii=False),
        "classes_sha256": checkpoint.classes_sha256,
        "transform": json.dumps(asdict(transform), sort_keys=True),
        "checkpoint_sha256": checkpoint.sha256,
    }
    make = partial(onnx_graph.onnx_model, checkpoint.card, checkpoint.arrays, options.preprocessing, options.features)
    if options.reduction is not None:
        return _write_lowered(checkpoint, make(), path, options, options.reduction, metadata)
    files = write_onnx(make(metadata), path)
    pixels = probe_pixels(transform)
    found = open_onnx(path)(pixels if options.preprocessing else pixel_values(pixels, transform))
    expected = network_engine(checkpoint.classifier(with_features=options.features))(pixels)
    for answers, wanted in zip(found, expected, strict=True):
        check_parity(answers, wanted, ONNX_LIMIT, "the ONNX graph in onnxruntime")
    return files


def _write_lowered(
    checkpoint: Checkpoint,
    model: Any,
    path: Path,
    options: ExportOptions,
    reduction: Reduction,
    metadata: Mapping[str, str],
) -> list[Path]:
    """Write the model in lower precision after its loss was measured and allowed; the file states the loss."""

    def given(pixels_NHWC: np.ndarray) -> np.ndarray:
        return pixels_NHWC if options.preprocessing else pixel_values(pixels_NHWC, checkpoint.card.transform)

    calibration = map(given, calibration_batches(checkpoint, reduction))
    made = lowered(model, reduction.precision, calibration, path.parent)
    files = write_onnx(made, path)
    run = open_onnx(path)
    loss = measure_loss(
        checkpoint, network_engine(checkpoint.classifier()), lambda pixels_NHWC: run(given(pixels_NHWC)), reduction
    )
    check_loss(loss, reduction)
    add_metadata(path, {**metadata, _LOSS: json.dumps(asdict(loss), sort_keys=True)})
    return files


def _onnx_interface(checkpoint: Checkpoint, options: ExportOptions, file: Path) -> list[tuple[str, str]]:
    side = checkpoint.card.transform.size_px
    given = f"`{onnx_graph.PIXEL_VALUES}`, float32 (N, 3, {side}, {side}), normalised RGB; any N"
    if options.preprocessing:
        given = f"`{onnx_graph.PIXELS}`, {_pixels(side)}"
    name = onnx_graph.LOGITS if checkpoint.has_classifier else onnx_graph.FEATURES
    outputs = [("output", f"`{name}`, {_output(checkpoint)}")]
    if options.features and checkpoint.has_classifier:
        outputs.append(("output", f"`{onnx_graph.FEATURES}`, {_features(checkpoint)}"))
    checked = [_checked(ONNX_LIMIT)]
    if options.reduction is not None:
        loss = stated_loss(file)
        lost = "this file states no figures" if loss is None else loss_in_words(loss)
        checked = [*reduction_in_words(options.reduction), ("loss", lost)]
    return [
        ("input", given),
        *outputs,
        ("needs", f"opset {onnx_graph.OPSET}; onnxruntime {onnx_graph.ONNXRUNTIME} or later"),
        *checked,
    ]


def stated_loss(file: Path) -> PrecisionLoss | None:
    """Return the loss that an ONNX file of lower precision states, None for another file."""
    try:
        return PrecisionLoss(**json.loads(read_metadata(file)[_LOSS]))
    except (KeyError, TypeError, ValueError):
        return None


def _check_onnx() -> None:
    import_onnx()
    import_onnxruntime()


def _write_mindir(checkpoint: Checkpoint, path: Path, options: ExportOptions) -> list[Path]:
    files = write_mindir(checkpoint.card, checkpoint.arrays, path)
    pixels = probe_pixels(checkpoint.card.transform)
    logits = open_mindir(path)(pixels)
    check_parity(logits, _logits(checkpoint, pixels), MINDIR_LIMIT, "the MindIR, loaded again,")
    return files


def _mindir_interface(checkpoint: Checkpoint, options: ExportOptions, file: Path) -> list[tuple[str, str]]:
    return [
        ("input", _pixels(checkpoint.card.transform.size_px)),
        ("output", _output(checkpoint)),
        ("needs", "MindSpore 2.10"),
        _checked(MINDIR_LIMIT),
    ]


def _write_safetensors(checkpoint: Checkpoint, path: Path, options: ExportOptions) -> list[Path]:
    path.write_bytes(renamed_payload(checkpoint.arrays, checkpoint.card, options.names))
    read_back, others = import_arrays(load_file(path), scheme_named(options.names))
    ours = checkpoint.arrays
    is_same = not others and read_back.keys() == ours.keys()
    if not is_same or any(read_back[name].tobytes() != ours[name].tobytes() for name in ours):
        raise ModelError(
            f"{path.name}: when read back, it does not hold the checkpoint's values, so it is not published; "
            f"please report this with the versions of the packages"
        )
    return [path]


def _safetensors_interface(checkpoint: Checkpoint, options: ExportOptions, file: Path) -> list[tuple[str, str]]:
    return [
        ("names", f"{scheme_named(options.names).title}"),
        ("output", _output(checkpoint)),
        ("checked", "read back: the same values as in the checkpoint, bit for bit"),
    ]


def _logits(checkpoint: Checkpoint, pixels_NHWC: np.ndarray) -> np.ndarray:
    return network_engine(checkpoint.classifier())(pixels_NHWC)[0]


def _pixels(side: int) -> str:
    return f"uint8 (N, {side}, {side}, 3), RGB; any N; normalised inside"


def _features(checkpoint: Checkpoint) -> str:
    width = checkpoint.card.config.dims[-1]
    return f"features, float32 (N, {width}): the mean over all positions, after the last LayerNorm"


def _output(checkpoint: Checkpoint) -> str:
    if not checkpoint.has_classifier:
        return _features(checkpoint)
    return f"logits, float32 (N, {len(checkpoint.card.classes)}); apply softmax to get probabilities"


def _checked(limit: float) -> tuple[str, str]:
    return (
        "checked",
        f"on random pixels, against the network: within {limit:.0e} of the largest logit",
    )


FORMATS: dict[str, Format] = {
    "onnx": Format(
        "ONNX",
        _write_onnx,
        _onnx_interface,
        lambda checkpoint, options, name: onnx_example(
            name, checkpoint.card.transform, options.preprocessing, checkpoint.has_classifier
        ),
        _check_onnx,
        data_file,
    ),
    "mindir": Format(
        "MindIR",
        _write_mindir,
        _mindir_interface,
        lambda checkpoint, options, name: mindir_example(name, checkpoint.card.transform, checkpoint.has_classifier),
        beside=variables_folder,
    ),
    "safetensors": Format(
        "safetensors",
        _write_safetensors,
        _safetensors_interface,
        lambda checkpoint, options, name: timm_example(
            name, checkpoint.card.config, checkpoint.card.transform, options.names
        ),
    ),
}
