"""Copies of eight kinds are found, and no others: hashes propose, small pictures decide, nothing compares all pairs."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.records.audit.confirm import compare
from convnext_imagenet.records.audit.evidence import Asked
from convnext_imagenet.records.audit.fingerprint import CROPS, fingerprint, mirrored, window_hashes
from convnext_imagenet.records.audit.job import open_audit
from convnext_imagenet.records.audit.neighbours import count_bits, near_hashes
from convnext_imagenet.records.audit.sources import open_source

from .conftest import jpeg, picture, planted_copies


def _audit(images, out):
    with open_audit(open_source(images), Asked(), images, out, 2) as job:
        job.write_parts(lambda count: None, lambda: False)
        summary = job.finish((), job.compare())
    return summary, pq.read_table(out / "pairs.parquet").to_pylist()


def test_planted_copies_of_every_kind_are_found_and_nothing_else(tmp_path):
    rng, images, per_kind = np.random.default_rng(1), tmp_path / "images", 10
    images.mkdir()
    planted = {}
    for seed in range(per_kind * len(planted_copies.KINDS)):
        kind = list(planted_copies.KINDS)[seed % len(planted_copies.KINDS)]
        (images / f"{seed:03d}.jpg").write_bytes(jpeg(picture(seed)))
        (images / f"{seed:03d}-copy.jpg").write_bytes(planted_copies.KINDS[kind](picture(seed), rng))
        planted[f"{seed:03d}"] = kind
    _, pairs = _audit(images, tmp_path / "audit")
    names = [(pair["key_a"][:3], pair["key_b"][:3]) for pair in pairs]
    assert [pair for pair in names if pair[0] != pair[1]] == []
    missed = [kind for name, kind in planted.items() if (name, name) not in names]
    assert len(missed) <= 0.05 * len(planted), missed


def test_equal_pixels_in_other_files_are_equal_and_a_changed_pixel_is_not(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    scene = picture(1)
    scene.save(images / "a.png")
    scene.save(images / "b.png", compress_level=1)
    changed = scene.copy()
    changed.putpixel((5, 5), (0, 0, 0) if scene.getpixel((5, 5)) != (0, 0, 0) else (9, 9, 9))
    changed.save(images / "c.png")
    assert (images / "a.png").read_bytes() != (images / "b.png").read_bytes()
    _, pairs = _audit(images, tmp_path / "audit")
    assert {(pair["key_a"], pair["key_b"]): pair["kind"] for pair in pairs} == {
        ("a.png", "b.png"): "equal",
        ("a.png", "c.png"): "near",
    }


def test_a_hash_ignores_light_and_knows_its_mirror_image():
    small = fingerprint(np.asarray(picture(3))).small
    (hash_,) = window_hashes(small[None], CROPS[:1])[0]
    flipped = window_hashes(np.ascontiguousarray(small[None, :, ::-1]), CROPS[:1])[0, 0]
    lighter = window_hashes((small // 2 + 60)[None], CROPS[:1])[0, 0]
    assert count_bits(np.array([mirrored(np.array([hash_]))[0] ^ flipped]))[0] <= 2
    assert count_bits(np.array([hash_ ^ lighter]))[0] <= 2
    assert count_bits(np.array([hash_ ^ flipped]))[0] > 10


@pytest.mark.parametrize("distance", range(8))
def test_hashes_within_seven_bits_are_always_found(distance):
    rng = np.random.default_rng(distance)
    entries = rng.integers(0, 1 << 64, 400, dtype=np.uint64)
    flips = np.array(
        [sum(1 << int(bit) for bit in rng.choice(64, distance, replace=False)) for _ in entries], np.uint64
    )
    found = {}
    for hits in near_hashes(entries ^ flips, entries, 10):
        pairs = zip(hits.queries.tolist(), hits.entries.tolist(), strict=True)
        found |= dict(zip(pairs, hits.distances.tolist(), strict=True))
    assert all(found.get((row, row)) == distance for row in range(len(entries)))


def test_the_search_agrees_with_comparing_all_pairs_within_seven_bits():
    rng = np.random.default_rng(5)
    entries = rng.integers(0, 1 << 16, 300, dtype=np.uint64) * np.uint64(0x0001000100010001)
    found = set()
    for hits in near_hashes(entries, entries, 7):
        found |= set(zip(hits.queries.tolist(), hits.entries.tolist(), strict=True))
    distances = count_bits(entries[:, None] ^ entries)
    assert found == set(zip(*(place.tolist() for place in np.nonzero(distances <= 7)), strict=True))


def test_a_crop_is_aligned_and_another_scene_is_not_confirmed():
    scene = picture(7, 200, 160)
    whole = fingerprint(np.asarray(scene)).small
    part = fingerprint(np.asarray(scene.crop((10, 5, 190, 149)))).small
    match = compare(whole, part, CROPS[0])
    assert match.distance < 0.2
    assert match.length == pytest.approx(0.9, abs=0.02)
    assert compare(whole, fingerprint(np.asarray(picture(8))).small, CROPS[0]).distance > 0.5


def test_flat_images_are_flagged_and_not_compared(tmp_path):
    images = tmp_path / "train" / "grey"
    images.mkdir(parents=True)
    for level in range(3):
        image = picture(1).point(lambda value, level=level: 100 + level)
        (images / f"{level}.jpg").write_bytes(jpeg(image))
    summary, pairs = _audit(tmp_path / "train", tmp_path / "audit")
    assert pairs == []
    assert summary["flags"]["blank"] == 3
