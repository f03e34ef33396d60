"""Finds error texts that a console page may show and that are not written as ``_("…")``, so have no translation."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import app.errors
import app.model
from app.model.text import Text
from tests.processes import ROOT

FOLDERS: Final = ("app/cloud", "app/model", "app/service", "app/store", "app/web")

FOR_DEVICES_ALONE: Final = {
    "InvalidClient",
    "NotProven",
    "InvalidToken",
    "NoToken",
    "InsufficientScope",
    "UnsupportedGrantType",
} | {
    "MalformedScope",
    "TooManyFilters",
}
FOR_THE_COMMAND_LINE_ALONE: Final = {"Misconfigured", "PolicyError", "MalformedTemplate"}

OF_THE_DEVICE_API: Final = {
    *(
        f"app/service/{name}.py"
        for name in (
            *("authenticate", "client_credentials", "failure_limits", "request_limiter"),
            *("introspect", "issue", "revoke", "token_lookup"),
        )
    ),
    *(f"app/web/{name}.py" for name in ("aiohttp_internals", "bearer", "client_authentication", "oauth")),
}
"""Modules whose errors no console page shows; nor does it show those of the JSON API, ``app/web/api*.py``."""

_PASSED_ON: Final = {"app/store/index.py", "app/store/jobs.py"}
"""Modules whose ``ValueError`` becomes a refusal's text."""

_MAKES_PLAIN: Final = {"str", "repr", "join", "format", "strip", "replace", "capitalize"}
_MAX_DEPTH: Final = 5


def findings() -> Iterator[tuple[str, int, str]]:
    """Yield file, line and the first words of each error text that has no translation."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if name not in OF_THE_DEVICE_API and not name.startswith("app/web/api"):
                found = plain_texts(path.read_text(), module=_module(path), passes_on=name in _PASSED_ON)
                yield from ((name, line, text) for line, text in found)


def plain_texts(source: str, *, module: str = "", passes_on: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the line and the source of each plain first argument of an error that a page may show.

    ``module`` is where the names of ``source`` can be looked up; ``passes_on`` adds ``ValueError``.
    """
    names = _errors() | ({"ValueError"} if passes_on else set())
    tree = ast.parse(source)
    values = vars(importlib.import_module(module)) if module else {}
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    functions = {scope.name: scope for scope in scopes}
    for scope in (tree, *scopes):
        reader = _Reader(scope, functions, values)
        for node in _own_nodes(scope):
            if isinstance(node, ast.Call) and node.args and _called(node) in names and reader.is_plain(node.args[0]):
                yield node.lineno, ast.unparse(node.args[0])[:80]


@dataclass(frozen=True)
class _Reader:
    """Says of an expression in one function whether it may be a plain ``str``, as far as the module's text shows."""

    scope: ast.AST
    functions: Mapping[str, ast.FunctionDef | ast.AsyncFunctionDef]
    values: Mapping[str, object]
    depth: int = _MAX_DEPTH

    def is_plain(self, node: ast.expr) -> bool:
        """Return whether it is, or may be, a text without a template. What cannot be seen here counts as good."""
        match node:
            case ast.JoinedStr() | ast.BinOp() | ast.Constant(value=str()):
                plain = True
            case ast.IfExp(body=first, orelse=second):
                plain = self.is_plain(first) or self.is_plain(second)
            case ast.BoolOp(values=parts):
                plain = any(map(self.is_plain, parts))
            case ast.Call(func=ast.Name(id=name)) if name in self.functions and self.depth:
                plain = self._returns_plain(self.functions[name])
            case ast.Call():
                plain = _called(node) in _MAKES_PLAIN
            case ast.Name(id=name):
                value = self.values.get(name)
                plain = isinstance(value, str) and not isinstance(value, Text)
                plain = plain or any(map(self.is_plain, self._assigned(name)))
            case _:
                plain = False
        return plain

    def _returns_plain(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        inside = _Reader(function, self.functions, self.values, self.depth - 1)
        returned = [each.value for each in _own_nodes(function) if isinstance(each, ast.Return) and each.value]
        return any(map(inside.is_plain, returned))

    def _assigned(self, name: str) -> Iterator[ast.expr]:
        """Yield what the function assigns to a name."""
        for node in _own_nodes(self.scope):
            match node:
                case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                    yield value
                case _:
                    pass


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function or module without those of the functions in it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _own_nodes(child)


def _called(call: ast.Call) -> str:
    """Return the last name of what is called."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _errors() -> set[str]:
    """Return the names of all errors whose text a console page may show."""
    inside = pkgutil.walk_packages(app.model.__path__, "app.model.")
    modules = [app.errors, *(importlib.import_module(each.name) for each in inside)]
    found = {
        name
        for module in modules
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and not hasattr(builtins, name)
    }
    return found - FOR_DEVICES_ALONE - FOR_THE_COMMAND_LINE_ALONE


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
