from __future__ import annotations

import copy
import json

import pytest

from app.model.text import Text, TextError, _, join_sentences


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
    """It fails where it is written, not where it is shown."""
    with pytest.raises(KeyError):
        _("at most %(most)s attributes")


def test_a_copy_keeps_the_template() -> None:
    """A copy, as ``dataclasses.asdict`` makes one, can be translated like the original."""
    text = copy.deepcopy(_("at most %(most)s", most=3))
    assert (text, text.template, text.values) == ("at most 3", "at most %(most)s", {"most": 3})


def test_sentences_are_joined_into_one_that_keeps_each() -> None:
    """Several problems make one message, of which each part can be translated."""
    joined = join_sentences([_("a"), _("b %(n)s", n=1), _("c")])
    assert joined == "a; b 1; c"
    assert joined.values["rest"].template == "c"
    assert joined.values["first"].values["rest"].template == "b %(n)s"
    assert join_sentences([_("a")]).template == "a"


def test_an_error_keeps_its_translatable_text() -> None:
    """A refusal can be raised from the error without loss; as a text it is English."""
    error = TextError(_("at most %(most)s", most=3))
    assert (str(error), error.text.template) == ("at most 3", "at most %(most)s")
