"""What services say, in the reader's language.

A service says in an English sentence why it refuses, which rule holds or what helps, with what it is about filled in
already. Here that sentence is found again by its fixed words among the messages of the context ``sentence``, and what
was filled in goes into the translation, which may hold a sentence itself (``'a/#/b' is refused: it has # before its
last level``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

CONTEXT: Final = "sentence"

_MAX_CHARS: Final = 1000
"""A longer sentence holds what somebody else said at length; nobody waits for a search in that."""
_MAX_DEPTH: Final = 3

_HOLE: Final = re.compile(r"%\((\w+)\)s|%%")


@dataclass(frozen=True, slots=True)
class _Sentence:
    pattern: re.Pattern[str]
    translation: str
    fixed: int
    """How many characters of it are fixed: of two that fit, the one with more says more."""

    @classmethod
    def of(cls, message: str, translation: str) -> _Sentence:
        parts, at = [], 0
        for hole in _HOLE.finditer(message):
            parts += [re.escape(message[at : hole.start()]), f"(?P<{hole[1]}>.*?)" if hole[1] else "%"]
            at = hole.end()
        pattern = re.compile("".join([*parts, re.escape(message[at:])]), re.DOTALL)
        return cls(pattern, translation, len(_HOLE.sub("", message)))


class Sentences:
    """The sentences of one language other than English."""

    def __init__(self, translations: Mapping[str, str]) -> None:
        """``translations`` maps each message, with holes like ``%(name)s``, to its translation with the same ones."""
        sentences = [_Sentence.of(message, translation) for message, translation in translations.items() if translation]
        self._sentences = sorted(sentences, key=lambda sentence: -sentence.fixed)

    def say(self, sentence: str) -> Markup:
        """Return the sentence in this language, as far as there is a translation; what is not, is marked as English."""
        translated = self._translate(sentence, _MAX_DEPTH)
        return escape(translated) if translated else Markup('<span lang="en">{}</span>').format(sentence)

    def _translate(self, sentence: str, depth: int) -> str | None:
        if not depth or len(sentence) > _MAX_CHARS:
            return None
        for candidate in self._sentences:
            if match := candidate.pattern.fullmatch(sentence):
                holes = match.groupdict()
                return candidate.translation % {
                    name: self._translate(text, depth - 1) or text for name, text in holes.items()
                }
        return None
