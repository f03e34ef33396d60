"""Sentences that people read in their own language: English here, translated where a page shows them.

``_("at most %(most)s attributes are allowed", most=20)`` is an English ``str`` that remembers its template and values,
so the console translates the template by gettext and fills in the values afterwards. The template is a literal:
``make messages`` finds it in the program's text.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def _(template: str, /, **values: Any) -> Text:
    """Return a translatable sentence. A value may be such a sentence itself."""
    return Text(template, values)
