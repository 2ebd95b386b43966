"""What a dry run of predict concludes from its first parts."""

import pytest

from convnext_imagenet.serve.predict.forecast import expected_bytes


@pytest.mark.parametrize(
    ("rows", "sizes", "all_rows", "all_parts", "expected"),
    [
        ([32, 64, 128], [7000 + 32 * 80, 7000 + 64 * 80, 7000 + 128 * 80], 10_000, 9, 9 * 7000 + 10_000 * 80),
        ([32], [9_560], 32, 1, 9_560),
        ([50, 50], [9_000, 9_200], 200, 4, 36_400),
        ([32, 64], [9_000, 8_900], 128, 3, 27_000),  # a larger file that is smaller says nothing of a row
    ],
)
def test_bytes_are_those_of_files_and_of_rows(rows, sizes, all_rows, all_parts, expected):
    assert expected_bytes(rows, sizes, all_rows, all_parts) == expected
