"""Pages of HTML that need no other file: Jinja2 templates, in which every value is escaped and none may be missing.

Templates lie in the `templates` folders of our packages: "records/report/report.html" is report.html in the one of
convnext_imagenet.records.report. This file knows what macros need, and nothing of what a page tells.
"""

import base64
import functools
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # only a command that writes a page pays for importing it
    import jinja2

_PACKAGE = __name__.split(".")[0]
_NAME = re.compile(r"(?P<folder>[a-z_]+(/[a-z_]+)*)/(?P<file>[a-z_]+\.(html|css|js))")


@dataclass(frozen=True)
class Bar:
    """A bar of a chart, in the chart's units from its upper left corner; `text` appears under the mouse."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class BarChart:
    """What the macro `chart` draws: bars above an axis, which is named at its start, middle and end."""

    title: str
    width: int
    height: int
    bars: tuple[Bar, ...]
    ticks: tuple[str, str, str]


def render(template: str, **values: Any) -> str:
    """The text of a template, "PACKAGE/FILE", filled with `values`.

    Raises jinja2.TemplateNotFound for a template that no package of ours holds, jinja2.UndefinedError for a value that
    the template needs and does not get.
    """
    return _environment().get_template(template).render(values)


def data_uri(jpeg: bytes) -> str:
    """A JPEG as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def number(value: object) -> str:
    """A whole number with commas between thousands; anything else as its text."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def plural(count: int, noun: str) -> str:
    """The number with its noun: 1 class, 2 classes, 0 images."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def share(value: float | None) -> str:
    """A fraction as a percentage with one decimal; "-" for a fraction of nothing."""
    return "-" if value is None else f"{value:.1%}"


@functools.cache
def _environment() -> "jinja2.Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": data_uri, "number": number, "plural": plural, "share": share}
    return environment


def _read_template(name: str) -> str | None:
    match = _NAME.fullmatch(name)
    if not match:
        return None
    try:
        folder = resources.files(f"{_PACKAGE}.{match['folder'].replace('/', '.')}")
        return (folder / "templates" / match["file"]).read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError):
        return None
