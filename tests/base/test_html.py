"""Templates: only ours, filled wholly or not at all; numbers as people write them."""

import subprocess
import sys
from pathlib import Path

import jinja2
import pytest

from convnext_imagenet.base.html import render
from convnext_imagenet.base.wording import number, plural, share

TEMPLATES = Path(__file__).resolve().parents[2] / "base" / "templates"


@pytest.mark.parametrize(
    "name",
    [
        "page.html",
        "base/absent.html",
        "absent/page.html",
        "base/../base/page.html",
        "base/templates/page.html",
        "base//page.html",
        "base/html.py",
        "/etc/passwd",
        "base/page.html\n",
    ],
)
def test_only_templates_of_our_packages_are_found(name):
    with pytest.raises(jinja2.TemplateNotFound):
        render(name)


def test_a_value_that_the_template_needs_is_not_left_out():
    with pytest.raises(jinja2.UndefinedError, match="is undefined"):
        render("records/report/report.html", title="records")


@pytest.mark.parametrize("name", ["page.css", "page.js"])
def test_style_and_script_hold_nothing_that_a_template_would_read(name):
    assert render(f"base/{name}") == (TEMPLATES / name).read_text().removesuffix("\n")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (number(1234567), "1,234,567"),
        (number("1234567"), "1234567"),
        (plural(0, "image"), "0 images"),
        (plural(1, "class"), "1 class"),
        (plural(2000, "class"), "2,000 classes"),
        (share(0.1236), "12.4%"),
        (share(1.0), "100.0%"),
        (share(None), "-"),
    ],
)
def test_numbers_are_written_for_people(found, expected):
    assert found == expected


def test_jinja_is_loaded_by_the_first_page_alone():
    program = "import sys; import convnext_imagenet.records.report.page; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
