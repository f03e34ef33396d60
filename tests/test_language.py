"""Names and sentences are plain: words that were given up do not come back, and a name has one meaning."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.processes import ROOT

SEARCHED: Final = ("app", "templates", "deploy", "README.md")

GIVEN_UP: Final = {
    # of the connection to Redis
    *("Line", "_Line", "_Life", "_Question", "insist", "delays", "doubt"),
    # of tokens and applications for them
    *("held", "Holder", "flight", "flights", "Flight", "Flights", "Lead", "_fly", "fly", "landed", "in_hand"),
    # of revocation watermarks
    *("floor", "floors", "floor_of", "swept", "begun"),
    # of the audit log
    *("Act", "What", "tell", "Trail", "TOLD", "_TOLD"),
    # of counters and administration
    *("tallies", "TallyBook", "CloudDesk", "KeyOffice", "OperatorOffice", "Roll", "Book", "JobBook"),
    # of the cloud, the web and authentication
    *("causes", "carried", "Places", "Door", "Proven", "_Proven", "_Pin", "_pins", "nobody_yet", "acting_as"),
}
"""Names that are not used again, as modules, classes, functions, arguments, attributes or variables."""

GIVEN_UP_ARGUMENTS: Final = {"again"}
_GIVEN_UP_ENDING: Final = re.compile(r"\w+Asked")

_PLAIN_AFTER_IS_NO: Final = (
    "such",
    "other",
    "longer",
    "more",
    "less",
    "later",
    "earlier",
    "shorter",
    "larger",
    "older",
)
_PHRASES: Final = (
    # "is no handle" for "is not a valid handle". "there is no handle" and "is no longer" are plain.
    re.compile(rf"(?<!\bthere )\b(?:is|are) no (?!(?:{'|'.join(_PLAIN_AFTER_IS_NO)})\b)(?=\w)", re.IGNORECASE),
    re.compile(r"\bits memory\b", re.IGNORECASE),
    re.compile(r"\bsettled by\b", re.IGNORECASE),
    # A riddle where the subject could be named.
    re.compile(r"\b(?:nobody|somebody|whoever|of ours|good no more)\b", re.IGNORECASE),
    # A picture where a plain verb or noun would do.
    re.compile(r"\b(?:token in hand|lies in|stands in|speaks for|tells|told|drawn)\b", re.IGNORECASE),
    re.compile(r"\b(?:desks?|doors?|flights?|swept)\b", re.IGNORECASE),
    # A person is "they".
    re.compile(r"\b(?:he|his|him|she|her)\b", re.IGNORECASE),
)
_LINE_BREAK: Final = re.compile(r"\n[ \t]*(?:#+|--+|//+|\*+|\.\.)?[ \t]*")
_NOT_LUA_CODE: Final = re.compile(r"""--\[\[.*?\]\]|--[^\n]*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*\"""", re.DOTALL)
"""Comments and texts."""

MOST_FUNCTIONS_OF_ONE_NAME: Final = 12
MOST_CLASS_NAMES_USED_TWICE: Final = 8
MOST_APP_KEYS: Final = 8


def files(*suffixes: str) -> Iterator[Path]:
    """Yield the text files of the product whose name ends so."""
    for name in SEARCHED:
        for path in sorted((ROOT / name).rglob("*")) if (ROOT / name).is_dir() else [ROOT / name]:
            is_text = path.is_file() and path.suffix not in {".pyc", ".svg"} and not path.name.endswith(".min.css")
            if is_text and "private" not in path.parts and path.name.endswith(suffixes):
                yield path


def given_up_in_python(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and name wherever a name is used that was given up."""
    for node in ast.walk(ast.parse(source)):
        for name in _names(node):
            if (name in GIVEN_UP or _GIVEN_UP_ENDING.fullmatch(name)) and not _is_math_floor(node):
                yield getattr(node, "lineno", 0), name
        if isinstance(node, ast.arg | ast.keyword) and node.arg in GIVEN_UP_ARGUMENTS:
            yield node.lineno, f"{node.arg}="


def _names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node itself makes or uses, those of modules part by part."""
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield name
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
            yield name
        case ast.alias(name=name, asname=other):
            yield from (*name.split("."), *([other] if other else []))
        case ast.ImportFrom(module=str(module)):
            yield from module.split(".")
        case ast.MatchAs(name=str(name)) | ast.ExceptHandler(name=str(name)):
            yield name
        case _:
            pass


def _is_math_floor(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "math"


def given_up_in_lua(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and name wherever a name is used that was given up; strings and comments are left out."""
    code = _NOT_LUA_CODE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), source)
    for found in re.finditer(r"(?<!math\.)\b[A-Za-z_]\w*", code):
        if found[0] in GIVEN_UP:
            yield code.count("\n", 0, found.start()) + 1, found[0]


def phrases(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and words wherever a phrase stands that was given up, over the ends of lines too."""
    lines: list[int] = []
    one_line = ""
    for number, part in enumerate(_LINE_BREAK.split(text), 1):
        lines += [number] * (len(part) + 1)
        one_line += f"{part} "
    for phrase in _PHRASES:
        for found in phrase.finditer(one_line):
            yield lines[found.start()], one_line[found.start() : found.end() + 20]


def functions_named_alike(sources: dict[str, str]) -> dict[str, list[str]]:
    """Return the places of the functions of each name, where there are too many of one."""
    named = _definitions(sources, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        name: places
        for name, places in named.items()
        if len(places) > MOST_FUNCTIONS_OF_ONE_NAME and not (name.startswith("__") and name.endswith("__"))
    }


def classes_named_alike(sources: dict[str, str]) -> dict[str, list[str]]:
    """Return the places of the classes of each name that more than one has."""
    return {name: places for name, places in _definitions(sources, ast.ClassDef).items() if len(places) > 1}


def _definitions(sources: dict[str, str], *kinds: type) -> dict[str, list[str]]:
    named: dict[str, list[str]] = defaultdict(list)
    for file, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, kinds):
                named[node.name].append(f"{file}:{node.lineno}")  # type: ignore[attr-defined]
    return named


def app_keys(source: str) -> list[int]:
    """Return the line of each ``AppKey`` that is made."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "AppKey"
    ]


def program() -> dict[str, str]:
    """Return the text of each module of ``app``."""
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "app").rglob("*.py"))}


def places(found: dict[str, list[str]]) -> str:
    """Write findings one below the other."""
    return "\n".join(f"{name}: {', '.join(each)}" for name, each in sorted(found.items()))


def test_names_that_were_given_up_are_not_used() -> None:
    """No module, class, function, argument, attribute or variable has a name of the old private vocabulary."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for suffix, search in ((".py", given_up_in_python), (".lua", given_up_in_lua))
        for path in files(suffix)
        for line, name in sorted(search(path.read_text()))
    ]
    found += [
        f"{path.relative_to(ROOT)}: {path.stem}" for path in files(".py", ".lua", ".html") if path.stem in GIVEN_UP
    ]
    assert not found, "\n".join(found)


def test_phrases_that_were_given_up_are_not_used() -> None:
    """Comments, docstrings, messages, pages and documents do without phrases that readers stumbled over."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {words}" for path in files("") for line, words in phrases(path.read_text())
    ]
    assert not found, "\n".join(found)


def test_a_name_has_few_meanings() -> None:
    """A search for a function, class or application key lands on one, or on few."""
    sources = program()
    functions = functions_named_alike(sources)
    assert not functions, places(functions)
    classes = classes_named_alike(sources)
    assert len(classes) <= MOST_CLASS_NAMES_USED_TWICE, places(classes)
    keys = [f"{file}:{line}" for file, source in sources.items() for line in app_keys(source)]
    assert len(keys) <= MOST_APP_KEYS, "\n".join(keys)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("class Trail: ...", ["Trail"]),
        ("def f(held, *, again=1): ...", ["again=", "held"]),
        ("async def insist(): ...", ["insist"]),
        ("from app.store.flights import x as begun", ["begun", "flights"]),
        ("import app.causes", ["causes"]),
        ("a.swept = b.floor(floor=math.floor(1))", ["floor", "floor", "swept"]),
        ("f(again=2)\nclass TokensAsked: ...", ["TokensAsked", "again="]),
        ("match x:\n    case Y() as held: ...", ["held"]),
        ("line = 'a flight, begun'  # held, told\nadd_line(line, hold, lead)", []),
    ],
)
def test_a_name_that_comes_back_is_found_in_python(source: str, names: list[str]) -> None:
    """The search finds a name wherever it stands as one, and not in texts or as a part of another name."""
    assert sorted(name for _, name in given_up_in_python(source)) == names


def test_a_name_that_comes_back_is_found_in_lua() -> None:
    """The search finds a token, and neither a text, a comment nor math.floor."""
    source = "-- the floor\nlocal x = math.floor(1) + floor('begun', \"held\")\n--[[ swept\n]] local begun = t.swept\n"
    assert list(given_up_in_lua(source)) == [(2, "floor"), (4, "begun"), (4, "swept")]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("'x' is no handle", [1]),
        ("one\n# two is\n# no glob", [2]),
        ("these are\n-- no words", [1]),
        ("None of ours. Redis loses\nits memory", [1, 1 + 1]),
        ("{{ _('settled by the file') }}", [1]),
        ("Nobody knows; whoever\nasks is told by somebody", [1, 1, 1 + 1, 1 + 1]),
        ("a token\n# in hand lies in the drawer, drawn by his\n# desk", [1, 1 + 1, 1 + 1, 1 + 1, 1 + 1 + 1]),
        ("there is no key; There\n  is no key; it is no longer there; there is no such key; it is not a key", []),
        ("it is nothing, and is known; a is not b", []),
    ],
)
def test_a_phrase_that_comes_back_is_found(text: str, lines: list[int]) -> None:
    """The search finds a phrase in any case and over the end of a line, and leaves plain ones alone."""
    assert sorted(line for line, _ in phrases(text)) == lines


def test_too_many_things_of_one_name_are_found() -> None:
    """Functions in classes count as well; two classes of one name are found in one file or in two."""
    many = {
        f"{number}.py": "class A:\n    async def show(self): ...\n    def __init__(self): ..." for number in range(13)
    }
    assert Counter({name: len(each) for name, each in functions_named_alike(many).items()}) == {"show": 13}
    assert not functions_named_alike(dict(list(many.items())[1:]))
    assert classes_named_alike({"a.py": "class B: ...", "b.py": "x = 1\nclass B: ..."}) == {"B": ["a.py:1", "b.py:2"]}
    assert not classes_named_alike({"a.py": "class B: ...\nclass C: ..."})
    assert app_keys("x = web.AppKey('x', int)\ny = AppKey('y', int)\nz: web.AppKey[int]") == [1, 2]
