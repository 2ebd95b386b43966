"""The report's page: it needs no other file, and foreign text cannot break it."""

import re

import pytest

from convnext_imagenet.records.manifest import ClassEntry, Manifest, ShardEntry, SplitEntry
from convnext_imagenet.records.report.numbers import Copy, Duplicate, count
from convnext_imagenet.records.report.page import _MOST_LISTED, report_page

from ...page_reader import HOSTILE, Page
from .test_numbers import SOME, index_table

SHARD = ShardEntry("s.mindrecord", 4, 1010, "0" * 64, 10, "0" * 64)
BAD = {"split": "train", "path": "train/a/<a>.JPEG", "label": 0, "reason": "truncated", "detail": "no end & no start"}


def manifest(devkit_train=(2, 2), names=("first", "second"), source=None) -> Manifest:
    classes = tuple(ClassEntry(i, f"n0000000{i}", names[i], devkit_train[i], None) for i in range(2))
    splits = {"train": SplitEntry(4, (2, 2), 0, (SHARD,)), "val": SplitEntry(1, (1, 0), 0, (SHARD,))}
    source = {"verified": True, "devkit_sha256": "1" * 64} if source is None else source
    return Manifest(1, "plan", classes, splits, source, 0, {"mindspore": "2.10.0"})


def page(the_manifest=None, quarantined=(), thumbnails=None, index=SOME) -> str:
    the_manifest = the_manifest or manifest()
    return report_page(the_manifest, count(index, list(the_manifest.splits)), quarantined, thumbnails or {})


def test_the_page_needs_no_other_file():
    text = page(thumbnails={0: [b"\xff\xd8picture"]})
    assert 'src="data:image/jpeg;base64,' in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert "@import" not in text
    assert "url(" not in text


@pytest.mark.parametrize(
    ("devkit_train", "expected"),
    [((2, 2), "Every class has the devkit's counts"), ((2, 3), "1 class with other counts than the devkit's")],
)
def test_counts_are_compared_with_the_devkit(devkit_train, expected):
    text = page(manifest(devkit_train))
    assert expected in text
    assert text.count('data-differs="1"') == sum(count != 2 for count in devkit_train)


def test_without_a_devkit_nothing_is_compared_and_the_page_says_so():
    text = page(manifest((None, None), source={"verified": False}))
    assert "labels not verified" in text
    assert "counts it" not in text
    assert 'data-differs="1"' not in text


def test_foreign_text_is_escaped():
    text = page(manifest(names=("<script>alert(1)</script>", "b & c")), [BAD])
    assert "<script>alert" not in text
    assert "b &amp; c" in text
    assert "train/a/&lt;a&gt;.JPEG" in text
    assert "no end &amp; no start" in text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_stays_a_text_wherever_it_stands(text):
    def read(text):
        rows = [(split, text, text, 1, 1, 1, text, text, 0) for split in ("train", "val")]
        bad = {**BAD, "path": text, "reason": text, "detail": text}
        foreign = manifest(names=(text, text), source={text: text})
        return Page(page(foreign, [bad], {0: [b"jpeg"]}, index_table(*rows)))

    found, plain = read(text), read("a")
    assert found.tags == plain.tags
    assert found.attributes == plain.attributes
    # Two class names; a mode; wnid and key of two copies; reason twice, path, detail; a fact's name and value.
    assert found.text.count(text) == 2 + 1 + 4 + 4 + 2


def test_quarantine_and_duplicates_are_listed_up_to_a_number():
    rows = [("train", f"a_{k}", "a", 1, 1, 1, "RGB", str(k // 2), 0) for k in range(2 * _MOST_LISTED + 2)]
    text = page(quarantined=[BAD] * (_MOST_LISTED + 1), index=index_table(*rows))
    assert f"The first {_MOST_LISTED} of {_MOST_LISTED + 1} files; all are in quarantine.parquet." in text
    assert f"The first {_MOST_LISTED} of {_MOST_LISTED + 1} sets; all are in index.parquet, by sha256." in text
    assert text.count("train/a/&lt;a&gt;.JPEG") == _MOST_LISTED


def test_nothing_bad_and_nothing_twice_is_said():
    text = page(index=SOME.slice(1))
    assert Duplicate((Copy("train", "b_1", "b"), Copy("val", "v_1", "a"))).splits in text
    text = page(index=SOME.slice(3, 1))
    assert "No two images have the same bytes." in text
    assert "Every image was stored." in text


def test_shards_are_measured_against_the_bytes_of_their_images():
    assert "27.50 %" in page()


def test_images_of_a_class_are_one_number_when_all_have_it():
    text = page()
    assert '<td class="n">2</td><td class="n">0</td>' in text
    assert '<td class="n">0 to 1</td>' in text
