"""The documents as data, for test_docs.py: links, headings, command lines and figures of Markdown files."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:make|convnext-[a-z]+)(?: |$)")
_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_MEASURED = re.compile(rf"({_NUMBER}) ?(images/s|%|MiB|GiB|GFLOP/s|GFLOP|ms|min|minutes|s|points)(?![\w/])")
_CELL = re.compile(rf"(?<=\|) ({_NUMBER}) (?=\|)")


@dataclass(frozen=True)
class Document:
    """One Markdown file of the repository."""

    path: Path

    @property
    def name(self) -> str:
        """Its path below the root."""
        return str(self.path.relative_to(ROOT))

    @property
    def text(self) -> str:
        """All of it."""
        return self.path.read_text(encoding="utf-8")

    @property
    def prose(self) -> str:
        """The text without its code blocks."""
        return _FENCE.sub("", self.text)


def user_documents() -> list[Document]:
    """What a user reads: the README and docs/."""
    return [Document(ROOT / "README.md"), *map(Document, sorted((ROOT / "docs").rglob("*.md")))]


def all_documents() -> list[Document]:
    """The Markdown files of the root and of docs/."""
    return [*map(Document, sorted(ROOT.glob("*.md"))), *map(Document, sorted((ROOT / "docs").rglob("*.md")))]


def links(document: Document) -> list[str]:
    """The targets of links and pictures, those of the web included."""
    return _LINK.findall(document.prose)


def anchors(document: Document) -> set[str]:
    """What a link to a heading may name after its #, as GitHub makes it."""
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        for heading in _HEADING.findall(document.prose)
    }


def command_lines(document: Document) -> Iterator[str]:
    """Lines of code blocks, and code within sentences, that call make or a convnext command."""
    blocks = (line for _, block in _FENCE.findall(document.text) for line in block.splitlines())
    for line in (*blocks, *_CODE.findall(document.prose)):
        if _COMMAND.match(line):
            yield line


def code_words(document: Document) -> set[str]:
    """What stands in backticks within sentences."""
    return set(_CODE.findall(document.prose))


def figures(document: Document) -> set[str]:
    """Measured numbers that can be told from others: three digits or more, or a percentage with a fraction.

    A number counts as measured where a unit follows or where it fills a cell of a table.
    """
    measured = {(number, unit) for number, unit in _MEASURED.findall(document.prose)}
    cells = {(number, "") for number in _CELL.findall(document.prose)}
    return {number for number, unit in measured | cells if _is_distinctive(number, unit)}


def _is_distinctive(number: str, unit: str) -> bool:
    if unit == "%" and "." in number:
        return True
    return len(re.sub(r"[.,]", "", number).strip("0")) >= 3
