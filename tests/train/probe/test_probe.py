"""The probe: an optimum that scikit-learn agrees with, val that chooses nothing, and a checkpoint like any other."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import ConvNeXtConfig, init_parameters
from convnext_imagenet.model.runtime import prepare
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import load_weights, save_weights
from convnext_imagenet.records.keyed_random import keyed_rng
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.schema import Row
from convnext_imagenet.serve.cli import main as serve
from convnext_imagenet.train.cli import main as train
from convnext_imagenet.train.probe import mlp
from convnext_imagenet.train.probe.logistic import fit_logistic
from convnext_imagenet.train.probe.neighbours import neighbour_votes
from convnext_imagenet.train.probe.page import curves, probe_page
from convnext_imagenet.train.probe.probe import DECAYS, Features, choose_head, choose_mlp, share_of_rows

from ...records_of import finished_records

CLASSES = 3


@pytest.fixture(scope="module")
def blobs() -> Features:
    """Three clouds that overlap, in channels of very different scales."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 400)
    values = (rng.standard_normal((CLASSES, 12))[labels] + rng.standard_normal((400, 12))) * 10.0 ** np.arange(
        -3, 3, 0.5
    )
    return Features(values.astype(np.float32), labels, rng.permutation(400))


@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-4, 1e-6])
def test_the_loss_is_scikit_learns_optimum(blobs, strength):
    linear = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn (extra demo)")
    found = fit_logistic(blobs.values, blobs.labels, CLASSES, strength)
    x = blobs.values.astype(np.float64)  # channels of such scales stop its default solver before the optimum
    model = linear.LogisticRegression(C=1 / (400 * strength), tol=1e-8, max_iter=1000, solver="newton-cholesky")
    model.fit(x, blobs.labels)
    chances = model.predict_proba(x)[np.arange(400), blobs.labels]
    theirs = -np.log(chances).mean() + strength / 2 * (model.coef_**2).sum()
    assert found.loss == pytest.approx(theirs, rel=1e-4)
    logits = found.logits(blobs.values)
    logits -= logits.max(axis=1, keepdims=True)
    ours = -(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))[np.arange(400), blobs.labels].mean()
    assert found.loss == pytest.approx(ours + strength / 2 * (found.weight**2).sum(), rel=1e-9)


def test_neighbours_vote_by_cosine_and_the_nearest_breaks_ties():
    train = np.array([[1, 0], [10, 1], [0, 1], [0.1, 5]], np.float32)
    labels = np.array([0, 0, 1, 1])
    votes = neighbour_votes(train, labels, np.array([[3, 0.1], [0, 2], [1, 1.1]], np.float32), 2, (1, 4, 9))
    assert {k: found.tolist() for k, found in votes.items()} == {1: [0, 1, 1], 4: [0, 1, 1]}


def test_a_share_has_its_part_of_every_class_and_the_same_rows_in_any_order(blobs):
    rows = share_of_rows(blobs, 0.1, 5)
    counts = np.bincount(blobs.labels)
    assert np.bincount(blobs.labels[rows]).tolist() == [round(0.1 * count) for count in counts]
    turned = blobs.rows(np.arange(400)[::-1])
    assert set(turned.sample_ids[share_of_rows(turned, 0.1, 5)]) == set(blobs.sample_ids[rows])
    assert set(share_of_rows(blobs, 0.1, 6)) != set(rows)
    assert min(np.bincount(blobs.labels[share_of_rows(blobs, 0.001, 5)])) == 2


def test_the_derivatives_of_the_perceptron_are_those_of_its_loss():
    rng = np.random.default_rng(1)
    x, labels = rng.standard_normal((9, 4)), rng.integers(0, CLASSES, 9)
    parameters = [rng.standard_normal(shape) for shape in ((5, 4), (5,), (CLASSES, 5), (CLASSES,))]

    def loss() -> float:
        logits = mlp._forward(x, parameters)[-1]
        return float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(9), labels]).mean())

    for array, gradient in zip(parameters, mlp._gradients(x, labels, parameters), strict=True):
        for place in np.ndindex(array.shape):
            kept, differences = array[place], []
            for shift in (1e-2, -1e-2):
                array[place] = kept + shift
                differences.append(loss())
            array[place] = kept
            assert gradient[place] == pytest.approx((differences[0] - differences[1]) / 2e-2, abs=2e-4)


def test_a_perceptron_separates_what_no_line_can_and_is_repeatable():
    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 1, (600, 2)).astype(np.float32)
    labels = (x[:, 0] * x[:, 1] > 0).astype(int)
    features = Features(x, labels, np.arange(600))
    found, decay = choose_mlp(features, 2, 32, 0)
    right = (found.logits(x).argmax(axis=1) == labels).mean()
    linear = (fit_logistic(x, labels, 2, 1e-4).logits(x).argmax(axis=1) == labels).mean()
    assert (right > 0.95, linear < 0.65, decay in DECAYS) == (True, True, True)
    again = mlp.fit_mlp(x, labels, 2, 32, decay, keyed_rng(0, "probe mlp", 0))
    assert all(np.array_equal(*pair) for pair in zip(found.parameters, again.parameters, strict=True))


def test_the_page_draws_each_head_and_the_confusion():
    row = {"fraction": 0.01, "rows": 4, "top1_correct": 2, "seconds": 0.5}
    linear = row | {"strength": 0.1, "is_optimal": True, "tried": [{"strength": 0.1, "correct": 3, "held_out": 4}]}
    report = {
        "weights": {"file": "<w>", "sha256": "0" * 64},
        "records": "1" * 64,
        "rows": {"train": 400, "val": 10},
        "seed": 0,
        "linear": [linear, linear | {"fraction": 1.0, "top1_correct": 10, "is_optimal": False}],
        "neighbours": [row | {"k": 5}],
        "seconds": {"features": 1.0, "heads": 2.0},
    }
    linear_curve, neighbours = curves(report)
    assert [point[0] for point in linear_curve.points] == [40, 480]
    assert [point[1] for point in linear_curve.points] == [pytest.approx(192), 0]
    assert (neighbours.name, neighbours.colour) == ("nearest neighbours", 2)
    confusion = np.array([[3, 1], [0, 6]])
    page = probe_page(report, confusion, ["a", "<b>"])
    assert page.count("<polyline") == 2
    assert (page.count("<td>1%</td>"), page.count("<td>100%</td>")) == (2, 1)
    assert page.count("stopped short of its optimum") == 1
    matrix = page.split("<body>")[1].split("matrix")[1]
    assert ("&lt;w&gt;" in page, "<b>" in matrix, "k 5" in page) == (True, False, True)
    assert 'transparent">6</td>' in page.replace(")", "")
    assert '<table class="matrix"' not in probe_page(report, np.eye(40, dtype=int), [f"c{n}" for n in range(40)])


def test_the_strength_is_chosen_on_held_out_rows_of_train(blobs):
    head, tried = choose_head(blobs, CLASSES)
    best = max(row["correct"] for row in tried)
    assert head.is_optimal
    assert head.loss < np.log(CLASSES)
    assert {row["held_out"] for row in tried} == {sum(-(-count // 10) for count in np.bincount(blobs.labels))}
    assert best > tried[0]["held_out"] / 2


def coloured(label: int, seed: int) -> bytes:
    import io

    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 90, (32, 32, 3), dtype=np.uint8)
    noise[..., label] += 150
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def records(tmp_path) -> Path:
    """Red, green and blue pictures; the network has never seen their classes."""
    rows = {
        split: [
            Row(coloured(n % CLASSES, first + n), n % CLASSES, sample_id=n, key=f"{split}_{n}", height=32, width=32)
            for n in range(count)
        ]
        for split, count, first in (("train", 36, 0), ("val", 12, 1000))
    }
    table = [ClassEntry(index, f"n{index:08d}", f"colour {index}") for index in range(CLASSES)]
    return finished_records(tmp_path / "records", rows, table, {"rows": 48}, is_verified=False)


@pytest.mark.slow
def test_the_command_makes_a_checkpoint_whose_accuracy_is_the_reports(tmp_path, records):
    prepare("CPU")
    config = ConvNeXtConfig("small", (1, 1, 1, 1), (8, 16, 24, 32), num_classes=0)
    licence = {"file": "w", "licence": "mit", "licence_from": "a file", "licence_words": "Keep it"}
    card = ModelCard(config, (), EvalTransform(size_px=32), {"imported": licence})
    weights, out = tmp_path / "w.safetensors", tmp_path / "probe"
    save_weights(weights, init_parameters(config, 1), card)
    arguments = [
        "probe",
        str(records),
        "--weights",
        str(weights),
        "--out",
        str(out),
        "--fraction",
        "0.5",
        "--fraction",
        "1",
        "--mlp",
        "16",
    ]
    done = CliRunner().invoke(train, [*arguments, "--workers", "1"])
    assert done.exit_code == 0, done.output
    report = json.loads((out / "report.json").read_text())
    right = report["linear"][-1]["top1_correct"]
    assert right > 8
    assert [[row["fraction"] for row in report[kind]] for kind in ("linear", "mlp", "neighbours")] == [[0.5, 1.0]] * 3
    assert report["mlp"][-1]["top1_correct"] > 8
    assert f"{right} " in (out / "report.html").read_text()
    assert f"linear, 100% of the labels: top-1 {right}/12" in done.output
    found = CliRunner().invoke(serve, ["eval", str(out / "probe.safetensors"), "--records", str(records)])
    assert f"top-1 {right}/12" in found.output
    _, made = load_weights(out / "probe.safetensors")
    assert made.provenance["licences"] == [licence]
    before = (out / "probe.safetensors").read_bytes()
    (out / "features" / "val" / "_SUCCESS").unlink()
    assert CliRunner().invoke(train, [*arguments, "--workers", "1"]).exit_code == 0
    assert (out / "probe.safetensors").read_bytes() == before
