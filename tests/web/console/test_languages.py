"""What the console says, it says in each of its languages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po
from babel.support import NullTranslations

from app.cloud.error_hints import ERROR_HINTS
from app.model.text import Text, _, join_sentences
from app.rpc.catalog import ACTIONS
from app.web.console.languages import CHINESE, ENGLISH, LANGUAGES, Language, choose
from tests.messages import LOCALE, messages, text_of, updated
from tests.processes import ROOT
from tests.untranslatable import findings, plain_texts
from tests.web.console.conftest import Browser, SignedIn

CATALOGS = sorted(LOCALE.glob("*.po"))
TEMPLATES = sorted((ROOT / "templates/console").glob("**/*.html"))
HOLE = re.compile(r"%(?:\(\w+\))?[a-z%]")


def read(path: Path) -> Catalog:
    """Read a catalog."""
    with path.open("rb") as file:
        return read_po(file)


def forms(message: Message, part: str) -> list[str]:
    """Return a message's texts, or its translations: more than one where it counts something."""
    texts = getattr(message, part)
    return list(texts) if isinstance(texts, tuple | list) else [texts]


# The catalogs.


@pytest.mark.parametrize("path", CATALOGS, ids=lambda path: path.stem)
def test_a_catalog_holds_the_messages_of_the_templates_and_services_and_no_others(path: Path) -> None:
    """A catalog is what `make messages` writes: nothing is missing, nothing left over."""
    assert path.read_text() == text_of(updated(read(path))), "run make messages, and translate what is new"


@pytest.mark.parametrize("path", CATALOGS, ids=lambda path: path.stem)
def test_every_message_is_translated(path: Path) -> None:
    """No message is untranslated, and none is a guess of a program's."""
    catalog = read(path)
    assert [message.id for message in catalog if message.id and not all(forms(message, "string"))] == []
    assert [message.id for message in catalog if message.id and message.fuzzy] == []


@pytest.mark.parametrize("path", CATALOGS, ids=lambda path: path.stem)
def test_a_translation_has_the_holes_of_its_message(path: Path) -> None:
    """What is filled into a message is filled into its translation as well, once each, and nothing else is."""
    for message in read(path):
        if message.id:
            wanted = sorted(HOLE.findall(forms(message, "id")[-1]))
            assert [sorted(HOLE.findall(form)) for form in forms(message, "string")] == [
                wanted for _ in forms(message, "string")
            ], message.id


@pytest.mark.parametrize("path", CATALOGS, ids=lambda path: path.stem)
def test_a_catalog_counts_as_its_language_does(path: Path) -> None:
    """The plural forms are the language's own, and each message that counts has all of them."""
    catalog = read(path)
    assert f'"Plural-Forms: {Catalog(catalog.locale).plural_forms}' in path.read_text()
    for message in catalog:
        if message.id and message.pluralizable:
            assert len(forms(message, "string")) == catalog.num_plurals, message.id


def test_there_is_a_catalog_for_every_language_but_english() -> None:
    """English stands in the templates; each other language has its file."""
    assert len(CATALOGS) == len(LANGUAGES) - 1


# The templates.


class Texts(HTMLParser):
    """Gathers what a person reads in a page: its text, and the attributes that are shown or spoken."""

    SPOKEN = ("alt", "title", "aria-label", "placeholder", "data-label", "label")
    NOT_WORDS = ("code", "pre", "style", "script")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._open: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at the attributes, and remember whether what is inside is for people of any language."""
        given = dict(attrs)
        exempt = tag in self.NOT_WORDS or "lang" in given or any(exempt for _, exempt in self._open)
        if tag not in {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "wbr", "html"}:
            self._open.append((tag, exempt))
        self.found += [given[name] or "" for name in self.SPOKEN if name in given]

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost element of the name."""
        for place in range(len(self._open) - 1, -1, -1):
            if self._open[place][0] == tag:
                del self._open[place:]
                return

    def handle_data(self, data: str) -> None:
        """Keep a text."""
        if not any(exempt for _, exempt in self._open):
            self.found.append(data)


def tokens(source: str) -> Iterator[tuple[str, str]]:
    """Yield a template's tokens, without what is for nobody, and without the texts between trans and endtrans."""
    inside_trans = False
    lexed = [(kind, value) for _, kind, value in jinja2.Environment(autoescape=True).lex(source)]
    for number, (kind, value) in enumerate(lexed):
        if kind == "block_begin":
            name = next(text for what, text in lexed[number:] if what == "name")
            inside_trans = name == "trans" or (inside_trans and name == "pluralize")
        if kind not in {"whitespace", "comment", "comment_begin", "comment_end"} and not (
            inside_trans and kind == "data"
        ):
            yield kind, value


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_text_of_a_template_is_marked(path: Path) -> None:
    """No word stands in a template's HTML that is not given to the translator."""
    texts = Texts()
    texts.feed("".join(value if kind == "data" else "" for kind, value in tokens(path.read_text())))
    texts.close()
    # Names are the same in every language: ours, and how the audit writes who somebody is.
    unmarked = [text.replace("mqtt-token-server", "").replace("operator:…", "").strip() for text in texts.found]
    assert [text for text in unmarked if re.search(r"[A-Za-z]{2}", text)] == []


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_sentence_in_an_expression_is_marked(path: Path) -> None:
    """Inside an expression too, what reads like a sentence goes through the translator; who goes there is a literal."""
    calls: list[str] = []
    before: list[tuple[str, str]] = [("", ""), ("", "")]
    for kind, value in tokens(path.read_text()):
        if (kind, value) == ("operator", "("):
            calls.append(before[-1][1] if before[-1][0] == "name" else "")
        elif (kind, value) == ("operator", ")") and calls:
            calls.pop()
        elif kind == "string" and re.search(r"[A-Za-z]+ [A-Za-z]+ [A-Za-z]+", value):
            assert {"_", "gettext", "ngettext", "pgettext"} & set(calls), f"{value} is not marked"
        if before[-1] == ("operator", "(") and before[-2] == ("name", "_"):
            assert kind == "string", f"_({value} …) is unknown to the catalog"
        before = [before[-1], (kind, value)]


def test_the_search_for_unmarked_texts_finds_them(tmp_path: Path) -> None:
    """A text that somebody forgot is found, whether between tags, in an attribute or in an expression."""
    path = tmp_path / "forgotten.html"
    for source in ("<p>Tokens</p>", '<img alt="A token">', '<p lang="en">x</p>{% if a %}<b>Tokens</b>{% endif %}'):
        path.write_text(source)
        with pytest.raises(AssertionError):
            test_every_text_of_a_template_is_marked(path)
    for source in (
        '{{ "no such token" if a else "" }}',
        "{{ _(state) }}",
        '{% set a = ["the first one", _("the second one")] %}',
    ):
        path.write_text(source)
        with pytest.raises(AssertionError):
            test_every_sentence_in_an_expression_is_marked(path)
    path.write_text('<p class="a b">{{ _("A token") }}{% trans %}Tokens{% endtrans %}{# a token #}<code>pub</code></p>')
    test_every_text_of_a_template_is_marked(path)
    test_every_sentence_in_an_expression_is_marked(path)


# Sentences of the program.


def in_german(**messages: str) -> Language:
    """Return a language with these translations, by template."""

    class Few(NullTranslations):
        def gettext(self, message: str) -> str:
            return messages.get(message, message)

    return Language("de", "de", "Deutsch", Few())


def test_every_sentence_a_person_meets_is_said_in_chinese() -> None:
    """Each error, rule and hint that a page may show is a translatable text; the catalog's own tests do the rest."""
    assert list(findings()) == []
    rules: list[str] = [each.rule.says for action in ACTIONS.values() for each in action.parameters]
    assert [text for text in (*rules, *ERROR_HINTS.values()) if not isinstance(text, Text)] == []


@pytest.mark.parametrize(
    "plain",
    [
        "raise NotFound('there is no such file')",
        "raise NotFound(f'{name} is missing')",
        "raise NotFound('a ' + name)",
        "raise errors.NotFound(str(error)) from None",
        "def f():\n    text = f'{1} is wrong'\n    raise NotFound(text)",
        "def f():\n    raise NotFound(g())\ndef g():\n    return _('good') if x else 'bad'",
        "raise MalformedTopic('empty')",
        "raise NotFound(', '.join(names))",
    ],
)
def test_an_error_whose_text_has_no_translation_is_found(plain: str) -> None:
    """A literal, a filled-in string and what a helper returns are found; a translatable text is not."""
    assert [line for line, text in plain_texts(plain)]
    assert not list(plain_texts("def f():\n    raise NotFound(_('there is no %(what)s', what=f'{name}'))"))
    assert not list(plain_texts("raise InvalidClient('wrong')"))


def test_a_sentence_is_translated_with_its_values_and_the_sentences_among_them() -> None:
    """A value goes where the translation has its place; a value that is a sentence is translated as well."""
    german = in_german(**{"%(a)s is refused: %(why)s": "Weil %(why)s: %(a)s, zu 100%%", "too long": "zu lang"})
    text = _("%(a)s is refused: %(why)s", a="<x>", why=_("too long"))
    assert text == "<x> is refused: too long"
    assert german.sentence(text) == "Weil zu lang: &lt;x&gt;, zu 100%"
    assert german.sentence(_("%(a)s is refused: %(why)s", a=0, why="no idea")) == "Weil no idea: 0, zu 100%"
    assert ENGLISH.sentence(text) == "&lt;x&gt; is refused: too long"
    assert CHINESE.sentence(join_sentences([_("expected JSON"), _("expired")])) == "应为 JSON\uff1b已过期"


def test_a_sentence_without_translation_is_shown_in_english_and_marked_as_such() -> None:
    """A plain string, and a text that the catalog does not have, are shown as English for a screen reader."""
    for text in ("<b>unforeseen</b>", _("<b>%(what)s</b>", what="unforeseen")):
        assert CHINESE.sentence(text) == '<span lang="en">&lt;b&gt;unforeseen&lt;/b&gt;</span>'
        assert ENGLISH.sentence(text) == "&lt;b&gt;unforeseen&lt;/b&gt;"


# Which language.


@pytest.mark.parametrize(
    ("cookie", "accept_language", "code"),
    [
        (None, "", "en"),
        (None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, "en-GB,en;q=0.9,zh;q=0.8", "en"),
        (None, "de-DE, zh;q=0.5, en;q=0.4", "zh"),
        (None, "ZH-hans-cn", "zh"),
        (None, "zh;q=0", "en"),
        (None, "zh;q=0, en;q=0", "en"),
        (None, "en;q=0.1,zh;q=0.900", "zh"),
        (None, "*", "en"),
        (None, "fr", "en"),
        ("zh", "en", "zh"),
        ("en", "zh", "en"),
        ("fr", "zh", "zh"),
        ("../../etc/passwd", "", "en"),
        ("", "zh", "zh"),
        (None, ",,;q=1,;;,=", "en"),
        (None, "zh;q=9", "en"),
        (None, "zh;q=nan,zh;q=-1,zh;q=1e9", "en"),
        (None, "zh\x00", "en"),
        (None, "zh_CN", "en"),
        (None, "中文", "en"),
        (None, "x" * 100_000 + ",zh", "en"),
        (None, "en;q=0.5," * 30_000 + "zh", "en"),
        (None, "zh-" + "-" * 190, "zh"),
    ],
)
def test_the_language_is_what_was_chosen_else_what_the_browser_prefers(
    cookie: str | None, accept_language: str, code: str
) -> None:
    """A choice counts first, then the browser's order, then English; nonsense is as good as nothing."""
    assert choose(cookie, accept_language).code == code


async def test_the_switch_is_kept_and_leads_back(signed_in: SignedIn) -> None:
    """Whoever chooses a language comes back to the page they were on, and is answered in it from then on."""
    browser = await signed_in()
    assert '<html lang="en">' in (await browser.get("/admin/tokens")).text
    switched = await browser.post("/admin/language", {"language": "zh", "to": "/admin/tokens?role=sensor"})
    assert switched.location == "/admin/tokens?role=sensor"
    page = await browser.follow(switched)
    assert '<html lang="zh-Hans">' in page.text
    assert "令牌" in page.text


async def test_a_refusal_is_shown_in_the_readers_language(server: Any, signed_in: SignedIn) -> None:
    """A page that refuses says why in Chinese to a reader of Chinese."""
    browser = await signed_in()
    browser.language = "zh-CN"
    assert "没有该令牌" in (await browser.get("/admin/tokens/17-nothing")).text
    stranger = Browser(server, language="zh")
    assert "名称或密码不正确" in (await stranger.sign_in("nobody")).text


async def test_a_language_that_is_not_there_is_refused(signed_in: SignedIn) -> None:
    """A made-up language changes nothing."""
    browser = await signed_in()
    assert (await browser.post("/admin/language", {"language": "tlh", "to": "/admin/"})).status == 400
    assert "language" not in browser.cookies


def test_messages_that_count_do_so_in_named_holes() -> None:
    """Every hole of a template's message has a name, so that a translation can turn the order around."""
    for message in messages():
        if message.id:
            for text in forms(message, "id"):
                assert all(hole.startswith("%(") or hole == "%%" for hole in HOLE.findall(text)), text
