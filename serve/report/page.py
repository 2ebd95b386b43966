"""The evaluation as one HTML page that needs no other file. Pure: numbers in, text out; every foreign text is escaped.

It stays small for any split: a few worst classes with a few pictures of 96 px each, and tables of bounded length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from convnext_imagenet.records.report.classes import sort_head
from convnext_imagenet.records.report.page import data_uri, html_page, links_to, plural, provenance_section, table
from convnext_imagenet.serve.report.chart import STYLE, reliability_svg
from convnext_imagenet.serve.report.numbers import Bin, ClassNumbers, worst_first
from convnext_imagenet.serve.report.tables import Evaluation

WORST_CLASSES = 20
MISTAKES_SHOWN = 6
_MOST_PAIRS = 200
_MOST_CLASSES = 2000
_MOST_LETTERS = 80
_ANCHORS = {
    "worst": "Worst classes",
    "pairs": "Confused pairs",
    "calibration": "Calibration",
    "class-table": "Classes",
    "provenance": "Provenance",
}


@dataclass(frozen=True)
class Mistake:
    """An image that was named wrongly: its key, the class it was taken for, how surely, and a small JPEG."""

    key: str
    named: int
    confidence: float
    picture: bytes | None


def evaluation_page(
    evaluation: Evaluation, mistakes: Mapping[int, Sequence[Mistake]], split: str, provenance: Mapping[str, Any]
) -> str:
    """The page; `mistakes` maps the index of each of the worst classes to some of its misnamed images."""
    sections = (
        _head(evaluation, split),
        _worst(evaluation, mistakes),
        _pairs(evaluation),
        _calibration(evaluation),
        _classes(evaluation),
        provenance_section(provenance),
    )
    return html_page(f"Evaluation on {split}", "".join(sections), STYLE)


def _head(evaluation: Evaluation, split: str) -> str:
    accuracy, real = evaluation.accuracy, evaluation.real
    rows = [
        ("top-1", _percent(accuracy.top1), accuracy.top1_correct, accuracy.rows),
        (f"top-{accuracy.guesses}", _percent(accuracy.top5), accuracy.top5_correct, accuracy.rows),
    ]
    note = ""
    if real:
        rows.append(("ReaL top-1", _percent(real.accuracy), real.correct, real.rows))
        note = f"<p>{plural(real.unlabelled, 'image')} without ReaL labels: left out of that line alone.</p>\n"
    return (
        f"<header><h1>Evaluation on {escape(split)}</h1>\n<p>{plural(accuracy.rows, 'image')} of "
        f"{plural(len(evaluation.classes), 'class')}, each counted once.</p>\n{links_to(_ANCHORS)}</header>\n"
        f"<section><h2>Accuracy</h2>\n{table(('', '#Share', '#Right', '#Of'), rows)}{note}</section>\n"
    )


def _worst(evaluation: Evaluation, mistakes: Mapping[int, Sequence[Mistake]]) -> str:
    worst = worst_first(evaluation.per_class)[:WORST_CLASSES]
    blocks = "".join(_worst_class(evaluation, each, mistakes.get(each.index, ())) for each in worst)
    return (
        '<section id="worst"><h2>Worst classes</h2>\n<p>The lowest top-1 first, with the mistakes of which the network '
        f"was surest. At most {WORST_CLASSES} classes and {MISTAKES_SHOWN} images of each.</p>\n{blocks}</section>\n"
    )


def _worst_class(evaluation: Evaluation, each: ClassNumbers, mistakes: Sequence[Mistake]) -> str:
    wnid, _ = evaluation.classes[each.index]
    figures = "".join(_figure(evaluation, each.index, mistake) for mistake in mistakes)
    return (
        f"<h3>{_name(evaluation, each.index)} <code>{escape(wnid)}</code></h3>\n<p>{each.top1_correct:,} of "
        f'{each.rows:,} right ({_percent(each.top1)})</p>\n<div class="mistakes">{figures}</div>\n'
    )


def _figure(evaluation: Evaluation, true: int, mistake: Mistake) -> str:
    key, named = escape(_shortened(mistake.key)), _name(evaluation, mistake.named)
    picture = "<p>no picture</p>"
    if mistake.picture is not None:
        picture = f'<img src="{data_uri(mistake.picture)}" alt="{key}" title="{key}" loading="lazy">'
    return (
        f"<figure>{picture}<figcaption><b>{named} {mistake.confidence:.1%}</b>"
        f"is {_name(evaluation, true)}<br><code>{key}</code></figcaption></figure>"
    )


def _pairs(evaluation: Evaluation) -> str:
    if not evaluation.confusions:
        return '<section id="pairs"><h2>Confused pairs</h2>\n<p>No image was named wrongly.</p></section>\n'
    rows = [
        (_plain(evaluation, pair.true), _plain(evaluation, pair.named), pair.count)
        for pair in evaluation.confusions[:_MOST_PAIRS]
    ]
    return (
        '<section id="pairs"><h2>Confused pairs</h2>\n'
        f"{table(('Is', 'Was named', '#Images'), rows, is_long=True)}"
        f"{_rest(len(evaluation.confusions), _MOST_PAIRS, 'pairs', 'confusion.parquet')}</section>\n"
    )


def _calibration(evaluation: Evaluation) -> str:
    heads = ("Probability above", "up to", "#Images", "#Right", "#Share right", "#Mean probability")
    return (
        '<section id="calibration"><h2>Calibration</h2>\n<p>Is the network right as often as it says? Expected '
        f"calibration error: {evaluation.calibration_error:.4f} (mean distance of the two over images in "
        f"{len(evaluation.bins)} bins of equal width; Guo et al. 2017).</p>\n{reliability_svg(evaluation.bins)}"
        f"{table(heads, [_bin_row(each) for each in evaluation.bins])}</section>\n"
    )


def _bin_row(each: Bin) -> tuple[object, ...]:
    shares = (_percent(each.accuracy), _percent(each.mean_confidence))
    return (f"{each.low:.3f}", f"{each.high:.3f}", each.rows, each.correct, *shares)


def _classes(evaluation: Evaluation) -> str:
    numbers = ("Images", "Top-1", f"Top-{evaluation.accuracy.guesses}", "Mean probability", "Named", "Precision")
    heads = f"{sort_head('Index', 'n')}{sort_head('Wnid')}{sort_head('Name')}"
    heads += "".join(sort_head(text, "n") for text in numbers)
    with_rows = worst_first(evaluation.per_class)
    ordered = with_rows + [each for each in evaluation.per_class if not each.rows]
    body = "".join(_class_row(evaluation, each) for each in ordered[:_MOST_CLASSES])
    return (
        '<section><h2 id="class-table">Classes</h2>\n<p>Named: how often any image was named so; precision: how many '
        'of these are of the class.</p>\n<div class="tools">'
        '<label><input type="search" id="filter" placeholder="Filter by wnid, name or index"></label>'
        '<label><input type="checkbox" id="differing"> only those with mistakes</label>'
        f'<span class="dim" id="shown">{plural(len(ordered), "class")}</span></div>\n'
        f'<table id="classes"><thead><tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table>\n'
        f"{_rest(len(ordered), _MOST_CLASSES, 'classes', 'per_class.parquet')}</section>\n"
    )


def _class_row(evaluation: Evaluation, each: ClassNumbers) -> str:
    wnid, name = (_shortened(text) for text in evaluation.classes[each.index])
    text = escape(f"{each.index} {wnid} {name}".lower())
    differs = ' data-differs="1"' if each.top1_correct < each.rows else ""
    cells = "".join(_share_cell(value) for value in (each.top1, each.top5, each.mean_confidence))
    return (
        f'<tr data-text="{text}"{differs}><td class="n">{each.index}</td><td><code>{escape(wnid)}</code></td>'
        f'<td class="name">{escape(name)}</td>{_count_cell(each.rows)}{cells}{_count_cell(each.named)}'
        f"{_share_cell(each.precision)}</tr>\n"
    )


def _count_cell(value: int) -> str:
    return f'<td class="n" data-v="{value}">{value:,}</td>'


def _share_cell(value: float | None) -> str:
    return f'<td class="n" data-v="{-1 if value is None else value:.6g}">{_percent(value)}</td>'


def _rest(number: int, most: int, what: str, where: str) -> str:
    return f'<p class="dim">The first {most:,} of {number:,} {what}; all are in {where}.</p>\n' * (number > most)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _plain(evaluation: Evaluation, index: int) -> str:
    return _shortened(evaluation.classes[index][1].split(",")[0].strip() or evaluation.classes[index][0])


def _name(evaluation: Evaluation, index: int) -> str:
    return escape(_plain(evaluation, index))


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 3]}..."
