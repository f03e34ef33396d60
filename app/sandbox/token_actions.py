"""ApplyToken, QueryToken and RevokeToken (guide chapters 10.1 to 10.3)."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.model.grants import TokenType
from app.model.lifetimes import CLOUD_MIN_LIFETIME_S, MAX_LIFETIME_S
from app.model.secrets import CloudToken
from app.model.topics import MalformedTopic, parse_filter
from app.rpc.catalog import MAX_RESOURCES
from app.sandbox.account import ActionHandler, SandboxAccount
from app.sandbox.answers import AnswerValue, CallRefused
from app.sandbox.token_table import SandboxToken, TokenStanding, sha256_of
from app.sandbox.verify import VerifiedCall

_TYPES: Final = MappingProxyType({type_.actions: type_ for type_ in TokenType})


async def _apply_token(account: SandboxAccount, call: VerifiedCall) -> Mapping[str, AnswerValue]:
    given = call.parameters
    type_ = _TYPES[given["Actions"]]
    resources = _parse_resources(given["Resources"])
    expires_at_ms = _parse_expiry_ms(given["ExpireTime"], account.clock.now_ms())
    if not all(map(account.parents.include, resources)):
        raise CallRefused("PermissionCheckFailed")  # one such report is known of the cloud (FACTS 8)
    text = CloudToken(_generate_token())
    token = SandboxToken(
        sha256=sha256_of(text),
        type=type_,
        resources=resources,
        access_key_id=call.access_key_id,
        expires_at_ms=expires_at_ms,
    )
    await account.state.tokens.issue_token(token)
    return {"Token": text.reveal()}


async def _query_token(account: SandboxAccount, call: VerifiedCall) -> Mapping[str, AnswerValue]:
    """Return whether a token is valid. ``false`` for revoked and unknown tokens is inferred (FACTS 8)."""
    token = account.find_own_token(call)
    now_ms = account.clock.now_ms()
    is_valid = token is not None and account.state.tokens.standing(token, now_ms) is TokenStanding.VALID
    return {"TokenStatus": is_valid}


async def _revoke_token(account: SandboxAccount, call: VerifiedCall) -> Mapping[str, AnswerValue]:
    """Revoke a token. The answer is the same for a revoked token and for one that is not of this account.

    What the cloud answers for an unknown token is not documented (FACTS 8). With plain success a caller cannot come to
    rely on an error: only QueryToken shows whether a token is valid.
    """
    token = account.find_own_token(call)
    if token is not None:
        try:
            await account.state.tokens.revoke_token(token)
        finally:
            account.broker.check_connections_with(token)  # it is invalid even if the database could not be written
    return {}


def _parse_resources(text: str) -> tuple[str, ...]:
    """Parse ``Resources``. Where the guide is unclear the strictest reading applies, so that callers pass both clouds.

    Dictionary order is read as byte order without duplicates; whether the cloud refuses others is not documented.
    """
    resources = tuple(text.split(","))
    try:
        for resource in resources:
            parse_filter(resource)
    except MalformedTopic:
        raise CallRefused("InvalidParameter.%s", "Resources") from None
    if len(resources) > MAX_RESOURCES or list(resources) != sorted(set(resources)):
        raise CallRefused("ParameterCheckFailed")
    return resources


def _parse_expiry_ms(text: str, now_ms: int) -> int:
    """Return the effective expiry in milliseconds. The code for one that is too near is inferred (FACTS 8)."""
    if int(text) < now_ms + CLOUD_MIN_LIFETIME_S * 1000:
        raise CallRefused("InvalidParameter.%s", "ExpireTime")
    return min(int(text), now_ms + MAX_LIFETIME_S * 1000)


def _generate_token() -> str:
    """Return an opaque token: base64 of a random length, so that callers cannot rely on its form."""
    return base64.b64encode(secrets.token_bytes(190 + secrets.randbelow(66))).decode()


HANDLERS: Final[Mapping[str, ActionHandler]] = MappingProxyType(
    {"ApplyToken": _apply_token, "QueryToken": _query_token, "RevokeToken": _revoke_token}
)
