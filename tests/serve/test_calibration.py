"""Measures of uncertainty are those of their papers, and sets hold the true class as often as they say."""

import dataclasses
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.records.reader import Records
from convnext_imagenet.serve.calibration import calibrate, read_calibration
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import list_folder
from convnext_imagenet.serve.inputs.records import open_split
from convnext_imagenet.serve.measures import MEASURES
from convnext_imagenet.serve.predict.job import open_job
from convnext_imagenet.serve.report.report import begin_report, report_options
from convnext_imagenet.serve.scoring import probabilities
from convnext_imagenet.serve.settings import PredictOptions

from .conftest import build_records, class_table, picture

COVERAGE = 0.9
SPLITS, ROWS, CLASSES = 100, 600, 20


def _drawn(seed, rows, sharpness=1.0):
    """Logits, and labels that the probabilities of sharper logits are right about."""
    rng = np.random.default_rng(seed)
    logits_NK = rng.normal(0, 2, (rows, CLASSES))
    true_NK = probabilities(logits_NK * sharpness).astype(np.float64)
    draws_N = rng.random(rows)
    labels_N = (true_NK.cumsum(axis=1) < draws_N[:, None]).sum(axis=1).clip(0, CLASSES - 1)
    return logits_NK.astype(np.float32), labels_N


def _calibrate(logits_NK, labels_N, known=CLASSES, coverage=COVERAGE):
    scores_NK = probabilities(logits_NK)
    true_N = scores_NK[np.arange(len(labels_N)), labels_N]
    is_known_N = (scores_NK > true_N[:, None]).sum(axis=1) < known
    return calibrate(
        scores_NK.max(axis=1), scores_NK.argmax(axis=1) == labels_N, np.where(is_known_N, true_N, 0), coverage
    )


def test_measures_of_known_logits():
    logits_NK = np.log(np.array([[0.5, 0.25, 0.25], [1 / 3] * 3], np.float32)) + np.float32(7)
    found = {name: measure(logits_NK) for name, measure in MEASURES.items()}
    np.testing.assert_allclose(found["margin"], [0.25, 0], atol=1e-6)
    np.testing.assert_allclose(found["entropy"], [1.5 * math.log(2), math.log(3)], atol=1e-6)
    np.testing.assert_allclose(found["energy"], [-7, -7], atol=1e-6)
    np.testing.assert_allclose(found["max_logit"], [7 + math.log(0.5), 7 - math.log(3)], atol=1e-6)
    huge = np.array([[1e4, -1e4, 0]], np.float32)
    assert [float(measure(huge)[0]) for measure in MEASURES.values()] == [1, 0, -1e4, 1e4]
    assert [float(measure(huge[:, :1])[0]) for measure in MEASURES.values()] == [1, 0, -1e4, 1e4]


@pytest.mark.parametrize("known", [CLASSES, 5])
def test_sets_hold_the_true_class_as_often_as_stated_over_random_splits(known):
    """Split conformal prediction covers 1 - alpha of new images on average: checked by a binomial interval.

    With only five known probabilities the threshold is lower or equal, so the sets hold it at least as often.
    """
    held, coverage = 0, 0.85
    logits_NK, labels_N = _drawn(7, 2 * ROWS, sharpness=1.3)
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(2 * ROWS)
        seen, new = order[:ROWS], order[ROWS:]
        found = _calibrate(logits_NK[seen], labels_N[seen], known, coverage)
        sets = found.sets(probabilities(logits_NK[new]))
        held += sum(label in members for label, members in zip(labels_N[new].tolist(), sets, strict=True))
    # splits share their images, so one split's worth of images is what the interval may count on
    width = 3 * math.sqrt(coverage * (1 - coverage) / ROWS)
    assert coverage - width <= held / (SPLITS * ROWS)
    if known == CLASSES:
        assert held / (SPLITS * ROWS) <= coverage + width


def test_each_of_many_fresh_splits_lies_in_the_interval_of_its_size():
    outside = 0
    for seed in range(SPLITS):
        logits_NK, labels_N = _drawn(1000 + seed, 2 * ROWS)
        sets = _calibrate(logits_NK[:ROWS], labels_N[:ROWS]).sets(probabilities(logits_NK[ROWS:]))
        held = sum(label in members for label, members in zip(labels_N[ROWS:].tolist(), sets, strict=True))
        # the threshold is drawn, too: its variance adds to that of the new images
        outside += abs(held / ROWS - COVERAGE) > 1.96 * math.sqrt(2 * COVERAGE * (1 - COVERAGE) / ROWS)
    assert outside <= 12, "5 of 100 are expected; 12 or fewer in 99.8 % of all draws"


def test_the_calibrated_score_rises_and_is_the_share_of_right_answers():
    logits_NK, labels_N = _drawn(3, 20_000, sharpness=0.5)  # a network that is too sure
    scores_NK = probabilities(logits_NK)
    best_N, is_right_N = scores_NK.max(axis=1), scores_NK.argmax(axis=1) == labels_N
    calibrated_N = _calibrate(logits_NK[:10_000], labels_N[:10_000]).calibrated(best_N[10_000:])
    order = np.argsort(best_N[10_000:])
    assert (np.diff(calibrated_N[order]) >= 0).all()
    for low, high in ((0, 0.3), (0.3, 0.6), (0.6, 1.01)):
        chosen = (calibrated_N >= low) & (calibrated_N < high)
        if chosen.sum() > 500:
            assert calibrated_N[chosen].mean() == pytest.approx(is_right_N[10_000:][chosen].mean(), abs=0.05)
    assert abs(best_N[10_000:].mean() - is_right_N[10_000:].mean()) > 0.1, "the scores themselves are wrong"


@pytest.mark.parametrize(("coverage", "known"), [(0.999, CLASSES), (0.95, 1)])
def test_a_coverage_that_does_not_follow_is_refused(coverage, known):
    logits_NK, labels_N = _drawn(5, 300)
    with pytest.raises(ServeError, match=rf"coverage {coverage:g} does not follow from 300 evaluated images"):
        _calibrate(logits_NK, labels_N, known, coverage)


@pytest.fixture
def report(fake, tmp_path):
    """A report of 60 images whose best class is right in most cases."""
    images = [picture(seed) for seed in range(60)]
    (tmp_path / "first").mkdir()
    for seed, image in enumerate(images):
        (tmp_path / "first" / f"{seed:02d}.jpg").write_bytes(image)
    with open_job(fake, list_folder(tmp_path / "first"), tmp_path / "guess", PredictOptions(topk=1)) as job:
        job.run(lambda count: None)
    best = pq.read_table(tmp_path / "guess")["top1_index"].to_pylist()
    labels = [index if place % 4 else (index + 1) % 7 for place, index in enumerate(best)]
    records = Records.open(build_records(tmp_path / "records", images, labels))
    with begin_report(tmp_path / "report", fake, records.split("val"), None, report_options(8, 2, "CPU")) as made:
        made.job.run(lambda count: None)
    return tmp_path / "report"


def test_columns_of_uncertainty_and_of_a_calibration(fake, report, folder, tmp_path):
    wnids = [wnid for wnid, _ in class_table(7)]
    inputs = open_split(tmp_path / "records", "val", wnids)
    options = PredictOptions(topk=7, batch_size=8, extras=("logits", *MEASURES), calibration=report, coverage=0.8)
    with open_job(fake, inputs, tmp_path / "out", options) as job:
        job.run(lambda count: None)
    table = pq.read_table(tmp_path / "out")
    logits_NK = np.array(table["logits"].to_pylist(), np.float32)
    for name, measure in MEASURES.items():
        np.testing.assert_allclose(table[name].to_numpy(), measure(logits_NK), rtol=1e-6)
    rows = table.to_pylist()
    assert sum(row["label"] in row["conformal_set"] for row in rows) >= 0.8 * len(rows)
    assert all(row["conformal_set"][0] == row["top1_index"] for row in rows)
    assert sum(row["calibrated_score"] for row in rows) == pytest.approx(45, abs=1e-3), "as often right as it says"
    with pytest.raises(ArtefactError, match=r"differs in: calibration\.coverage"):
        _open_job(fake, inputs, tmp_path / "out", dataclasses.replace(options, coverage=0.7))
    with open_job(fake, list_folder(folder), tmp_path / "bad", options) as job:
        job.run(lambda count: None)
    bad = pq.read_table(tmp_path / "bad").to_pylist()[4]
    assert [bad[name] for name in (*MEASURES, "calibrated_score", "conformal_set")] == [None] * 6


def _open_job(*arguments):
    with open_job(*arguments):
        pass


def test_a_report_of_another_network_is_refused(fake, report, folder, tmp_path):
    other = dataclasses.replace(fake, sha256="0" * 64)
    with pytest.raises(ServeError, match=r"evaluates another network \(differs in: model\)"):
        _open_job(other, list_folder(folder), tmp_path / "out", PredictOptions(calibration=report))
    with pytest.raises(ServeError, match=r"none: no report of an evaluation; .*`convnext-serve eval --report`"):
        read_calibration(tmp_path / "none", {}, 0.9)
    assert not (tmp_path / "out").exists()
