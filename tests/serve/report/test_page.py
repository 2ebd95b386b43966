"""The evaluation's page: foreign text cannot break it, and it stays small."""

import pytest

from convnext_imagenet.serve.evaluate import Accuracy
from convnext_imagenet.serve.report.numbers import Bin, ClassNumbers, Confusion
from convnext_imagenet.serve.report.page import Mistake, evaluation_page
from convnext_imagenet.serve.report.tables import Evaluation

from ...page_reader import HOSTILE, Page


def _evaluation(**changes):
    classes = (("n0", "<b>bold</b>"), ("n1", 'say "hi" & go'), ("n2", "x" * 5000))
    values = {
        "classes": classes,
        "accuracy": Accuracy(rows=4, top1_correct=2, top5_correct=4, loss=0.75, guesses=3),
        "per_class": (
            ClassNumbers(0, 2, 1, 2, 1, 1.0),
            ClassNumbers(1, 2, 1, 2, 3, 1.5),
            ClassNumbers(2, 0, 0, 0, 0, 0.0),
        ),
        "confusions": (Confusion(0, 1, 1), Confusion(1, 0, 1)),
        "bins": tuple(
            Bin(place / 15, (place + 1) / 15, 4 * (place == 9), 2 * (place == 9), 2.5) for place in range(15)
        ),
        "real": None,
    }
    return Evaluation(**{**values, **changes})


def test_foreign_text_is_escaped_and_cut():
    mistakes = {0: [Mistake("<script>alert(1)</script>" + "k" * 5000, 1, 0.5, None)]}
    page = evaluation_page(_evaluation(), mistakes, "<val>", {"<key>": "<value>"})
    reader = Page(page)
    assert reader.tags.count("script") == 1
    assert "<b>bold" not in page
    assert "<val>" not in page
    assert "<value>" not in page
    text = reader.text
    assert "<b>bold</b>" in text
    assert "Mean cross entropy with the true label: 0.7500 nats" in text
    assert 'say "hi" & go' in text
    assert "no picture" in text
    assert "x" * 100 not in page
    assert "k" * 100 not in page


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_stays_a_text_wherever_it_stands(text):
    def read(text):
        evaluation = _evaluation(classes=((text, text),) * 3)
        mistakes = {0: [Mistake(text, 1, 0.5, b"jpeg"), Mistake(text, 1, 0.5, None)]}
        return Page(evaluation_page(evaluation, mistakes, text, {text: text}))

    found, plain = read(text), read("a")
    assert found.tags == plain.tags
    assert found.attributes == plain.attributes
    # Title, header; name and wnid of two worst classes; three of each mistake; two pairs; wnid and name of each class;
    # a fact's name and value.
    assert found.text.count(text) == 2 + 4 + 6 + 4 + 6 + 2


def test_the_page_stays_bounded_for_many_classes_and_pairs():
    many = 30_000
    evaluation = _evaluation(
        classes=tuple((f"n{index:08d}", f"name {index}") for index in range(many)),
        per_class=tuple(ClassNumbers(index, 5, 0, 0, 0, 0.5) for index in range(many)),
        confusions=tuple(Confusion(index, 0, 5) for index in range(1, many)),
    )
    mistakes = {index: [Mistake("key", 0, 0.5, b"x" * 4000)] * 6 for index in range(many)}
    page = evaluation_page(evaluation, mistakes, "val", {})
    reader = Page(page)
    assert reader.tags.count("img") == 20 * 6
    assert len(page) < 2_000_000
    text = reader.text
    assert "The first 200 of 29,999 pairs; all are in confusion.parquet." in text
    assert "The first 2,000 of 30,000 classes; all are in per_class.parquet." in text


def test_a_network_without_mistakes_has_a_page_too():
    classes = tuple(ClassNumbers(index, 2, 2, 2, 2, 1.0) for index in range(3))
    text = Page(evaluation_page(_evaluation(per_class=classes, confusions=()), {}, "val", {})).text
    assert "Every image was classified correctly." in text
