"""Imported weights beside the program they come from: the same images, each side's own preprocessing, equal logits.

`make test-parity`. The other side runs in the interpreter that CONVNEXT_PARITY_PYTHON names (default: this one), which
needs the extra `parity`; reading .pth files needs PyTorch in this one, too. Images come from CONVNEXT_SHARED_DATA.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import PIL
import pytest
from PIL import Image

from convnext_imagenet.base.files import write_output
from convnext_imagenet.model.convnext import VARIANTS
from convnext_imagenet.model.exchange.export_names import renamed_payload
from convnext_imagenet.model.runtime import prepare
from convnext_imagenet.model.transform import EvalTransform, evaluation_pixels
from convnext_imagenet.records.images import decode_rgb
from convnext_imagenet.serve.checkpoint import Checkpoint, load_checkpoint
from convnext_imagenet.serve.weights.importing import ImportOptions, import_weights

pytestmark = pytest.mark.parity

HERE = Path(__file__).resolve().parent
PYTHON = os.environ.get("CONVNEXT_PARITY_PYTHON", sys.executable)
IMAGES = 4
LOGITS_AGREE = 1e-6  # of the largest logit
COSINES_COUNT = 50.0  # the scale of `clip_model`
IMAGES_DIFFER = 0.1
SQUASH_384 = {"size": 384, "crop_pct": 1.0, "crop_mode": "squash"}
CROP_224 = {"size": 224, "crop_pct": 0.875, "crop_mode": "center"}
CROP_288 = {"size": 288, "crop_pct": 1.0, "crop_mode": "center"}


@pytest.fixture(scope="module", autouse=True)
def _prepared() -> None:
    prepare("CPU")


@pytest.fixture(scope="module")
def images(shared_data) -> list[Path]:
    """Photographs of different shapes, wide and tall."""
    found = sorted((shared_data / "fullsize" / "train").rglob("*.JPEG"))
    by_shape = sorted(found, key=lambda path: (np.divide(*Image.open(path).size), path))
    return [by_shape[index] for index in np.linspace(0, len(by_shape) - 1, IMAGES).astype(int)]


def ask(folder: Path, images: list[Path], **job: Any) -> dict[str, np.ndarray]:
    """What the other program makes of the images; its weights are then in `folder`, too."""
    job_file = folder / "job.json"
    job_file.write_text(json.dumps({**job, "images": [str(path) for path in images]}))
    done = subprocess.run([PYTHON, str(HERE / "reference.py"), str(job_file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "results.npz") as results:
        theirs = str(results["pillow"])
        # Pillow 13 resizes in another order than 12: up to 12 levels where an image shrinks much more in one direction.
        assert theirs == PIL.__version__, f"{PYTHON} has Pillow {theirs}, this interpreter {PIL.__version__}: take one"
        return {name: results[name] for name in results.files if name != "pillow"}


def pixels(images: list[Path], transform: EvalTransform) -> np.ndarray:
    return np.stack([evaluation_pixels(np.asarray(Image.open(path).convert("RGB")), transform) for path in images])


def logits(checkpoint: Checkpoint, pixels_NHWC: np.ndarray) -> np.ndarray:
    return checkpoint.classifier()(ms.Tensor(pixels_NHWC)).asnumpy()


def error_of(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a share of the largest logit; the images have to be told apart far more clearly."""
    assert np.ptp(expected, axis=0).max() > IMAGES_DIFFER * np.abs(expected).max()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def imported(source: Path, out: Path) -> Checkpoint:
    import_weights(source, out, ImportOptions())
    return load_checkpoint(out)


@pytest.mark.parametrize(
    ("model", "evaluated"),
    [
        ("convnext_atto", CROP_224),
        ("convnext_tiny", CROP_288),
        ("convnextv2_atto", CROP_224),
        ("convnextv2_tiny", SQUASH_384),
    ],
)
def test_timm(tmp_path, images, model, evaluated, record_property):
    """Through timm's own transform, pixels are the same and logits agree; what we write, timm reads strictly."""
    expected = ask(tmp_path, images, program="timm", model=model, **evaluated)
    checkpoint = imported(tmp_path / "model.safetensors", tmp_path / "ours.safetensors")
    assert checkpoint.card.config == VARIANTS[model]
    found = pixels(images, checkpoint.card.transform)
    assert np.abs(found - expected["pixels"]).max() < 0.01
    error = error_of(logits(checkpoint, found), expected["logits"])
    record_property("error", error)
    assert error < LOGITS_AGREE
    files = [f"{names}.safetensors" for names in ("facebook", "timm")]
    for names, file in zip(("facebook", "timm"), files, strict=True):
        write_output(tmp_path / file, renamed_payload(checkpoint.arrays, checkpoint.card, names))
    again = ask(tmp_path, images, program="reader", model=model, files=files, **evaluated)
    assert all(again[file].tobytes() == expected["logits"].tobytes() for file in files)


@pytest.mark.parametrize(("model", "size"), [("convnext_tiny", "22k_1k_384"), ("convnextv2_atto", "1k_224_ema")])
def test_facebooks_pth(tmp_path, images, model, size, record_property):
    """A .pth with Facebook's names, whose own name tells the transform; no configuration lies beside it."""
    pytest.importorskip("torch", reason="reading .pth files needs the extra torch")
    evaluated, file = SQUASH_384 if "384" in size else CROP_224, f"{model}_{size}"
    expected = ask(tmp_path, images, program="facebook", model=model, file=file, **evaluated)
    checkpoint = imported(tmp_path / f"{file}.pth", tmp_path / "ours.safetensors")
    assert checkpoint.card.config == VARIANTS[model]
    found = pixels(images, checkpoint.card.transform)
    assert np.abs(found - expected["pixels"]).max() < 0.01
    error = error_of(logits(checkpoint, found), expected["logits"])
    record_property("error", error)
    assert error < LOGITS_AGREE


@pytest.mark.parametrize(("model", "size"), [("convnext_tiny", 224), ("convnext_atto", 384), ("convnextv2_tiny", 224)])
def test_transformers(tmp_path, images, model, size, record_property):
    """By its processor that uses Pillow, pixels are the same; by torchvision's, the default, a rounding apart."""
    known = VARIANTS[model]
    expected = ask(
        tmp_path, images, program="transformers", v2=known.grn, depths=known.depths, dims=known.dims, size=size
    )
    checkpoint = imported(tmp_path / "model.safetensors", tmp_path / "ours.safetensors")
    assert checkpoint.card.config == replace(known, head_norm_epsilon=1e-12)
    assert checkpoint.card.transform.mode == ("squash" if size == 384 else "crop")
    found = pixels(images, checkpoint.card.transform)
    answer = logits(checkpoint, found)
    record_property("error", error_of(answer, expected["logits"]))
    assert np.abs(found - expected["pixels"]).max() < 0.01
    assert error_of(answer, expected["logits"]) < LOGITS_AGREE
    levels = np.abs(found - expected["torchvision_pixels"])
    record_property("torchvision", (levels.max(), levels.mean(), error_of(answer, expected["torchvision_logits"])))
    assert levels.max() < 12.5
    assert levels.mean() < 0.2


@pytest.mark.parametrize(
    ("program", "job", "functions"),
    [
        ("timm", {"model": "test_convnext"}, ("gelu_tanh", 1e-5)),
        (
            "timm",
            {"model": "convnext_atto", "options": {"norm_eps": 1e-2, "act_layer": "gelu_tanh"}},
            ("gelu_tanh", 1e-2),
        ),
        ("timm", {"model": "convnext_tiny", "options": {"num_classes": 0}}, ("gelu", 1e-6)),
        ("timm", {"model": "convnext_base", "options": {"num_classes": 0}}, ("gelu", 1e-6)),
        ("timm", {"model": "convnextv2_atto", "options": {"num_classes": 0}}, ("gelu", 1e-6)),
        ("dinov3", {"changes": {}}, ("gelu", 1e-6)),
        ("dinov3", {"changes": {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3}}, ("gelu_tanh", 1e-3)),
    ],
)
def test_other_functions_and_networks_without_classes(tmp_path, images, program, job, functions, record_property):
    """Another epsilon, the tanh form, features: read from names and config.json, computed as the program does."""
    expected = ask(tmp_path, images, program=program, **job, **CROP_224)
    if program == "timm":  # timm saves what it was asked for only as arguments of the model
        config = json.loads((tmp_path / "config.json").read_text())
        config["model_args"] = config.get("model_args", {}) | job.get("options", {})
        (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = imported(tmp_path / "model.safetensors", tmp_path / "ours.safetensors")
    found = checkpoint.card.config
    assert (found.activation, found.norm_epsilon) == functions
    checkpoint = replace(
        checkpoint, card=replace(checkpoint.card, transform=EvalTransform())
    )  # the other side's pixels
    answers = logits(checkpoint, pixels(images, EvalTransform()))
    error = error_of(answers, expected["logits"])
    record_property("error", error)
    assert error < LOGITS_AGREE


@pytest.mark.parametrize("proj", ["linear", "mlp"])
def test_openclips_zero_shot_classifier(tmp_path, images, proj, record_property):
    """Its text embeddings and image tower make a classifier whose logits are those of its own."""
    classes, templates = ["tench", "golden retriever", "church"], ["a photo of a {}.", "art of the {}.", "{}"]
    expected = ask(tmp_path, images, program="openclip", proj=proj, classes=classes, templates=templates)
    options = ImportOptions(zero_shot=tmp_path / "texts.parquet")
    import_weights(tmp_path / "model.safetensors", tmp_path / "ours.safetensors", options)
    checkpoint = load_checkpoint(tmp_path / "ours.safetensors")
    assert [name for _, name in checkpoint.card.classes] == classes
    answers = logits(
        replace(checkpoint, card=replace(checkpoint.card, transform=EvalTransform())), pixels(images, EvalTransform())
    )
    # Of the largest logit that there can be: embeddings of random weights are nearly orthogonal, so that their cosines
    # are small differences of large sums. Both sides are as far from float64 as from each other.
    error = np.abs(answers - expected["logits"]).max() / COSINES_COUNT
    record_property("error", error)
    assert error < LOGITS_AGREE


def test_our_decoder_beside_pillows(shared_data, record_property):
    """`eval` and `predict` decode by OpenCV: after the whole transform, pixels are within these bounds of Pillow's."""
    levels = []
    for path in sorted((shared_data / "fullsize" / "train").rglob("*.JPEG"))[:60]:
        ours = evaluation_pixels(decode_rgb(path.read_bytes()), EvalTransform())
        levels.append(np.abs(ours.astype(int) - pixels([path], EvalTransform())[0]))
    record_property("decoder", (np.max(levels), np.mean(levels)))
    assert np.max(levels) <= 2
    assert np.mean(levels) < 0.01
