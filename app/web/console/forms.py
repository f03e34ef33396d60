"""Reading what a browser sends: a query or a form becomes a struct, or is refused with the field's name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from multidict import MultiDict, MultiMapping

from app.errors import InvalidRequest
from app.model.secrets import Secret
from app.web.api import RequestModel
from app.web.forms import FORM, read_body

MAX_FIELDS: Final = 500
"""A page of tokens has a box for each of fifty; nobody's form has more fields than this."""

_QUOTED: Final = re.compile(r""" ['"].*['"]""", re.DOTALL)
"""What was sent, as Python quotes it: in double quotes if it holds a single one."""

_AT: Final = re.compile(r" - at `\$\.([a-z_0-9]+).*`")
_Asked = TypeVar("_Asked", bound=RequestModel)

Filled = Mapping[str, str]
"""What was typed into a form, to be shown again; secrets are not among it."""


async def read_fields(request: web.Request) -> MultiDict[str]:
    """Read a form's fields. Raises as ``read_body``, and ``InvalidRequest`` for what is no form in UTF-8."""
    body = await read_body(request, FORM)
    try:
        return MultiDict(
            parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
        )
    except (UnicodeError, ValueError):
        raise InvalidRequest(f"the form is no {FORM} of at most {MAX_FIELDS} fields in UTF-8") from None


def convert(fields: MultiMapping[str], type_: type[_Asked]) -> _Asked:
    """Make the struct a page asked for; an empty field counts as left out, for browsers send those too.

    Raises ``InvalidRequest`` for a field that the page does not know (it may be meant to narrow), one that is there
    twice and is no list, and a value of the wrong kind. It names the page's fields, and never what was sent: a secret
    sent bare stands where a name should.
    """
    kinds = {each.name: each.type for each in msgspec.structs.fields(type_)}
    given: dict[str, Any] = {}
    for name in dict.fromkeys(fields):
        values = [value.replace("\r\n", "\n") for value in fields.getall(name) if value]
        if name not in kinds:
            raise InvalidRequest(f"something unknown was sent; this page takes {', '.join(kinds) or 'nothing'}")
        if getattr(kinds[name], "__origin__", kinds[name]) in {list, tuple}:
            given[name] = values
        elif len(values) > 1:
            raise InvalidRequest(f"{name} was sent more than once")
        elif values:
            given[name] = values[0]
    try:
        return msgspec.convert(given, type_, strict=False, dec_hook=_hide)
    except msgspec.ValidationError as error:
        raise InvalidRequest(_complaint(error)) from None


def filled(fields: MultiMapping[str], type_: type[RequestModel]) -> Filled:
    """Return what was typed into the fields that there are, without what no page may show."""
    plain = {each.name for each in msgspec.structs.fields(type_) if not _is_secret(each.type)}
    return {name: value for name, value in fields.items() if name in plain}


def _complaint(error: msgspec.ValidationError) -> str:
    text = str(error)
    place = _AT.search(text)
    said = _QUOTED.sub("", _AT.sub("", text))
    return f"{place[1]}: {said[:1].lower()}{said[1:]}" if place else said


def _is_secret(type_: Any) -> bool:
    kinds = getattr(type_, "__args__", (type_,))
    return any(isinstance(kind, type) and issubclass(kind, Secret) for kind in kinds)


def _hide(type_: type, value: object) -> object:
    if issubclass(type_, Secret) and isinstance(value, str):
        return type_(value)
    raise ValueError("Expected a text")
