"""HTML pages that need no other file, from Jinja2 templates: every value is escaped, and a missing one is an error.

Templates are in the `templates` folders of our packages: "records/report/report.html" is templates/report.html of
convnext_imagenet.records.report. This file knows what the macros need, and nothing of what a page says.
"""

import base64
import functools
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from convnext_imagenet.base.wording import number, plural, share

if TYPE_CHECKING:  # only a command that writes a page pays for importing it
    import jinja2

_PACKAGE = __name__.split(".")[0]
# No ".." and no leading slash: a template name never leads out of our packages.
_NAME = re.compile(r"(?P<folder>[a-z_]+(/[a-z_]+)*)/(?P<file>[a-z_]+\.(html|css|js))")


@dataclass(frozen=True)
class Bar:
    """A bar of a chart: its upper left corner and size in chart units; `text` is its tooltip."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class BarChart:
    """What the macro `chart` draws: bars above an axis; `ticks` label its start, middle and end."""

    title: str
    width: int
    height: int
    bars: tuple[Bar, ...]
    ticks: tuple[str, str, str]


def render(template: str, **values: Any) -> str:
    """Return the text of the template "PACKAGE/FILE", filled with `values`.

    Raises jinja2.TemplateNotFound when no package of ours has the template, jinja2.UndefinedError when the template
    needs a value that is not given.
    """
    return _environment().get_template(template).render(values)


def data_uri(jpeg: bytes) -> str:
    """Return a JPEG as a data: URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


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
