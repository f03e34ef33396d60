"""Making a struct of what a request sends, or saying which field is wrong and what it takes.

What a handler takes is a struct. By its type fields and JSON are checked, a form is shown again, and the API is
described. A complaint is made from that type alone, never from what was sent: a secret may stand in the wrong field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import ClassVar, Final, Literal, TypeVar

import msgspec
from msgspec import inspect
from multidict import MultiMapping

from app.errors import InvalidRequest
from app.model.secrets import Secret
from app.model.text import Text, _

# What was sent may stand in the middle of such a message, and look like one: so only its beginning and end are read.
_UNKNOWN: Final = "Object contains unknown field"
_MISSING: Final = re.compile(r"Object missing required field `([A-Za-z_0-9]+)`")
_BOUND: Final = re.compile(r"Expected `(?:int|float)` (<=|>=) (-?[0-9]+)")
_FIELD: Final = re.compile(r" - at `\$\.([A-Za-z_0-9]+)[^`]*`\Z")

_Model = TypeVar("_Model", bound="RequestModel")

FormValues = Mapping[str, str]
"""What was typed into a form, to be shown again; secrets are not among it."""


class RequestModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a handler takes, in the URL, as a form or as JSON. Unknown fields are refused: they may be meant to narrow.

    ``empty_fields`` says what becomes of a field without a value.
    """

    empty_fields: ClassVar[Literal["kept", "left out", "refused"]] = "kept"


class FormModel(RequestModel, frozen=True):
    """What a page of the console takes. Browsers send every field of a form, filled in or not."""

    empty_fields = "left out"


def convert_fields(fields: MultiMapping[str], model: type[_Model]) -> _Model:
    """Make a struct of a form's fields or a URL's parameters.

    Raises ``InvalidRequest`` for a field that the struct does not know, one that is there twice and is not a list, and
    a value of the wrong kind.
    """
    try:
        return msgspec.convert(_collect(fields, model), model, strict=False, dec_hook=_hide)
    except msgspec.ValidationError as error:
        raise InvalidRequest(describe_mismatch(error, model)) from None


def convert_json(body: bytes, model: type[_Model]) -> _Model:
    """Make a struct of JSON (RFC 8259). Raises ``InvalidRequest``, also for a field that is there twice."""
    try:
        converted = msgspec.json.decode(body, type=model, dec_hook=_hide)
    except msgspec.ValidationError as error:
        raise InvalidRequest(describe_mismatch(error, model)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequest(_("the body is not valid JSON: send one object in UTF-8")) from None
    json.loads(body, object_pairs_hook=_refuse_repeated)  # it is known to be JSON by now, and not deep
    return converted


def values_to_show(fields: MultiMapping[str], model: type[RequestModel]) -> FormValues:
    """Return what was typed into the fields that there are, without what no page may show."""
    plain = {name for name, kind in _kinds(model).items() if not _is_secret(kind)}
    return {name: value for name, value in fields.items() if name in plain}


def describe_mismatch(error: msgspec.ValidationError, model: type[RequestModel]) -> Text:
    """Say which field is wrong and what it takes."""
    text = str(error)
    if text.startswith(_UNKNOWN):
        return _unknown(model)
    if missing := _MISSING.match(text):
        return _("%(field)s is missing", field=missing[1])
    field = _FIELD.search(text)
    if not field:
        return _("this must be one object with named fields")
    if bound := _BOUND.match(text):
        return (
            _("%(field)s must be at most %(bound)s", field=field[1], bound=bound[2])
            if bound[1] == "<="
            else _("%(field)s must be at least %(bound)s", field=field[1], bound=bound[2])
        )
    return _("%(field)s must be %(expected)s", field=field[1], expected=_expected(_kinds(model)[field[1]]))


def _collect(fields: MultiMapping[str], model: type[RequestModel]) -> dict[str, str | list[str]]:
    """Return each field once, a list's with all its values."""
    collected: dict[str, str | list[str]] = {}
    lists = _list_fields(model)
    for name in dict.fromkeys(fields):
        # A name that is not a field's may be a secret.
        shown = name if name in model.__struct_fields__ else _unknown_field(model)
        values = fields.getall(name)
        if model.empty_fields == "refused" and "" in values:
            raise InvalidRequest(_("%(field)s is empty: give it a value, or leave it out", field=shown))
        if model.empty_fields == "left out":
            # A form sends each line break as two characters (HTML, form submission).
            values = [value.replace("\r\n", "\n") for value in values if value]
        if name in lists:
            collected[name] = values
        elif len(values) > 1:
            # Two readers might each take another one: the proxy that checks, and this server that acts.
            raise InvalidRequest(_("%(field)s was sent more than once: send it once", field=shown))
        elif values:
            collected[name] = values[0]
    return collected


@cache
def _list_fields(model: type[RequestModel]) -> frozenset[str]:
    """Return the fields that may be sent more than once."""
    kinds = _kinds(model).items()
    return frozenset(name for name, kind in kinds if isinstance(kind, inspect.ListType | inspect.VarTupleType))


def _unknown_field(model: type[RequestModel]) -> Text:
    """Return what an unknown field is called. Raises ``InvalidRequest`` where there must be none."""
    if model.__struct_config__.forbid_unknown_fields:
        raise InvalidRequest(_unknown(model))
    return _("an unknown parameter")


def _refuse_repeated(pairs: list[tuple[str, object]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise InvalidRequest(_("a field was sent more than once: send each once"))


def _unknown(model: type[RequestModel]) -> Text:
    if names := ", ".join(model.__struct_fields__):
        return _("an unknown parameter was sent: leave it out; this takes %(names)s", names=names)
    return _("an unknown parameter was sent: leave it out; this takes none")


@cache
def _kinds(model: type[RequestModel]) -> Mapping[str, inspect.Type]:
    """Return the type of each field, of an optional one that without None."""
    [info] = inspect.multi_type_info([model])
    assert isinstance(info, inspect.StructType)  # noqa: S101 (a RequestModel is a struct)
    return {each.name: _not_null(each.type) for each in info.fields}


def _not_null(kind: inspect.Type) -> inspect.Type:
    if isinstance(kind, inspect.UnionType):
        return next(each for each in kind.types if not isinstance(each, inspect.NoneType))
    return kind


def _expected(kind: inspect.Type) -> Text:  # noqa: PLR0911 (a table of types)
    """Say what a field of this type takes."""
    match kind:
        case inspect.IntType():
            return _("a whole number")
        case inspect.FloatType():
            return _("a number")
        case inspect.BoolType():
            return _("true or false")
        case inspect.LiteralType(values=values):
            return _("one of %(choices)s", choices=", ".join(str(value) for value in values if value != ""))
        case inspect.EnumType(cls=cls):
            return _("one of %(choices)s", choices=", ".join(str(member.value) for member in cls))
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return _("a list, each value %(expected)s", expected=_expected(item))
        case inspect.DictType(value_type=value):
            return _("an object, each value %(expected)s", expected=_expected(value))
        case _:
            return _("a text")


def _is_secret(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.CustomType) and issubclass(kind.cls, Secret)


def _hide(kind: type, value: object) -> object:
    if issubclass(kind, Secret) and isinstance(value, str):
        return kind(value)
    raise ValueError("Expected a text")
