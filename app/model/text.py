"""Sentences that people read in their own language: English here, translated where a page shows them.

``_("at most %(most)s attributes are allowed", most=20)`` is an English ``str`` that remembers its template and values,
so the console translates the template by gettext and fills in the values afterwards. The template is a literal:
``make messages`` finds it in the program's text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, Self


class Text(str):
    """An English sentence with its values filled in, and the template it was made from."""

    __slots__ = ("template", "values")

    template: str
    values: Mapping[str, Any]

    def __new__(cls, template: str, values: Mapping[str, Any]) -> Self:
        """Fill ``values`` into the ``%(name)s`` holes of ``template``; ``%%`` is a percent sign."""
        text = super().__new__(cls, template % values)
        text.template = template
        text.values = values
        return text

    def __getnewargs__(self) -> tuple[str, Mapping[str, Any]]:  # type: ignore[override]
        """Return what ``__new__`` needs, for a copy."""
        return self.template, self.values


class TextError(ValueError):
    """A wrong value. ``text`` says what is wrong with it, what is expected and what to do; a page may translate it."""

    def __init__(self, text: Text) -> None:
        super().__init__(text)
        self.text = text


def _(template: str, /, **values: Any) -> Text:
    """Return a translatable sentence. A value may be such a sentence itself."""
    return Text(template, values)


def join_sentences(sentences: Iterable[Text]) -> Text:
    """Return several sentences as one, with semicolons between them. Raises ``TypeError`` if there is none."""
    return reduce(lambda first, rest: _("%(first)s; %(rest)s", first=first, rest=rest), sentences)
