"""The cloud's answers, read into typed structs: what is not exactly what was expected is a ``CloudError``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Final, TypeVar
from urllib.parse import unquote

import msgspec

from app.cloud.errors import CloudError, Kind, classify
from app.model.secrets import Secret

MAX_ANSWER_BYTES: Final = 64 * 1024

_MAX_QUOTED_CHARS: Final = 300
_JSON_TYPES: Final = frozenset({"application/json", "text/json"})

RequestId = Annotated[str, msgspec.Meta(min_length=1)]


class Answer(msgspec.Struct, rename="pascal", frozen=True):
    """What every answer has (chapter 7)."""

    request_id: RequestId


class ApplyTokenAnswer(Answer, frozen=True):
    """``Token`` may be anything (10.1), but it must fit into an MQTT password, where ``|`` parts the tokens."""

    token: Annotated[str, msgspec.Meta(min_length=1, pattern=r"\A[^|]+\Z")]

    def __repr__(self) -> str:
        """Tell nothing of the token."""
        return "ApplyTokenAnswer()"


class QueryTokenAnswer(Answer, frozen=True):
    """Whether the token is valid (10.2)."""

    token_status: bool


class _Refusal(msgspec.Struct, rename="pascal", frozen=True):
    """What an error's answer has (chapter 7), and no other; not yet checked."""

    code: object = None
    message: object = ""
    request_id: object = ""


_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What ``msgspec`` raises for bytes that are not the JSON asked for, not UTF-8, or nested without end."""

_Expected = TypeVar("_Expected", bound=Answer)


def read_answer(
    expected: type[_Expected],
    *,
    status: int,
    headers: Mapping[str, str],
    content_type: str,
    body: bytes,
    secrets: Collection[Secret],
) -> _Expected:
    """Read one answer.

    Raises ``CloudError``: of the kind of its ``Code`` if it has one, else transient. None of ``secrets`` is in it.
    """
    if len(body) > MAX_ANSWER_BYTES:
        raise malformed(status, f"more than {MAX_ANSWER_BYTES} bytes")
    if content_type not in _JSON_TYPES:
        raise malformed(status, f"{len(body)} bytes of {content_type}")
    what = f"{len(body)} bytes that are no {expected.__name__}"
    try:
        refusal = msgspec.json.decode(body, type=_Refusal)
    except _UNREADABLE:  # its message could quote the token, so it is not told
        raise malformed(status, what) from None
    # The Code is looked for first, whatever the status: a refusal with a RequestId and status 200 would else be read as
    # a RevokeToken that took effect.
    if refusal.code is not None:
        code, message, request_id = (
            _harmless(text, secrets) for text in (refusal.code, refusal.message, refusal.request_id)
        )
        raise CloudError(
            classify(code), code, message, request_id=request_id, status=status, retry_after_s=_retry_after_s(headers)
        )
    if status != 200:  # noqa: PLR2004 (OK)
        raise malformed(status, what)
    try:
        return msgspec.json.decode(body, type=expected)
    except _UNREADABLE:
        raise malformed(status, what) from None


def malformed(status: int, what: str) -> CloudError:
    """Return the error for an answer that says nothing, so the call may have taken effect."""
    return CloudError(Kind.TRANSIENT, "MalformedAnswer", f"HTTP {status}: {what}", status=status, uncertain=True)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read ``x-acs-retry-after``, in milliseconds (FACTS 3.3)."""
    text = headers.get("x-acs-retry-after", "")
    return int(text) / 1000 if re.fullmatch("[1-9][0-9]{0,8}", text) else None


def _harmless(text: object, secrets: Collection[Secret]) -> str:
    """Make a text of the cloud's fit for the log.

    A refused signature's message quotes the whole string to sign, with the token of QueryToken and RevokeToken in it.
    """
    if not isinstance(text, str):
        return ""
    text = text.partition("string to sign")[0]
    readings = (text, unquote(text), unquote(unquote(text)))
    if any(secret and secret.reveal() in reading for secret in secrets for reading in readings):
        return "(withheld: it quotes a secret)"
    return "".join(character if character.isprintable() else "?" for character in text[:_MAX_QUOTED_CHARS])
