"""`make messages`: brings the catalogs in ``templates/locale`` up to what the templates and the services say.

A translation stays as long as its message does; nothing is guessed, so what is new is empty and a test names it. The
file holds no line numbers and no dates: a change to it is a change of words.
"""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.pofile import read_po, write_po

from app.cloud.error_hints import ERROR_HINTS
from app.rpc.catalog import ACTIONS
from app.web.console.sentences import CONTEXT
from tests.processes import ROOT

LOCALE: Final = ROOT / "templates/locale"

_HEADER: Final = r"""msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\n"
"Language: {locale}\n"
"Plural-Forms: {plural_forms};\n"

"""
# As the console reads its templates, so that a message is the same there and here.
_JINJA: Final = {
    "encoding": "utf-8",
    "newstyle_gettext": "true",
    "silent": "false",
    "trim_blocks": "true",
    "lstrip_blocks": "true",
}
_PASSED_ON: Final = {"app/store/index.py", "app/store/jobs.py"}
"""Whose ``ValueError`` is passed on in its own words."""
_NOT_AT_THE_CONSOLE: Final = {
    # What devices and programs alone are given …
    *("InvalidClient", "InvalidToken", "NoToken", "InsufficientScope", "UnsupportedGrantType", "MalformedScope"),
    # … and whoever starts the server or writes its policy.
    *("Misconfigured", "PolicyError", "MalformedTemplate"),
}
_DEVICES_ALONE: Final = {
    f"app/service/{name}.py" for name in ("authenticate", "token_lookup", "introspect", "issue", "revoke")
}
_ROOMS: Final = ("app/model", "app/service", "app/store", "app/web/console")
_MODULES: Final = ("app/web/forms.py", "app/web/middleware.py")
_HOLE: Final = re.compile(r"%\(\w+\)s")


def messages() -> Catalog:
    """Return all there is to translate."""
    catalog = Catalog()
    options = {"**.html": _JINJA}
    found = extract_from_dir(str(ROOT / "templates"), [("**.html", "jinja2")], options, DEFAULT_KEYWORDS)
    for _, _, message, _, context in found:
        catalog.add(message, context=context)
    for sentence in sorted({*refusals(), *facts()}):
        catalog.add(sentence, context=CONTEXT)
    return catalog


def updated(catalog: Catalog) -> Catalog:
    """Return the messages there are, with the translations that ``catalog`` has for them."""
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


def refusals() -> Iterator[str]:
    """Yield each sentence with which the console refuses something, its holes named after what fills them."""
    names = {kind.name for path in _files("app/model") for kind in _classes(path) if _is_error(kind)}
    names |= {kind.name for kind in _classes(ROOT / "app/errors.py")}
    for path in [*(path for room in _ROOMS for path in _files(room)), *(ROOT / name for name in _MODULES)]:
        module = str(path.relative_to(ROOT))
        if module in _DEVICES_ALONE:
            continue
        meant = names - _NOT_AT_THE_CONSOLE | ({"ValueError"} if module in _PASSED_ON else set())
        tree = ast.parse(path.read_text())
        constants = dict(_constants(tree))
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id=name), args=[said, *_]) if name in meant:
                    sentence = _Reading(constants).read(said)
                    if any(character.isalpha() for character in _HOLE.sub("", sentence)):
                        yield sentence
                case _:
                    pass


def facts() -> Iterator[str]:
    """Yield what else services and tables say in sentences: which rule holds, what a value must be, what helps."""
    rules = {parameter.rule.says for action in ACTIONS.values() for parameter in action.parameters}
    for sentence in rules | set(ERROR_HINTS.values()):
        yield sentence.replace("%", "%%")
    for node in ast.walk(ast.parse((ROOT / "app/model/policy.py").read_text())):
        match node:
            case ast.Return(value=ast.Tuple(elts=[_, ast.JoinedStr() | ast.Constant(value=str()) as said])):
                yield _Reading({}).read(said)
            case _:
                pass


class _Reading:
    """Reads one sentence from the program's text."""

    def __init__(self, constants: Mapping[str, ast.expr]) -> None:
        self._constants = constants
        self._holes: set[str] = set()

    def read(self, node: ast.expr) -> str:
        """Return the sentence that the expression makes, with holes like ``%(name)s``."""
        match node:
            case ast.Constant(value=str(text)):
                return text.replace("%", "%%")
            case ast.JoinedStr(values=parts):
                return "".join(map(self.read, parts))
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self.read(left) + self.read(right)
            case ast.FormattedValue(value=ast.Name(id=name)) | ast.Name(id=name) if name in self._constants:
                return self.read(self._constants[name])
            case ast.FormattedValue(value=value):
                return self._hole(value)
            case _:
                return self._hole(node)

    def _hole(self, node: ast.expr) -> str:
        """Name a hole after the last name in the expression that fills it."""
        named = [child for child in ast.walk(node) if isinstance(child, ast.Name | ast.Attribute)]
        called = [id(child.func) for child in ast.walk(node) if isinstance(child, ast.Call)]
        last = max(
            named,
            key=lambda child: (id(child) not in called, child.end_lineno or 0, child.end_col_offset or 0),
            default=ast.Name("value"),
        )
        base = (last.attr if isinstance(last, ast.Attribute) else last.id).strip("_").lower()
        name, number = base, 1
        while name in self._holes:
            number += 1
            name = f"{base}_{number}"
        self._holes.add(name)
        return f"%({name})s"


def _files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def _classes(path: Path) -> list[ast.ClassDef]:
    return [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]


def _is_error(kind: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id in {"ValueError", "Exception"} for base in kind.bases)


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Yield the texts that a module names."""
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ) if isinstance(value, ast.JoinedStr) or (isinstance(value, ast.Constant) and isinstance(value.value, str)):
                yield name, value
            case _:
                pass


def main() -> None:
    """Write each catalog anew."""
    for path in sorted(LOCALE.glob("*.po")):
        with path.open("rb") as file:
            old = read_po(file)
        path.write_text(text_of(updated(old)))


if __name__ == "__main__":
    main()
