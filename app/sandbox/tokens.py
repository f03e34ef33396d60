"""ApplyToken, QueryToken and RevokeToken on the sandbox's state (guide chapters 10.1 to 10.3)."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.model.grants import TokenType
from app.model.secrets import CloudToken
from app.model.topics import MalformedTopic, parse_filter
from app.rpc.catalog import MAX_RESOURCES, MAX_TOKEN_LIFE_S, MIN_TOKEN_LIFE_S
from app.sandbox.account import Account, Handlers
from app.sandbox.answers import Fault, Value
from app.sandbox.state import Standing, Token, sha256_of
from app.sandbox.verify import Call

_TYPES: Final = MappingProxyType({type_.actions: type_ for type_ in TokenType})


async def _apply_token(account: Account, call: Call) -> Mapping[str, Value]:
    given = call.parameters
    type_ = _TYPES[given["Actions"]]
    resources = _resources(given["Resources"])
    expires_at_ms = _expires_at_ms(given["ExpireTime"], account.clock.now_ms())
    if not all(map(account.parents.has, resources)):
        raise Fault("PermissionCheckFailed")  # one such report is known of the cloud (FACTS 8)
    text = CloudToken(_new_token())
    await account.state.issue(Token(sha256_of(text), type_, resources, call.access_key_id, expires_at_ms))
    return {"Token": text.reveal()}


async def _query_token(account: Account, call: Call) -> Mapping[str, Value]:
    """``false`` for expired is documented; for revoked and unknown it is inferred (FACTS 8)."""
    token = account.find(call)
    valid = token is not None and account.state.standing(token, account.clock.now_ms()) is Standing.VALID
    return {"TokenStatus": valid}


async def _revoke_token(account: Account, call: Call) -> Mapping[str, Value]:
    """Revoke; a second time, and for a token never issued to this account, the answer is the same.

    What the cloud says of an unknown token is not documented (FACTS 8). A plain success gives a caller least to lean
    on: whoever must be sure asks QueryToken.
    """
    token = account.find(call)
    if token is not None:
        try:
            await account.state.revoke(token)
        finally:
            account.broker.revoked(token)  # it is invalid even if the file could not be written
    return {}


def _resources(text: str) -> tuple[str, ...]:
    """Read ``Resources``; where the guide leaves room the strictest reading holds, so who passes here passes there.

    Dictionary order is read as byte order without duplicates; whether the cloud refuses others is not documented.
    """
    resources = tuple(text.split(","))
    try:
        for resource in resources:
            parse_filter(resource)
    except MalformedTopic:
        raise Fault("InvalidParameter.%s", "Resources") from None
    if len(resources) > MAX_RESOURCES or list(resources) != sorted(set(resources)):
        raise Fault("ParameterCheckFailed")
    return resources


def _expires_at_ms(text: str, now_ms: int) -> int:
    """Return the effective expiry. The code for one too near is inferred: the documents name none (FACTS 8)."""
    if int(text) < now_ms + MIN_TOKEN_LIFE_S * 1000:
        raise Fault("InvalidParameter.%s", "ExpireTime")
    return min(int(text), now_ms + MAX_TOKEN_LIFE_S * 1000)


def _new_token() -> str:
    """Return an opaque token: base64 of a random length, so that nobody comes to rely on either."""
    return base64.b64encode(secrets.token_bytes(190 + secrets.randbelow(66))).decode()


HANDLERS: Final[Handlers] = MappingProxyType(
    {"ApplyToken": _apply_token, "QueryToken": _query_token, "RevokeToken": _revoke_token}
)
