from __future__ import annotations

import json

import pytest

from app.model.text import Text, _


def test_a_text_is_its_english_sentence() -> None:
    """Logs, JSON and the command line see a plain ``str``."""
    text = _("at most %(most)s attributes (%(share)s%%)", most=20, share=5)
    assert text == "at most 20 attributes (5%)"
    assert json.loads(json.dumps({"a": text})) == {"a": "at most 20 attributes (5%)"}
    assert type(str(text)) is str


def test_a_text_remembers_what_it_was_made_from() -> None:
    """A translator needs the template and the values; a value may be a text of its own."""
    inner = _("line %(line)s", line=3)
    text = _("wrong: %(problem)s", problem=inner)
    assert text.template == "wrong: %(problem)s"
    assert isinstance(text.values["problem"], Text)
    assert text.values["problem"].template == "line %(line)s"


def test_a_template_without_its_value_is_a_mistake_of_the_program() -> None:
    """It fails where it is written, not where somebody reads it."""
    with pytest.raises(KeyError):
        _("at most %(most)s attributes")
