"""The policy file (TOML), read strictly. An error names the file, the line, the key and the cure."""

from __future__ import annotations

import pathlib
import re
import tomllib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

from app.errors import Misconfigured
from app.model.devices import parse_client_id
from app.model.globs import CLIENT_ID_GLOB, may_match_client_id
from app.model.grants import MAX_FILTERS
from app.model.lifetimes import MAX_LIFETIME_S, MIN_LIFETIME_S
from app.model.policy import Policy, Role, is_role_name
from app.model.templates import Template
from app.model.toml_positions import KeyPath, line_of

DEFAULT_LIFETIME_S: Final = 3600
DEFAULT_MAX_LIFETIME_S: Final = 86_400

_ROLE_FIELDS: Final = ("match", "publish", "subscribe", "default_lifetime_s", "max_lifetime_s")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")

_Element = TypeVar("_Element")


class PolicyError(Misconfigured):
    """A policy file is wrong. The message is one line: file, line, key, what is wrong and the cure."""


class _WrongKeyError(Exception):
    """One key is wrong; the message says how."""

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.path = path


def load_policy(path: pathlib.Path) -> Policy:
    """Read the policy at ``path``. Raises ``PolicyError``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_policy(data, str(path))


def parse_policy(data: bytes, file: str) -> Policy:
    """Read a policy from the content of ``file``, whose name is only for messages. Raises ``PolicyError``."""
    try:
        text = data.decode()
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"{file}:{line}: not UTF-8: save the file as UTF-8, as TOML requires") from None
    except (ValueError, RecursionError) as error:  # also for a number or a nesting without end
        raise PolicyError(f"{file}: not valid TOML: {error}") from None
    try:
        return Policy(_roles(document))
    except _WrongKeyError as error:
        raise PolicyError(f"{file}:{line_of(text, error.path)}: {_dotted(error.path)}: {error}") from None


def _dotted(path: KeyPath) -> str:
    names = (
        f"[{step}]" if isinstance(step, int) else f".{step if _BARE_KEY.fullmatch(step) else ascii(step)}"
        for step in path
    )
    return "".join(names).removeprefix(".")


def _roles(document: Mapping[str, Any]) -> Mapping[str, Role]:
    for key in document:
        if key != "roles":
            raise _WrongKeyError((key,), "unknown key: a policy has only [roles.NAME] tables")
    roles = document.get("roles", {})
    if not isinstance(roles, dict) or not roles:
        raise _WrongKeyError(("roles",), "there is no role: add a [roles.NAME] table")
    return MappingProxyType({name: _role(name, table) for name, table in roles.items()})


def _role(name: str, table: object) -> Role:
    path: KeyPath = ("roles", name)
    if not is_role_name(name):
        raise _WrongKeyError(path, "not a valid role name: use 1 to 64 of A-Z a-z 0-9 _ . -")
    if not isinstance(table, dict):
        raise _WrongKeyError(path, f"not a table: write [roles.{name}] and its keys below it")
    for key in table:
        if key not in _ROLE_FIELDS:
            raise _WrongKeyError((*path, key), f"unknown key: a role has {', '.join(_ROLE_FIELDS)}")
    max_lifetime_s = _lifetime(table, path, "max_lifetime_s", DEFAULT_MAX_LIFETIME_S)
    default_lifetime_s = _lifetime(table, path, "default_lifetime_s", min(DEFAULT_LIFETIME_S, max_lifetime_s))
    if default_lifetime_s > max_lifetime_s:
        raise _WrongKeyError(
            (*path, "default_lifetime_s"),
            f"{default_lifetime_s} is more than max_lifetime_s ({max_lifetime_s}): lower it or raise max_lifetime_s",
        )
    publish = _elements(table, path, "publish", Template.parse)
    subscribe = _elements(table, path, "subscribe", Template.parse)
    if not publish and not subscribe:
        raise _WrongKeyError(path, "grants nothing: add publish or subscribe")
    match = _elements(table, path, "match", _glob)
    return Role(name, match, publish, subscribe, default_lifetime_s, max_lifetime_s)


def _lifetime(table: Mapping[str, Any], path: KeyPath, key: str, default_s: int) -> int:
    lifetime_s = table.get(key, default_s)
    if type(lifetime_s) is not int:  # true is an int to isinstance
        raise _WrongKeyError(
            (*path, key), f"not a whole number of seconds: write one from {MIN_LIFETIME_S} to {MAX_LIFETIME_S}"
        )
    if not MIN_LIFETIME_S <= lifetime_s <= MAX_LIFETIME_S:
        raise _WrongKeyError((*path, key), f"{lifetime_s} is outside {MIN_LIFETIME_S} to {MAX_LIFETIME_S} seconds")
    return lifetime_s


def _elements(
    table: Mapping[str, Any], path: KeyPath, key: str, parse: Callable[[str], _Element]
) -> tuple[_Element, ...]:
    texts = table.get(key, [])
    if not isinstance(texts, list):
        raise _WrongKeyError((*path, key), f"not a list of strings: write {key} = [...]")
    elements: dict[str, _Element] = {}
    for number, text in enumerate(texts):
        place = (*path, key, number)
        if not isinstance(text, str):
            raise _WrongKeyError(place, "not a string: put it in quotes")
        if text in elements:
            raise _WrongKeyError(place, f"{text!a} is listed twice: remove one")
        if number >= MAX_FILTERS:
            raise _WrongKeyError(place, f"more than {MAX_FILTERS} entries: use wildcards, or a second role")
        try:
            elements[text] = parse(text)
        except ValueError as error:
            raise _WrongKeyError(place, str(error)) from None
    return tuple(elements.values())


def _glob(text: str) -> str:
    if not CLIENT_ID_GLOB.fullmatch(text):
        raise ValueError(f"{text!a} is not a valid glob: write a client ID, with * for any characters (not ? or [])")
    if "*" not in text:
        parse_client_id(text)
    if not may_match_client_id(text):
        raise ValueError(f"{text!a} matches no client ID: they have the form GID_group@@@device")
    return text
