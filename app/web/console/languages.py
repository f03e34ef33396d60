"""The console's languages: which exist, which one a request gets, and how each writes sentences, times and numbers.

The texts in templates and in ``_("…")`` are English. Every other language has a gettext catalog in
``templates/locale``, which is read as text. ``make messages`` updates the catalogs.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from babel import Locale
from babel.dates import format_datetime, format_timedelta
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, format_percent
from babel.support import NullTranslations, Translations
from markupsafe import Markup, escape

from app.model.text import Text

COOKIE: Final = "language"

_PREFERENCE: Final = re.compile(r"\s*([A-Za-z]{1,8})(?:-[A-Za-z0-9-]*)?\s*(?:;\s*q=([01](?:\.[0-9]{0,3})?))?\s*")


@dataclass(frozen=True, slots=True)
class Language:
    """A language: ``code`` in the cookie, ``tag`` in HTML (BCP 47), ``name`` in itself, and its translations."""

    code: str
    tag: str
    name: str
    translations: NullTranslations = field(repr=False)

    @property
    def locale(self) -> Locale:
        """The rules by which it writes times and numbers."""
        return Locale.parse(self.tag, sep="-")

    def sentence(self, text: str) -> Markup:
        """Write a sentence from a service.

        A sentence without a translation is marked as English, so that a screen reader pronounces it as English.
        """
        if self.code == ENGLISH.code:
            return escape(text)
        translated = self._translate(text)
        return escape(translated) if translated else Markup('<span lang="en">{}</span>').format(text)

    def number(self, value: float) -> str:
        """Write a number."""
        return format_decimal(value, locale=self.locale)

    def percent(self, share: float) -> str:
        """Write a share of 1 as a percentage."""
        return format_percent(share, format="#,##0.#%" if 0 < share < 0.1 else None, locale=self.locale)  # noqa: PLR2004

    def span(self, seconds: float) -> str:
        """Write how long something lasts, to its largest unit."""
        return format_timedelta(timedelta(seconds=max(seconds, 0)), threshold=1.5, locale=self.locale)

    def when(self, at_ms: int) -> str:
        """Write an instant (Unix ms), in UTC."""
        return format_datetime(
            datetime.fromtimestamp(at_ms / 1000, UTC), "yyyy-MM-dd HH:mm:ss", tzinfo=UTC, locale=self.locale
        )

    def ago(self, at_ms: int, now_ms: int) -> Markup:
        """Write an instant (Unix ms) relative to now, with the exact time as ``datetime`` and as a tooltip."""
        exact = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        relative = format_timedelta(
            timedelta(milliseconds=at_ms - now_ms), add_direction=True, threshold=1.5, locale=self.locale
        )
        return Markup('<time datetime="{0}" title="{1} UTC">{2}</time>').format(exact, self.when(at_ms), relative)

    def _translate(self, value: object) -> str | None:
        """Return the translation of a ``Text`` with its values filled in; None for anything else, or if there is none.

        A value that is a ``Text`` itself is translated too.
        """
        if not isinstance(value, Text):
            return None
        template = self.translations.gettext(value.template)
        if template == value.template:
            return None
        return template % {name: self._translate(each) or each for name, each in value.values.items()}


TEMPLATES: Final = (Path(__file__).parents[2] / "templates", Path(__file__).parents[3] / "templates")
"""Where the templates may be: inside the package in a wheel, beside it in a checkout."""


def _read(catalog: str) -> Translations:
    """Read a catalog and compile it in memory, so that no compiled file can be older than its source."""
    path = next(folder / "locale" / catalog for folder in TEMPLATES if (folder / "locale" / catalog).exists())
    with path.open("rb") as file:
        messages = read_po(file)
    compiled = io.BytesIO()
    write_mo(compiled, messages)
    compiled.seek(0)
    return Translations(compiled)


ENGLISH: Final = Language("en", "en", "English", NullTranslations())
CHINESE: Final = Language("zh", "zh-Hans", "简体中文", _read("zh_Hans.po"))
LANGUAGES: Final[Mapping[str, Language]] = {each.code: each for each in (ENGLISH, CHINESE)}


def choose(cookie: str | None, accept_language: str) -> Language:
    """Return the language in the cookie, else the browser's first preference that exists, else English."""
    if cookie and cookie in LANGUAGES:
        return LANGUAGES[cookie]
    preferences = filter(None, map(_PREFERENCE.fullmatch, accept_language[:200].split(",")))
    # The sort is stable: languages of equal weight keep the browser's order.
    for match in sorted(preferences, key=lambda match: -float(match[2] or 1)):
        if float(match[2] or 1) and match[1].lower() in LANGUAGES:
            return LANGUAGES[match[1].lower()]
    return ENGLISH
