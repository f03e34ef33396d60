"""How a device authenticates at the OAuth endpoints (RFC 6749 section 2.3, RFC 7523 section 2.2)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from urllib.parse import unquote_plus

import msgspec

from app.errors import InvalidClient, InvalidRequest
from app.model.devices import ASSERTION_TYPE
from app.model.secrets import ClientSecret, Secret
from app.model.text import _
from app.service.api_keys import Bearer
from app.service.client_credentials import Assertion, Basic, ClientCredentials
from app.web.bearer import read_bearer
from app.web.conversion import RequestModel


class ClientForm(RequestModel, frozen=True, forbid_unknown_fields=False):
    """What a form of OAuth may say about the client. Unknown parameters are ignored (RFC 6749 3.2)."""

    empty_fields = "refused"

    client_id: str | None = None
    client_secret: Secret | None = None
    client_assertion: Secret | None = None
    client_assertion_type: str | None = None

    @property
    def names_client(self) -> bool:
        """Whether it says anything about a client."""
        return any(getattr(self, each.name) is not None for each in msgspec.structs.fields(ClientForm))


def read_credentials(authorization: Sequence[str], form: ClientForm) -> ClientCredentials:
    """Read how the client authenticates.

    Raises ``InvalidRequest`` for two ways at once, ``InvalidClient`` for none or one that is not supported.
    """
    if form.client_secret is not None:
        raise InvalidClient(_("client_secret in the form is not supported: use HTTP Basic, or sign an assertion"))
    by_assertion = form.client_assertion is not None or form.client_assertion_type is not None
    if len(authorization) + by_assertion > 1:
        raise InvalidRequest(_("authenticate in one way, not in two at once"))
    if by_assertion:
        return _read_assertion(form)
    if authorization:
        basic = _read_basic(authorization[0])
        if form.client_id not in {None, basic.client_id}:
            raise InvalidRequest(_("client_id in the form differs from the one in the Authorization header"))
        return basic
    raise InvalidClient(_("authenticate with a client_assertion or HTTP Basic"))


def read_caller(authorization: Sequence[str], form: ClientForm) -> ClientCredentials | Bearer:
    """Read how a caller authenticates where services may call as well: by API key, or as a device.

    Raises as ``read_credentials``; an API key beside anything that names or proves a device is ``InvalidRequest``.
    """
    bearer = read_bearer(authorization)
    if bearer is None:
        return read_credentials(authorization, form)
    if form.names_client:
        # RFC 6749 section 2.3: with two ways of authenticating it is not clear who asks.
        raise InvalidRequest(
            _("authenticate in one way, not in two at once: with an API key the form must not name a client")
        )
    return bearer


def _read_assertion(form: ClientForm) -> Assertion:
    if form.client_assertion_type is None:
        raise InvalidRequest(_("%(field)s is missing", field="client_assertion_type"))
    if form.client_assertion_type != ASSERTION_TYPE:
        raise InvalidRequest(_("client_assertion_type must be %(expected)s", expected=ASSERTION_TYPE))
    if form.client_assertion is None:
        raise InvalidRequest(_("%(field)s is missing", field="client_assertion"))
    return Assertion(form.client_assertion, form.client_id)


def _read_basic(header: str) -> Basic:
    """Read HTTP Basic; client ID and secret are form-encoded before they are joined (RFC 6749 section 2.3.1)."""
    scheme, _space, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        raise InvalidClient(_("authenticate with the Basic scheme or a client_assertion: no other is supported"))
    try:
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        client_id, secret = unquote_plus(client_id, errors="strict"), unquote_plus(secret, errors="strict")
    except (binascii.Error, ValueError):
        raise InvalidClient(
            _("the Authorization header is not valid HTTP Basic: send base64 of client_id:secret")
        ) from None
    if not colon or not client_id or not secret:
        raise InvalidClient(_("the Authorization header lacks the client ID or the secret"))
    return Basic(client_id, ClientSecret(secret))
