"""The cloud's answers, read into typed structs; anything else than what was expected is a ``CloudError``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import unquote
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import ParseError

import msgspec

from app.cloud.errors import CloudError, ErrorKind, classify
from app.model.mqtt_password import CLOUD_TOKEN
from app.model.sanitize import sanitize_for_log
from app.model.secrets import AccessKeySecret, Secret
from app.model.text import Text, _

MAX_ANSWER_BYTES: Final = 256 * 1024
"""Some thousand group IDs; all other answers have a few hundred bytes."""

MAX_RETRY_AFTER_S: Final = 60.0
"""However long the cloud asks to be left alone, it is called again after this time."""

_RETRY_AFTER: Final = {"x-acs-retry-after": 1000, "Retry-After": 1}
_MAX_QUOTED_CHARS: Final = 300
_JSON_TYPES: Final = frozenset({"application/json", "text/json"})
_XML_TYPES: Final = frozenset({"application/xml", "text/xml"})

_SUCCESSFUL: Final = (None, 200, "200")
"""CloseConnection answers success with a Code; the guide's actions have a Code only in a refusal."""

RequestId = Annotated[str, msgspec.Meta(min_length=1)]


class CloudAnswer(msgspec.Struct, rename="pascal", frozen=True):
    """The field of every answer (chapter 7)."""

    request_id: RequestId


class ApplyTokenAnswer(CloudAnswer, frozen=True):
    """``Token`` may be anything (10.1), but it must fit into an MQTT password, where ``|`` separates the tokens."""

    token: Annotated[str, msgspec.Meta(min_length=1, pattern=rf"\A{CLOUD_TOKEN}\Z")]

    def __repr__(self) -> str:
        """Hide the token."""
        return "ApplyTokenAnswer()"


class QueryTokenAnswer(CloudAnswer, frozen=True):
    """Whether the token is valid (10.2)."""

    token_status: bool


class CloseConnectionAnswer(CloudAnswer, frozen=True):
    """Whether the connection was closed (FACTS 3.1)."""

    success: bool = True


class CloudGroup(msgspec.Struct, rename="pascal", frozen=True):
    """A group ID of the instance (11.2); the times are Unix ms."""

    group_id: str
    instance_id: str
    create_time: int
    update_time: int
    independent_naming: bool = True


class ListGroupIdAnswer(CloudAnswer, frozen=True):
    """All group IDs (11.2)."""

    data: tuple[CloudGroup, ...] = ()


class SendMessageAnswer(CloudAnswer, frozen=True):
    """The message's ID (12.1)."""

    msg_id: str


class SessionAnswer(CloudAnswer, frozen=True):
    """Whether the device is connected (13.1)."""

    online_status: bool


class DeviceCredential(msgspec.Struct, rename="pascal", frozen=True):
    """A device's own access key, for the broker's DeviceCredential mode (chapter 14); the times are Unix ms."""

    client_id: str
    device_access_key_id: str
    device_access_key_secret: AccessKeySecret
    instance_id: str
    create_time: int
    update_time: int


class DeviceCredentialAnswer(CloudAnswer, frozen=True):
    """The answer to registering, reading and refreshing a device's access key (14.1, 14.2, 14.4)."""

    device_credential: DeviceCredential


class _Refusal(msgspec.Struct, rename="pascal", frozen=True):
    """The fields of an answer that is an error (chapter 7), unchecked."""

    code: object = None
    message: object = ""
    request_id: object = ""


_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ParseError)
"""Raised for bytes of another form than asked for, not in UTF-8, or nested too deep."""

Expected = TypeVar("Expected", bound=CloudAnswer)


def _read_secret(kind: type, value: object) -> object:
    if kind is AccessKeySecret and isinstance(value, str) and value:
        return AccessKeySecret(value)
    raise ValueError("not a valid secret")


@cache
def _decoder(expected: type[CloudAnswer]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(expected, dec_hook=_read_secret)


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer over HTTP, not read yet."""

    status: int
    headers: Mapping[str, str]
    content_type: str
    body: bytes = field(repr=False)


def read_answer(expected: type[Expected], raw: RawAnswer, secrets: Collection[Secret]) -> Expected:
    """Read one answer in JSON.

    Raises ``CloudError``: of the kind of its ``Code`` if it has one, else transient. None of ``secrets`` is in it.
    """
    if raw.content_type not in _JSON_TYPES:
        raise malformed(raw, _("expected JSON"))
    if refusal := read_refusal(raw, secrets):
        raise refusal
    try:
        answer: Expected = _decoder(expected).decode(raw.body)
    except _UNREADABLE:  # its message could quote the token, so it is left out
        raise malformed(raw, _("expected the fields of %(answer)s", answer=expected.__name__)) from None
    return answer


def read_refusal(raw: RawAnswer, secrets: Collection[Secret] = ()) -> CloudError | None:
    """Return the error that an answer in JSON or XML is, None if it is a result. None of ``secrets`` is in it.

    The ``Code`` is looked for first, whatever the status: a refusal with a RequestId and status 200 would else be read
    as a RevokeToken that took effect.
    """
    if len(raw.body) > MAX_ANSWER_BYTES:
        return malformed(raw, _("expected %(most)s bytes at most", most=MAX_ANSWER_BYTES))
    try:
        refusal = _read_xml(raw.body) if raw.content_type in _XML_TYPES else _read_json(raw.body)
    except _UNREADABLE:
        return malformed(raw, _("expected an answer of the cloud"))
    if refusal.code not in _SUCCESSFUL:
        code, message, request_id = (
            _quote(text, secrets) for text in (refusal.code, refusal.message, refusal.request_id)
        )
        after_s = _retry_after_s(raw.headers)
        return CloudError(
            classify(code), code, message, request_id=request_id, status=raw.status, retry_after_s=after_s
        )
    if raw.status != 200:  # noqa: PLR2004 (OK)
        return malformed(raw, _("expected a Code"))
    return None


def _read_json(body: bytes) -> _Refusal:
    return msgspec.json.decode(body, type=_Refusal)


def _read_xml(body: bytes) -> _Refusal:
    # Entities that a document declares could unfold into gigabytes; NUL would be one in UTF-16, where they hide.
    if b"<!DOCTYPE" in body or b"\0" in body:
        raise ParseError("not a document of the cloud")
    root = ET.fromstring(body)  # noqa: S314 (see above)
    if root.tag != "Error":
        return _Refusal()
    return _Refusal(root.findtext("Code", ""), root.findtext("Message", ""), root.findtext("RequestId", ""))


def malformed(raw: RawAnswer, expectation: Text) -> CloudError:
    """Return the error for an answer that cannot be read, so that the call may have taken effect."""
    message = _(
        "HTTP %(status)s with %(bytes)s bytes of %(type)s: %(expectation)s",
        status=raw.status,
        bytes=len(raw.body),
        type=raw.content_type,
        expectation=expectation,
    )
    return CloudError(ErrorKind.TRANSIENT, "MalformedAnswer", message, status=raw.status, uncertain=True)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read ``x-acs-retry-after`` in milliseconds (FACTS 3.3), else ``Retry-After`` in seconds (RFC 9110 10.2.3).

    What is not a positive whole number or a later date counts as not said.
    """
    for name, units_a_second in _RETRY_AFTER.items():
        if re.fullmatch("[1-9][0-9]{0,17}", text := headers.get(name, "")):
            return min(MAX_RETRY_AFTER_S, int(text) / units_a_second)
    return _retry_date_after_s(headers)


def _retry_date_after_s(headers: Mapping[str, str]) -> float | None:
    """Read ``Retry-After`` as a date, by the cloud's own clock: that of this machine may be wrong."""
    try:
        answered, again = (_http_date(headers.get(name, "")) for name in ("Date", "Retry-After"))
        after_s = (again - answered).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(MAX_RETRY_AFTER_S, after_s) if after_s > 0 else None


def _http_date(text: str) -> datetime:
    """Read a date with or without a zone, which is always GMT (RFC 9110 5.6.7). Raises ``ValueError``."""
    date = parsedate_to_datetime(text)
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _quote(text: object, secrets: Collection[Secret]) -> str:
    """Make a text of the cloud's fit for the log.

    A refused signature's message quotes the whole string to sign, with the token of QueryToken and RevokeToken in it.
    """
    if not isinstance(text, str | int):
        return ""
    text = str(text).partition("string to sign")[0]
    readings = (text, unquote(text), unquote(unquote(text)))
    if any(secret and secret.reveal() in reading for secret in secrets for reading in readings):
        return "(withheld: it quotes a secret)"
    return sanitize_for_log(text[:_MAX_QUOTED_CHARS])
