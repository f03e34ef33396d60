"""The console's languages: which there are, which one a request is for, and how each writes times and numbers.

English is what stands in the templates; every other language is a catalog in
``templates/locale``, read as it lies there. ``make messages`` brings the catalogs up to the templates.
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

from app.web.console.sentences import CONTEXT, Sentences

COOKIE: Final = "language"

_PREFERENCE: Final = re.compile(r"\s*([A-Za-z]{1,8})(?:-[A-Za-z0-9-]*)?\s*(?:;\s*q=([01](?:\.[0-9]{0,3})?))?\s*")


@dataclass(frozen=True, slots=True)
class Language:
    """One language: ``code`` in our cookie, ``tag`` in HTML (BCP 47), its own ``name``, its messages and sentences."""

    code: str
    tag: str
    name: str
    translations: NullTranslations = field(repr=False)
    sentences: Sentences | None = field(default=None, repr=False)

    @property
    def locale(self) -> Locale:
        """How it writes times and numbers."""
        return Locale.parse(self.tag, sep="-")

    def sentence(self, said: str) -> Markup:
        """Say in it what a service says in English."""
        return self.sentences.say(said) if self.sentences else escape(said)

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
        """Write an instant (Unix ms) as people say it, with the exact one beside it for machines and the curious."""
        exact = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        said = format_timedelta(
            timedelta(milliseconds=at_ms - now_ms), add_direction=True, threshold=1.5, locale=self.locale
        )
        return Markup('<time datetime="{0}" title="{1} UTC">{2}</time>').format(exact, self.when(at_ms), said)


TEMPLATES: Final = (Path(__file__).parents[2] / "templates", Path(__file__).parents[3] / "templates")
"""Beside the package in a checkout, inside it in a wheel."""


def _read(code: str, tag: str, name: str, catalog: str) -> Language:
    """Read a catalog as text and compile it in memory, so that no compiled file can be older than its source."""
    path = next(folder / "locale" / catalog for folder in TEMPLATES if (folder / "locale" / catalog).exists())
    with path.open("rb") as file:
        messages = read_po(file)
    compiled = io.BytesIO()
    write_mo(compiled, messages)
    compiled.seek(0)
    sentences = {str(message.id): str(message.string) for message in messages if message.context == CONTEXT}
    return Language(code, tag, name, Translations(compiled), Sentences(sentences))


ENGLISH: Final = Language("en", "en", "English", NullTranslations())
CHINESE: Final = _read("zh", "zh-Hans", "简体中文", "zh_Hans.po")
LANGUAGES: Final[Mapping[str, Language]] = {each.code: each for each in (ENGLISH, CHINESE)}


def choose(cookie: str | None, accept_language: str) -> Language:
    """Return what somebody chose before, else the first language the browser asks for that there is, else English."""
    if cookie and cookie in LANGUAGES:
        return LANGUAGES[cookie]
    preferences = filter(None, map(_PREFERENCE.fullmatch, accept_language[:200].split(",")))
    # Sorting keeps the order of equals, which is the browser's.
    for match in sorted(preferences, key=lambda match: -float(match[2] or 1)):
        if float(match[2] or 1) and match[1].lower() in LANGUAGES:
            return LANGUAGES[match[1].lower()]
    return ENGLISH
