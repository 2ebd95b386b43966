"""Lower precision: measured on records before anything is published, stated in the card, refused above a limit."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from convnext_imagenet.model.exchange import onnx_precision
from convnext_imagenet.model.exchange.onnx_file import open_onnx, read_metadata
from convnext_imagenet.model.weights import load_weights, save_weights
from convnext_imagenet.records.reader import Records
from convnext_imagenet.serve.checkpoint import Checkpoint, load_checkpoint
from convnext_imagenet.serve.cli import main
from convnext_imagenet.serve.engine import network_engine
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.scoring import probabilities
from convnext_imagenet.serve.settings import ErrorLimit
from convnext_imagenet.serve.weights.export_formats import ExportOptions, stated_loss
from convnext_imagenet.serve.weights.exporting import export_weights
from convnext_imagenet.serve.weights.precision_loss import PrecisionLoss, Reduction, measure_loss

from ..conftest import build_records, picture

pytest.importorskip("onnxruntime", reason="needs the extra onnx")

ROWS = 9


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("precision") / "records"
    return build_records(root, [picture(seed) for seed in range(ROWS)], [seed % 7 for seed in range(ROWS)])


@pytest.fixture(scope="module")
def weights_file(checkpoint_file, tmp_path_factory) -> Path:
    """Weights whose blocks have a share in the answer, which the usual layer scale of 1e-6 hides."""
    arrays, card = load_weights(checkpoint_file)
    path = tmp_path_factory.mktemp("weights") / "m.safetensors"
    scaled = {name: array * 1e6 if name.endswith(".gamma") else array for name, array in arrays.items()}
    save_weights(path, scaled, card)
    return path


@pytest.fixture
def checkpoint(weights_file) -> Checkpoint:
    return load_checkpoint(weights_file)


def pixels_of(checkpoint: Checkpoint) -> np.ndarray:
    side = checkpoint.card.transform.size_px
    return np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)


@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [("fp16", 1e-6, 5e-3), ("bf16", 1e-5, 2e-2), pytest.param("int8", 1e-5, 0.2, marks=pytest.mark.slow)],
)
def test_a_lower_precision_is_near_the_network_and_states_what_it_loses(
    checkpoint, records, tmp_path, precision, least, most
):
    out = tmp_path / "m.onnx"
    reduction = Reduction(precision, records, max_changed=ErrorLimit(ROWS), calibration_split="val", batch_size=4)
    options = ExportOptions("onnx", preprocessing=True, reduction=reduction)
    assert export_weights(checkpoint, out, options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.md"]
    pixels = pixels_of(checkpoint)
    ours, theirs = network_engine(checkpoint.classifier())(pixels)[0], open_onnx(out)(pixels)[0]
    assert least < np.abs(ours - theirs).max() / np.abs(ours).max() < most
    loss = stated_loss(out)
    assert (loss.rows, loss.labelled) == (ROWS, ROWS)
    card = (tmp_path / "m.onnx.md").read_text()
    assert f"{loss.changed} of {ROWS} rows change their class" in card
    assert Records.open(records).manifest_sha256 in card
    assert (f"the first {ROWS} rows of val" in card) == (precision == "int8")
    assert onnx_precision.STORED[precision] in card
    assert json.loads(read_metadata(out)["classes"])[0] == list(checkpoint.card.classes[0])
    before = out.stat().st_mtime_ns
    assert not export_weights(checkpoint, out, options)
    assert out.stat().st_mtime_ns == before
    for other in (None, Reduction(precision, records, max_changed=ErrorLimit(0), calibration_split="val")):
        with pytest.raises(ServeError, match="is another export"):
            export_weights(checkpoint, out, ExportOptions("onnx", preprocessing=True, reduction=other))


@pytest.mark.parametrize("precision", ["fp16", "bf16", pytest.param("int8", marks=pytest.mark.slow)])
def test_values_of_normalised_pixels_are_measured_too(checkpoint, records, tmp_path, precision):
    reduction = Reduction(precision, records, max_changed=ErrorLimit(ROWS), calibration_split="val")
    assert export_weights(checkpoint, tmp_path / "m.onnx", ExportOptions("onnx", features=True, reduction=reduction))
    assert stated_loss(tmp_path / "m.onnx").largest_difference < 0.2


def test_rows_are_counted_as_they_are(checkpoint, records):
    engine = network_engine(checkpoint.classifier())
    seen = []

    def shifted(pixels_NHWC: np.ndarray) -> list[np.ndarray]:
        logits_NK = engine(pixels_NHWC)[0].copy()
        if not seen:  # the first batch of four: each best class loses
            logits_NK[np.arange(len(logits_NK)), logits_NK.argmax(axis=1)] -= 1000
            seen.append(logits_NK)
        return [logits_NK]

    found = measure_loss(checkpoint, engine, shifted, Reduction("fp16", records, batch_size=4))
    rows = list(Records.open(records).split("val").read(range(ROWS)))
    assert (found.rows, found.changed, found.labelled) == (ROWS, 4, len(rows))
    assert found.largest_difference > probabilities(seen[0]).max() / 2
    assert found.right_before - found.right_after <= 4


def test_above_the_limit_nothing_is_published(checkpoint, records, tmp_path, monkeypatch):
    from convnext_imagenet.serve.weights import export_formats

    monkeypatch.setattr(export_formats, "measure_loss", lambda *_: PrecisionLoss(ROWS, 1, 0.5, ROWS, 3, 2))
    with pytest.raises(ServeError, match=r"1 of 9 rows change their class, more than --max-changed 1% allows"):
        export_weights(checkpoint, tmp_path / "m.onnx", ExportOptions("onnx", reduction=Reduction("bf16", records)))
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_overflows_is_refused(checkpoint, records):
    with pytest.raises(ServeError, match=r"--precision fp16: the export returns NaN or infinity"):
        measure_loss(
            checkpoint,
            network_engine(checkpoint.classifier()),
            lambda pixels_NHWC: [np.full((len(pixels_NHWC), 7), np.inf, np.float32)],
            Reduction("fp16", records),
        )


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, -2.5], [0x3F80, 0xC020]), ([1 + 2**-8, 1 + 3 * 2**-8], [0x3F80, 0x3F82]), ([1 + 2**-8 + 2**-20], [0x3F81])],
)
def test_bfloat16_rounds_to_nearest_and_ties_to_even(values, expected):
    assert onnx_precision._bfloat16_bits(np.array(values, np.float32)).tolist() == expected


@pytest.mark.slow
def test_a_model_in_two_files_is_quantised_and_cast_alike(checkpoint, tmp_path):
    from convnext_imagenet.model.exchange.onnx_graph import onnx_model

    pixels = pixels_of(checkpoint)
    for precision in ("fp16", "int8"):
        answers = []
        for largest in (1000, 2**31 - 1):
            model = onnx_model(checkpoint.card, checkpoint.arrays, preprocessing=True)
            made = onnx_precision.lowered(model, precision, [pixels], tmp_path, largest)
            (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
            answers.append(open_onnx(tmp_path / "m.onnx")(pixels)[0])
        assert np.array_equal(*answers)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--format", "mindir", "--precision", "fp16", "--records", "R"],
            2,
            "--precision works only with --format onnx",
        ),
        (
            ["--format", "onnx", "--precision", "fp16"],
            2,
            "pass --precision fp16, bf16 or int8, and --records, or neither",
        ),
        (["--format", "onnx", "--records", "R"], 2, "--records measures the loss of lower precision"),
        (["--format", "onnx", "--precision", "int8", "--records", "R"], 1, "no rows in split 'train'"),
        (
            ["--format", "onnx", "--precision", "fp16", "--records", "R", "--split", "test"],
            1,
            "no rows in split 'test'",
        ),
        (["--format", "onnx", "--precision", "fp16", "--records", "."], 1, "not a records directory"),
        (["--format", "onnx", "--precision", "fp16", "--records", "R", "--max-changed", "2x"], 2, "neither a number"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(weights_file, records, tmp_path, arguments, code, message):
    given = [str(records) if word == "R" else str(tmp_path) if word == "." else word for word in arguments]
    out = tmp_path / f"m.{arguments[1]}"
    done = CliRunner().invoke(main, ["weights", "export", str(weights_file), "--out", str(out), *given])
    assert (done.exit_code, message in " ".join(done.stderr.split())) == (code, True), done.stderr
    assert list(tmp_path.iterdir()) == []
    if code == 1:
        assert done.stderr.count("Error") == 1


def test_the_command_prints_the_loss(weights_file, records, tmp_path):
    out = tmp_path / "m.onnx"
    arguments = ["weights", "export", str(weights_file), "--out", str(out), "--format", "onnx", "--json"]
    done = CliRunner().invoke(
        main, [*arguments, "--precision", "bf16", "--records", str(records), "--max-changed", "9"]
    )
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["precision"], found["loss"]["rows"]) == ("bf16", ROWS)
    assert f"bf16: {found['loss']['changed']} of {ROWS} rows change their class" in done.stderr


def test_features_have_no_classes_to_change(checkpoint, records, tmp_path):
    import dataclasses

    card = dataclasses.replace(
        checkpoint.card, config=dataclasses.replace(checkpoint.card.config, num_classes=0), classes=()
    )
    arrays = {name: array for name, array in checkpoint.arrays.items() if not name.startswith("head.")}
    bare = dataclasses.replace(checkpoint, card=card, arrays=arrays)
    with pytest.raises(ServeError, match="has no trained classifier, so no row can change its class"):
        export_weights(bare, tmp_path / "m.onnx", ExportOptions("onnx", reduction=Reduction("fp16", records)))
