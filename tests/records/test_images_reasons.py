"""Reason codes: those that the code uses are those of the table, and the README shows the same table."""

import re
from pathlib import Path

from convnext_imagenet.records.images import REASONS

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = [path for room in ("records", "ingest", "serve") for path in (ROOT / room).glob("*.py")]
USES = (
    r'BadImage\(\s*"(\w+)"',
    r'"bad", "(\w+)"',
    r'_LostError\("(\w+)"',
    r'else "(\w+)", f"OpenCV',
    r'"(\w+)" if is_sh',
)


def test_every_code_in_use_stands_in_the_table_and_every_entry_is_in_use():
    text = "\n".join(path.read_text() for path in SOURCES)
    assert {code for use in USES for code in re.findall(use, text)} == REASONS.keys()


def test_the_readme_shows_the_table():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {code: rows.get(code) for code in REASONS} == REASONS
