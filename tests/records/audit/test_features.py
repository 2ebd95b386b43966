"""Features of a network: near images get near hashes, strangers are far, and smaller crops are found by them."""

import numpy as np
import pytest

from convnext_imagenet.records.audit.confirm import compare, compare_crops
from convnext_imagenet.records.audit.evidence import Asked
from convnext_imagenet.records.audit.features import describe, feature_space, outliers
from convnext_imagenet.records.audit.fingerprint import CROPS, fingerprint
from convnext_imagenet.records.audit.job import open_audit
from convnext_imagenet.records.audit.neighbours import count_bits
from convnext_imagenet.records.audit.pairs import find_pairs
from convnext_imagenet.records.audit.parts import Views
from convnext_imagenet.records.audit.sources import open_source

from .conftest import jpeg, picture

WIDTH, CLASSES = 24, 4


def _features(rows=400, seed=0):
    """Rows of four classes that lie far apart, spread unequally along other directions."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows)
    centres = 30 * rng.standard_normal((CLASSES, WIDTH))
    spread = np.linspace(0.5, 3, WIDTH)
    return labels, (centres[labels] + spread * rng.standard_normal((rows, WIDTH))).astype(np.float32)


def _parts(features, rows=64):
    numbers = np.arange(len(features))
    return lambda: ((numbers[k : k + rows], features[k : k + rows]) for k in range(0, len(features), rows))


def test_whitened_features_have_unit_spread_within_classes():
    labels, features = _features()
    space = feature_space(labels, _parts(features))
    white = space.whiten(features)
    within = white - space.classes[labels]
    np.testing.assert_allclose(np.cov(within.T, bias=True), np.eye(WIDTH), atol=0.02)


@pytest.mark.parametrize("rows", [1, 64, 400])
def test_a_description_does_not_depend_on_the_parts(rows):
    labels, features = _features()
    whole, found = describe(labels, _parts(features)), describe(labels, _parts(features, rows))
    assert (whole.hashes == found.hashes).all()
    np.testing.assert_allclose(whole.distances, found.distances, rtol=1e-4)


def test_near_features_have_near_hashes_and_others_of_the_class_have_not():
    labels, features = _features()
    rng = np.random.default_rng(1)
    features[1] = features[0] + 0.05 * rng.standard_normal(WIDTH)
    labels[1] = labels[0]
    found = describe(labels, _parts(features))
    bits = count_bits(found.hashes[0] ^ found.hashes[1:].copy())
    assert bits[0] <= 6
    same_class = bits[1:][labels[2:] == labels[0]]
    assert np.median(same_class) > 20


def test_a_stranger_is_far_from_every_class_and_a_row_without_features_is_not():
    labels, features = _features()
    features[7] += 60 * np.random.default_rng(2).standard_normal(WIDTH)
    features[9] = np.nan
    distances = describe(labels, _parts(features)).distances
    assert np.isnan(distances[9])
    assert np.flatnonzero(np.isnan(distances)).tolist() == [9]
    places, above = outliers(distances, 4.0)
    assert places.tolist() == [7]
    assert above[0] > 4


@pytest.mark.parametrize("distances", [[], [np.nan, np.nan], [0.0, 0.0, 0.0], [1.0, 1.0, 9.0]])
def test_outliers_need_a_spread(distances):
    assert outliers(np.array(distances), 4.0)[0].tolist() == []


def test_nothing_is_described_without_features():
    found = describe(np.array([0, 1]), lambda: iter(()))
    assert np.isnan(found.distances).all()


@pytest.mark.parametrize("share", [0.65, 0.8])
def test_a_smaller_crop_is_aligned_only_by_the_search_for_it(share):
    scene = picture(7, 320, 240)
    box = tuple(round(value) for value in (40, 20, 40 + 320 * share, 20 + 240 * share))
    whole, part = (fingerprint(np.asarray(image)).small for image in (scene, scene.crop(box)))
    assert min(compare(whole, part, window).distance for window in CROPS) > 0.3
    match = compare_crops(whole, part)
    assert match.distance < 0.25
    assert match.length == pytest.approx(share, abs=0.04)
    others = [compare_crops(fingerprint(np.asarray(picture(seed, 320, 240))).small, part) for seed in range(20, 30)]
    assert min(other.distance for other in others) > 0.4


def test_features_lead_to_pairs_that_hashes_miss(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(6):
        (images / f"{seed}.jpg").write_bytes(jpeg(picture(seed, 320, 240)))
    (images / "6.jpg").write_bytes(jpeg(picture(2, 320, 240).crop((40, 20, 264, 188))))
    with open_audit(open_source(images), Asked(), images, tmp_path / "audit", 1) as job:
        job.write_parts(lambda count: None, lambda: False)
    rng = np.random.default_rng(0)
    hashes = rng.integers(1, 1 << 63, 7, dtype=np.uint64)
    hashes[6] = hashes[2] ^ np.uint64(5)
    hashes[5] = hashes[4] ^ np.uint64(9)  # near features of other pictures are not confirmed
    views = Views.open(tmp_path / "audit", job.parts, 7)
    assert find_pairs(views, 1).pairs == []
    found = find_pairs(views, 1, features=hashes)
    assert [(pair.first, pair.second, pair.kind) for pair in found.pairs] == [(2, 6, "cropped")]
    assert found.candidates == 2
    views.close()
