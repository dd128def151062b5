"""An HTML page as a test reads it."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE = '"><script>alert(1)</script><img src=https://evil.example/x onerror=alert(1)>\u202e\x07'
EMPTY = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Reader(HTMLParser):
    """Every tag with its attributes, and the text outside tags; refuses tags that are not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def fetched(read: Reader) -> list[str]:
    """What a browser would fetch: addresses of attributes, without data and places on the page."""
    names = ("src", "href", "action", "data", "poster", "srcset", "xlink:href")
    found = [attrs[name] for _, attrs in read.tags for name in names if name in attrs]
    return [one for one in found if not one.startswith(("data:image/", "#"))]
