"""What a dry run of a build takes as its sample, and what it concludes from the times."""

import pytest

from convnext_imagenet.ingest.shards.forecast import fit_costs, sample_share


@pytest.mark.parametrize(
    ("images", "source_bytes", "sampled"),
    [
        (1_281_167, 140 << 30, 200),
        (16_000, 64 << 20, 4_000),  # images of 4 KiB: 16 MiB of them
        (150, 150 << 20, 150),
        (3_000, 3 << 20, 3_000),
    ],
)
def test_a_sample_is_two_hundred_images_or_sixteen_mebibytes_of_small_ones(images, source_bytes, sampled):
    assert round(sample_share(images, source_bytes) * images) == sampled


def test_a_shard_costs_what_is_left_after_its_images():
    timings = [
        {"few": 8, "few_s": 0.5 + 8 * 0.01, "rows": 108, "seconds": 0.5 + 108 * 0.01},
        {"few": 8, "few_s": 0.7 + 8 * 0.01, "rows": 58, "seconds": 0.7 + 58 * 0.01},
    ]
    assert fit_costs(timings) == pytest.approx((0.6, 0.01))
    assert fit_costs([]) == (0.0, 0.0)
