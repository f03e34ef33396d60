"""Reading a page as a browser does, as far as tests ask."""

from __future__ import annotations

from html.parser import HTMLParser


class _Form(HTMLParser):
    """Takes the fields of the one form that sends to ``action``."""

    def __init__(self, action: str) -> None:
        super().__init__()
        self.action = action
        self.inside = False
        self.fields: list[tuple[str, str]] = []
        self.buttons = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a form and its fields."""
        values = dict(attrs)
        if tag == "form":
            self.inside = values.get("action") == self.action
        elif self.inside and tag == "input" and values.get("type") == "hidden":
            self.fields.append((values.get("name") or "", values.get("value") or ""))
        elif self.inside and tag == "button":
            self.buttons += 1

    def handle_endtag(self, tag: str) -> None:
        """Note the end of a form."""
        if tag == "form":
            self.inside = False


def hidden_fields(text: str, action: str) -> list[tuple[str, str]] | None:
    """Return the hidden fields of the form that sends to ``action``; None if the page has no such form."""
    form = _Form(action)
    form.feed(text)
    return form.fields if form.buttons else None
