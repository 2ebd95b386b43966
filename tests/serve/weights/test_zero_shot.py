"""A CLIP tower and text embeddings make a classifier like any other: projected, of length 1, times the embeddings."""

import json
import re
from pathlib import Path

import mindspore as ms
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from click.testing import CliRunner
from scipy.special import erf

from convnext_imagenet.model.convnext import ConvNeXtConfig, init_parameters, parameter_shapes
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.naming import export_arrays, scheme_named
from convnext_imagenet.model.exchange.text_embeddings import read_text_embeddings
from convnext_imagenet.model.weight_check import recognise
from convnext_imagenet.model.weights import load_weights
from convnext_imagenet.serve.checkpoint import load_checkpoint
from convnext_imagenet.serve.cli import main
from convnext_imagenet.serve.engine import network_engine, open_engine

from ..conftest import build_records, picture

CONFIG = ConvNeXtConfig("convnext_unnamed", (1, 1, 1, 1), (8, 16, 24, 32), num_classes=0)
EMBEDDING, CLASSES, SCALE = 12, 7, 50.0


def write_clip(path: Path, is_mlp: bool = False, names: str = "openclip", **changes) -> Path:
    """A CLIP network as OpenCLIP or timm writes it, with random weights; None leaves a tensor out."""
    rng = np.random.default_rng(5)
    arrays = {
        name: (array + rng.normal(0, 0.2, array.shape)).astype(np.float32)
        for name, array in init_parameters(CONFIG, 5).items()
    }
    theirs = export_arrays(arrays, CONFIG, scheme_named(names))

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    if names == "timm":
        theirs |= {"head.fc.weight": drawn(EMBEDDING, 32), "head.fc.bias": np.zeros(EMBEDDING, np.float32)}
    elif is_mlp:
        theirs |= {"visual.head.mlp.fc1.weight": drawn(24, 32), "visual.head.mlp.fc1.bias": drawn(24)}
        theirs |= {"visual.head.mlp.fc2.weight": drawn(EMBEDDING, 24)}
    else:
        theirs |= {"visual.head.proj.weight": drawn(EMBEDDING, 32)}
    if names == "openclip":
        theirs |= {"logit_scale": np.array(np.log(SCALE), np.float32), "token_embedding.weight": drawn(9, 3)}
    kept = {name: array for name, array in (theirs | changes).items() if array is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors.numpy.save(kept))
    return path


def prompts_of(classes: int = CLASSES, prompts: int = 3, width: int = EMBEDDING) -> np.ndarray:
    return np.random.default_rng(8).normal(0, 2, (classes, prompts, width)).astype(np.float32)


def write_parquet(path: Path, vectors: np.ndarray, **changes) -> Path:
    """A row for each prompt, in the order of the classes from the last to the first."""
    columns = {
        "wnid": [f"n{k:08d}" for k in reversed(range(len(vectors))) for _ in vectors[k]],
        "name": [f"name {k}" for k in reversed(range(len(vectors))) for _ in vectors[k]],
        "embedding": [row.tolist() for rows in vectors[::-1] for row in rows],
    } | changes
    pq.write_table(pa.table({name: column for name, column in columns.items() if column is not None}), path)
    return path


def expected_head(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    mean = unit.mean(axis=1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def run(*args) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["weights", "import", *map(str, args)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("is_mlp", [False, True])
def test_logits_are_scaled_cosines_in_every_program(tmp_path, is_mlp):
    pytest.importorskip("onnxruntime")
    source = write_clip(tmp_path / "clip" / "model.safetensors", is_mlp)
    texts, out = write_parquet(tmp_path / "t.parquet", prompts_of()), tmp_path / "ours.safetensors"
    code, said, error = run(source, "--zero-shot", texts, "--out", out, "--size", 32)
    assert code == 0, error
    assert f"classes: {CLASSES} classes from {texts}" in said
    assert "tensors, 2 others ignored" in said.splitlines()[0]  # the scale and the text tower
    assert "zero-shot: 3 prompts a class, 12 values; logits are 50 (of the weights) times the cosine" in said
    checkpoint = load_checkpoint(out)
    assert [wnid for wnid, _ in checkpoint.card.classes] == [f"n{k:08d}" for k in range(CLASSES)]
    assert checkpoint.card.provenance["imported"]["head"] == "text embeddings"
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    logits, features = network_engine(checkpoint.classifier(with_features=True))(pixels)
    tensors = safetensors.numpy.load_file(source)
    if is_mlp:
        hidden = features @ tensors["visual.head.mlp.fc1.weight"].T + tensors["visual.head.mlp.fc1.bias"]
        embedded = (hidden * (1 + erf(hidden / 2**0.5)) / 2) @ tensors["visual.head.mlp.fc2.weight"].T
    else:
        embedded = features @ tensors["visual.head.proj.weight"].T
    unit = embedded / np.linalg.norm(embedded, axis=1, keepdims=True)
    wanted = SCALE * unit @ expected_head(prompts_of()).T
    assert np.ptp(wanted, axis=0).max() > 1
    np.testing.assert_allclose(logits, wanted, atol=2e-5 * SCALE)
    np.testing.assert_allclose(checkpoint.classifier()(ms.Tensor(pixels)).asnumpy(), logits, atol=1e-5)
    np.testing.assert_allclose(open_engine("onnxruntime", checkpoint)(pixels)[0], logits, atol=2e-5 * SCALE)


def test_the_classifier_is_evaluated_and_names_its_network(tmp_path):
    source, out = write_clip(tmp_path / "model.safetensors"), tmp_path / "ours.safetensors"
    texts = write_parquet(tmp_path / "t.parquet", prompts_of())
    assert run(source, "--zero-shot", texts, "--out", out, "--size", 32)[0] == 0
    records = build_records(tmp_path / "records", [picture(seed) for seed in range(4)], [0, 1, 2, 3])
    found = CliRunner().invoke(main, ["eval", str(out), "--records", str(records)])
    assert (found.exit_code, "top-1" in found.stdout) == (0, True), found.stderr
    arrays, card = load_weights(out)
    assert recognise(arrays).head_projection == card.config.head_projection == (EMBEDDING,)
    assert {name: array.shape for name, array in arrays.items()} == parameter_shapes(card.config)
    refused = CliRunner().invoke(
        main, ["weights", "export", str(out), "--out", str(tmp_path / "x.safetensors"), "--format", "safetensors"]
    )
    assert (refused.exit_code, "a head that compares embeddings has no names" in refused.stderr) == (1, True)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_lower_precision_is_measured_as_of_any_classifier(tmp_path, precision):
    pytest.importorskip("onnxruntime")
    source, out = write_clip(tmp_path / "model.safetensors"), tmp_path / "ours.safetensors"
    texts = write_parquet(tmp_path / "t.parquet", prompts_of())
    assert run(source, "--zero-shot", texts, "--out", out, "--size", 32)[0] == 0
    records = build_records(tmp_path / "records", [picture(seed) for seed in range(4)], [0, 1, 2, 3])
    words = ["--out", tmp_path / "m.onnx", "--format", "onnx", "--precision", precision, "--records", records]
    made = CliRunner().invoke(main, ["weights", "export", str(out), *map(str, words), "--max-changed", "4"])
    assert made.exit_code == 0, made.output
    assert f"{precision}: " in made.stdout


@pytest.mark.parametrize(
    ("column", "command"), [("name", "convnext-serve eval {} --records"), ("wnid", "convnext-serve predict {} IMAGES")]
)
def test_the_next_command_is_one_that_the_classes_allow(tmp_path, column, command):
    source, out = write_clip(tmp_path / "model.safetensors"), tmp_path / "ours.safetensors"
    texts = write_parquet(tmp_path / "t.parquet", prompts_of(), **{column: None})
    code, _, error = run(source, "--zero-shot", texts, "--out", out)
    assert (code, f"Next: {command.format(out)}" in error) == (0, True), error


def test_timms_projection_needs_a_stated_scale(tmp_path):
    source = write_clip(tmp_path / "convnext_base.clip_laion2b.safetensors", names="timm")
    texts, out = write_parquet(tmp_path / "t.parquet", prompts_of()), tmp_path / "ours.safetensors"
    code, _, error = run(source, "--zero-shot", texts, "--out", out)
    assert (code, "states the scale of logits; pass --logit-scale" in error, out.exists()) == (1, True, False)
    code, said, _ = run(source, "--zero-shot", texts, "--out", out, "--logit-scale", 100)
    assert (code, "logits are 100 (of --logit-scale) times the cosine" in said) == (0, True)
    bias = np.full(EMBEDDING, 0.1, np.float32)
    other = write_clip(tmp_path / "b" / "model.safetensors", names="timm", **{"head.fc.bias": bias})
    code, _, error = run(other, "--zero-shot", texts, "--out", tmp_path / "x", "--logit-scale", 100)
    assert (code, "has a bias, so it is a classifier" in error) == (1, True)


def test_safetensors_of_embeddings_are_the_same_as_parquet(tmp_path):
    vectors = prompts_of()
    parquet = read_text_embeddings(write_parquet(tmp_path / "t.parquet", vectors))
    classes = [[f"n{k:08d}", f"name {k}"] for k in range(CLASSES)]
    path = tmp_path / "t.safetensors"
    safetensors.numpy.save_file(
        {"embeddings": vectors}, path, metadata={"classes": json.dumps(classes), "logit_scale": "30"}
    )
    found = read_text_embeddings(path)
    assert (found.classes, found.fewest, found.most, found.logit_scale) == (parquet.classes, 3, 3, 30.0)
    np.testing.assert_allclose(found.vectors, expected_head(vectors.astype(np.float64)), atol=1e-12)
    np.testing.assert_array_equal(found.vectors, parquet.vectors)
    chosen = read_text_embeddings(path, (("n00000004", "x"), ("n00000001", "y")))
    np.testing.assert_array_equal(chosen.vectors, parquet.vectors[[4, 1]])
    assert chosen.classes == (("n00000004", "x"), ("n00000001", "y"))


def test_names_without_wnids_keep_their_order_and_match_synonyms(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", prompts_of(), wnid=None)
    assert [name for _, name in read_text_embeddings(path).classes] == [f"name {k}" for k in reversed(range(CLASSES))]
    wanted = (("n00000009", "name 2, a synonym"), ("n00000005", "name 5"))
    found = read_text_embeddings(path, wanted)
    np.testing.assert_allclose(found.vectors, expected_head(prompts_of().astype(np.float64))[[2, 5]])
    with pytest.raises(ModelError, match="name 2 is the name of several classes; give a column wnid"):
        read_text_embeddings(path, (*wanted, ("n00000010", "name 2, another")))


def damaged(place: tuple[int, ...], value: float) -> np.ndarray:
    vectors = prompts_of()
    vectors[place] = value
    return vectors


ROWS = CLASSES * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path, "no such file; give a Parquet"),
        (lambda path: path.write_bytes(b""), "neither Parquet nor whole safetensors"),
        (lambda path: path.write_bytes(b"PAR1 and no more"), "truncated or damaged"),
        (lambda path: write_parquet(path, damaged((2, 1, 0), np.nan)), "embedding of n00000002 holds NaN or infinity"),
        (lambda path: write_parquet(path, damaged((2,), 0.0)), "embedding of n00000002 is zero"),
        (lambda path: write_parquet(path, prompts_of(width=5)), "embeddings have 5 values, but .* projects to 12"),
        (lambda path: write_parquet(path, prompts_of(), embedding=[[1.0] * (12 + (n > 3)) for n in range(ROWS)]),
         "its embeddings have 12 and 13 values"),
        (lambda path: write_parquet(path, prompts_of(), embedding=[None] + [[1.0] * 12] * (ROWS - 1)),
         "row 0 has no embedding"),
        (lambda path: write_parquet(path, prompts_of(), embedding=["text"] * ROWS), "holds no lists of numbers"),
        (lambda path: write_parquet(path, prompts_of(), embedding=[1.0] * ROWS), "holds no lists of numbers"),
        (lambda path: write_parquet(path, prompts_of(), embedding=None), "has columns wnid, name; give a Parquet"),
        (lambda path: write_parquet(path, prompts_of(), wnid=["cat"] * ROWS, name=None), "cat: no wnid such as"),
        (lambda path: write_parquet(path, prompts_of(), name=[f"name {n}" for n in range(ROWS)]),
         "n00000006 is named 'name 0' and 'name 1'"),
        (lambda path: write_parquet(path, prompts_of(0)), "holds no embeddings"),
        (lambda path: safetensors.numpy.save_file({"embeddings": prompts_of()}, path), "metadata name no `classes`"),
        (lambda path: safetensors.numpy.save_file({"e": prompts_of()}, path), "holds no tensor 'embeddings'"),
        (lambda path: safetensors.numpy.save_file({"embeddings": prompts_of()}, path, {"classes": '["a"]'}),
         "has 7 embeddings, but 1 classes are named"),
        (lambda path: safetensors.numpy.save_file({"embeddings": prompts_of(2)}, path, {"classes": '["a", "a"]'}),
         "a named twice"),
        (lambda path: safetensors.numpy.save_file({"embeddings": prompts_of(1)}, path, {"classes": "nonsense"}),
         "no JSON list"),
        (lambda path: safetensors.numpy.save_file(
            {"embeddings": prompts_of(1)}, path, {"classes": '["a"]', "logit_scale": "-1"}), "states logit_scale '-1'"),
    ],
)  # fmt: skip
def test_bad_embeddings_are_refused_in_one_line(tmp_path, make, message):
    source, path = write_clip(tmp_path / "model.safetensors"), tmp_path / "texts"
    make(path)
    code, said, error = run(source, "--zero-shot", path, "--out", tmp_path / "ours.safetensors")
    assert (code, said, error.count("\n"), (tmp_path / "ours.safetensors").exists()) == (1, "", 1, False)
    assert re.search(message, error), error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual.head.proj.weight": None}, "holds no projection of CLIP"),
        ({"visual.head.proj.weight": np.ones((EMBEDDING, 31), np.float32)}, r"takes 32 values; give whole weights"),
        ({"visual.head.proj.weight": np.full((EMBEDDING, 32), np.inf, np.float32)}, "holds NaN or infinity"),
        ({"logit_scale": np.array(np.nan, np.float32)}, "logit_scale is no usable number"),
    ],
)
def test_weights_without_a_usable_projection_are_refused_in_one_line(tmp_path, changes, message):
    source = write_clip(tmp_path / "model.safetensors", **changes)
    texts = write_parquet(tmp_path / "t.parquet", prompts_of())
    code, _, error = run(source, "--zero-shot", texts, "--out", tmp_path / "ours.safetensors")
    assert (code, error.count("\n"), (tmp_path / "ours.safetensors").exists()) == (1, 1, False)
    assert message in error


def test_classes_of_records_that_have_no_embedding_are_named(tmp_path):
    source = write_clip(tmp_path / "model.safetensors")
    texts = write_parquet(tmp_path / "t.parquet", prompts_of(5))
    records = build_records(tmp_path / "records", [picture(1)], [0])
    code, _, error = run(source, "--zero-shot", texts, "--classes", records, "--out", tmp_path / "ours.safetensors")
    assert code == 1
    assert "lacks 2 of the 7 classes (n00000005 (name 5, synonym 5), n00000006 (name 6, synonym 6))" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--zero-shot", "t", "--no-head"], "--zero-shot makes the classifier; leave out"),
        (["--logit-scale", "3"], "--logit-scale belongs to --zero-shot"),
        (["--zero-shot", "t", "--logit-scale", "0"], "0.0 is not in the range x>0"),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(tmp_path, words, message):
    code, _, error = run(tmp_path / "m", "--out", tmp_path / "o", *words)
    assert (code, message in error) == (2, True), error
