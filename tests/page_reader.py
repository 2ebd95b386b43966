"""A page of HTML as a browser's parser takes it, for tests."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags, addresses, names of attributes, and the text outside of style and script; every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str | None] = []
        self.attributes: set[str] = set()
        self._open: list[str] = []
        self._texts: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    @property
    def text(self) -> str:
        return " ".join(self._texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value for name, value in attrs if name in {"src", "href", "srcset", "action"}]
        if tag not in {"meta", "img", "br", "input"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open):
            self._texts.append(data)


# What a name must not do: add a tag, leave an attribute, end a script, or be computed by the template.
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></script><script>alert(1)//",
    "{{ 7*7 }}{% raw %}",
    "&lt;b&gt;",
)
