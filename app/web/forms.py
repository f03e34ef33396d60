"""Reading a form of RFC 6749: strictly, so that no two readers of one request can differ about what it says."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web

from app.errors import InvalidClient, InvalidRequest, TooLarge
from app.model.secrets import ClientSecret, Secret
from app.service.api_keys import Bearer
from app.service.client_credentials import Assertion, Basic, ClientCredentials
from app.web.bearer import read_bearer

MAX_BODY_BYTES: Final = 64 * 1024
MAX_PARAMETERS: Final = 32
BODY_WITHIN_S: Final = 10.0
FORM: Final = "application/x-www-form-urlencoded"
ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

KNOWN: Final = frozenset(
    {
        "client_assertion",
        "client_assertion_type",
        "client_id",
        "client_secret",
        "expires_in",
        "grant_type",
        "scope",
        "token",
        "token_type_hint",
    }
)

Form = Mapping[str, str]


async def read_form(request: web.Request) -> Form:
    """Read the body as a form (RFC 6749 section 3.2 and appendix B).

    Raises as ``read_body``, and ``InvalidRequest`` for a parameter sent twice or empty, what is no UTF-8, and
    parameters in the URL.
    """
    if request.query_string:
        # A URL lies in logs and histories; a secret there would be everyone's.
        raise InvalidRequest("send the parameters in the body, not in the URL")
    body = await read_body(request, FORM)
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except (UnicodeError, ValueError):
        raise InvalidRequest(f"the body is no {FORM} of at most {MAX_PARAMETERS} parameters in UTF-8") from None
    form: dict[str, str] = {}
    for name, value in pairs:
        if name in form:
            # Two readers might each take another one: the proxy that checks, and we who act.
            raise InvalidRequest(f"{_shown(name)} was sent more than once")
        if not value:
            raise InvalidRequest(f"{_shown(name)} is empty: give it a value, or leave it out")
        form[name] = value
    return form


async def read_body(request: web.Request, content_type: str) -> bytes:
    """Read a body whole.

    Raises ``InvalidRequest`` for another content type, a compressed body or one that does not come whole within 10
    seconds; ``TooLarge`` beyond 64 KiB.
    """
    if request.content_type != content_type:
        raise InvalidRequest(f"send the parameters as {content_type}")
    if "Content-Encoding" in request.headers:
        raise InvalidRequest("send the body as it is, without a Content-Encoding")
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise TooLarge(f"the body has more than {MAX_BODY_BYTES} bytes") from None
    except OSError:  # a timeout, too: who sends slowly, or hangs up, is no fault of ours
        raise InvalidRequest(f"the body did not come whole within {BODY_WITHIN_S:g} s") from None


def _shown(name: str) -> str:
    """Name a parameter, if it is one: a secret sent bare, with its padding's ``=``, looks like a name."""
    return f"'{name}'" if name in KNOWN else "an unknown parameter"


def required(form: Form, name: str) -> str:
    """Return a parameter. Raises ``InvalidRequest`` if it is missing."""
    if name not in form:
        raise InvalidRequest(f"{name!r} is missing")
    return form[name]


def read_credentials(request: web.Request, form: Form) -> ClientCredentials:
    """Read how the caller authenticates (RFC 6749 section 2.3, RFC 7523 section 2.2).

    Raises ``InvalidRequest`` for two ways at once, ``InvalidClient`` for none or one that is not served.
    """
    authorization = request.headers.getall("Authorization", [])
    if "client_secret" in form:
        raise InvalidClient("client_secret in the form is not served: use HTTP Basic, or sign an assertion")
    by_assertion = "client_assertion" in form or "client_assertion_type" in form
    if len(authorization) + by_assertion > 1:
        raise InvalidRequest("authenticate in one way, not in two at once")
    if by_assertion:
        if required(form, "client_assertion_type") != ASSERTION_TYPE:
            raise InvalidRequest(f"client_assertion_type must be {ASSERTION_TYPE}")
        return Assertion(Secret(required(form, "client_assertion")), form.get("client_id"))
    if authorization:
        basic = _read_basic(authorization[0])
        if form.get("client_id", basic.client_id) != basic.client_id:
            raise InvalidRequest("client_id in the form is not the one in the Authorization header")
        return basic
    raise InvalidClient("authenticate with a client_assertion or HTTP Basic")


def read_caller(request: web.Request, form: Form) -> ClientCredentials | Bearer:
    """Read how a caller authenticates where services may call as well: by API key, or as a device.

    Raises as ``read_credentials``; an API key beside anything that names or proves a device is ``InvalidRequest``.
    """
    bearer = read_bearer(request)
    if bearer is None:
        return read_credentials(request, form)
    if not form.keys().isdisjoint({"client_assertion", "client_assertion_type", "client_id", "client_secret"}):
        # RFC 6749 section 2.3: who would it be that asks?
        raise InvalidRequest("authenticate in one way, not in two at once: with an API key the form names no client")
    return bearer


def _read_basic(header: str) -> Basic:
    """Read HTTP Basic; client ID and secret are form-encoded before they are joined (RFC 6749 section 2.3.1)."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        raise InvalidClient("only the Basic scheme is served here, or a client_assertion")
    try:
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        client_id, secret = unquote_plus(client_id, errors="strict"), unquote_plus(secret, errors="strict")
    except (binascii.Error, ValueError):
        raise InvalidClient("the Authorization header is no HTTP Basic") from None
    if not colon or not client_id or not secret:
        raise InvalidClient("the Authorization header lacks the client ID or the secret")
    return Basic(client_id, ClientSecret(secret))
