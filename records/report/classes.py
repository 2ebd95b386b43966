"""The class table of the report: counts against the devkit, and a few pictures of each class."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from convnext_imagenet.records.manifest import ClassEntry

_FEW_PICTURES = 4


@dataclass(frozen=True)
class ClassLine:
    """One class: stored images of each split, images in quarantine, and pictures as data URIs."""

    entry: ClassEntry
    images: dict[str, int]
    quarantined: int
    pictures: tuple[str, ...]

    def missing(self, split: str) -> int | None:
        """How many images of the devkit's are not stored; None when no devkit counts them."""
        expected = self.entry.devkit_images(split)
        return None if expected is None else expected - self.images[split]

    @property
    def differs(self) -> bool:
        """True when a split does not hold what the devkit counts."""
        return any(self.missing(split) for split in self.images)


def classes_section(lines: Sequence[ClassLine], splits: Sequence[str]) -> str:
    """The table with its filter; the script of the page sorts and filters it."""
    counts = "".join(f"{sort_head(name, 'n')}{sort_head(f'{name}, devkit', 'n')}" for name in splits)
    heads = f"{sort_head('Index', 'n')}{sort_head('Wnid')}{sort_head('Name')}{counts}{sort_head('Quarantine', 'n')}"
    heads += "<th>Pictures</th>"
    body = "".join(_row(line, splits) for line in lines)
    return (
        '<section><h2 id="class-table">Classes</h2>\n<div class="tools">'
        '<label><input type="search" id="filter" placeholder="Filter by wnid, name or index"></label>'
        '<label><input type="checkbox" id="differing"> only those that differ from the devkit</label>'
        f'<span class="dim" id="shown">{len(lines)} classes</span></div>\n'
        f'<table id="classes"><thead><tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table></section>\n'
    )


def sort_head(text: str, kind: str = "") -> str:
    """A head of the table whose click sorts by it; kind "n" marks numbers."""
    mark = f' class="{kind}"' if kind else ""
    return f'<th scope="col"{mark}><button type="button">{escape(text)}</button></th>'


def _row(line: ClassLine, splits: Sequence[str]) -> str:
    entry = line.entry
    counts = "".join(_counts(line, split) for split in splits)
    text = escape(f"{entry.index} {entry.wnid} {entry.name}".lower())
    differs = ' data-differs="1"' if line.differs else ""
    few = " few" if len(line.pictures) <= _FEW_PICTURES else ""
    pictures = "".join(f'<img src="{uri}" alt="" loading="lazy">' for uri in line.pictures)
    return (
        f'<tr data-text="{text}"{differs}><td class="n">{entry.index}</td><td><code>{escape(entry.wnid)}</code></td>'
        f'<td class="name">{escape(entry.name)}</td>{counts}{_number(line.quarantined, bad=line.quarantined > 0)}'
        f'<td class="thumbs{few}">{pictures}</td></tr>\n'
    )


def _counts(line: ClassLine, split: str) -> str:
    expected = line.entry.devkit_images(split)
    return _number(line.images[split], bad=bool(line.missing(split))) + _number(expected, bad=False)


def _number(value: int | None, bad: bool) -> str:
    if value is None:
        return '<td class="n dim" data-v="-1">-</td>'
    mark = " bad" if bad else "" if value else " dim"
    return f'<td class="n{mark}" data-v="{value}">{value:,}</td>'
