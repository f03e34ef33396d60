"""`make messages`: updates the catalogs in ``templates/locale`` to the texts of the templates and of ``app``.

A translation is kept as long as its message is unchanged. Nothing is guessed: a new message has an empty translation,
and a test names it. The file has no line numbers and no dates, so its changes are changes of words.
"""

from __future__ import annotations

import io
from typing import Final

from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.pofile import read_po, write_po

from tests.processes import ROOT

LOCALE: Final = ROOT / "templates/locale"

_HEADER: Final = r"""msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\n"
"Language: {locale}\n"
"Plural-Forms: {plural_forms};\n"

"""
# The console's own Jinja options, so that a message is the same string here and there.
_JINJA: Final = {
    "encoding": "utf-8",
    "newstyle_gettext": "true",
    "silent": "false",
    "trim_blocks": "true",
    "lstrip_blocks": "true",
}


def messages() -> Catalog:
    """Return every message: those of the templates, and each ``_("…")`` in the program."""
    catalog = Catalog()
    templates = extract_from_dir(
        str(ROOT / "templates"), [("**.html", "jinja2")], {"**.html": _JINJA}, keywords=DEFAULT_KEYWORDS
    )
    program = extract_from_dir(str(ROOT / "app"), [("**.py", "python")], keywords={"_": None})
    for _, _, message, _, context in (*templates, *program):
        catalog.add(message, context=context)
    return catalog


def updated(catalog: Catalog) -> Catalog:
    """Return all messages, with the translations that ``catalog`` has for them."""
    fresh = Catalog(catalog.locale)
    for message in sorted(messages(), key=lambda message: (message.context or "", str(message.id))):
        if message.id:
            known = catalog.get(message.id, message.context)
            same = known is not None and known.id == message.id
            fresh.add(message.id, known.string if known and same else None, context=message.context)
    return fresh


def text_of(catalog: Catalog) -> str:
    """Write a catalog as a file."""
    body = io.BytesIO()
    write_po(body, catalog, width=0, no_location=True, omit_header=True)
    header = _HEADER.format(locale=catalog.locale, plural_forms=catalog.plural_forms.rstrip(";"))
    return header + body.getvalue().decode().strip() + "\n"


def main() -> None:
    """Update each catalog."""
    for path in sorted(LOCALE.glob("*.po")):
        with path.open("rb") as file:
            old = read_po(file)
        path.write_text(text_of(updated(old)))


if __name__ == "__main__":
    main()
