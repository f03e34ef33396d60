"""The three token actions (guide chapters 10.1 to 10.3) over real HTTP."""

from __future__ import annotations

import re

import pytest

from app.rpc.codes import ERRORS
from tests.sandbox.caller import Caller, in_ms

HUNDRED = ",".join(sorted(f"t/{n}" for n in range(100)))
DAY_MS = 24 * 3600 * 1000


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, "OK"),
        ({"Actions": "W"}, "OK"),
        ({"Actions": "R,W"}, "OK"),
        ({"Actions": "W,R"}, "InvalidParameter.Actions"),
        ({"Actions": "RW"}, "InvalidParameter.Actions"),
        ({"Actions": "r"}, "InvalidParameter.Actions"),
        ({"Actions": None}, "MissingActions"),
        ({"Actions": ""}, "MissingActions"),
        ({"ExpireTime": None}, "MissingExpireTime"),
        ({"ExpireTime": "soon"}, "InvalidParameter.ExpireTime"),
        ({"ExpireTime": "-1"}, "InvalidParameter.ExpireTime"),
        ({"ExpireTime": "1e13"}, "InvalidParameter.ExpireTime"),
        ({"ExpireTime": "9" * 30}, "InvalidParameter.ExpireTime"),
        ({"ExpireTime": "3600000"}, "InvalidParameter.ExpireTime"),
        ({"ExpireTime": str(in_ms(30))}, "InvalidParameter.ExpireTime"),
        ({"InstanceId": "post-cn-other"}, "InstancePermissionCheckFailed"),
        ({"InstanceId": None}, "MissingInstanceId"),
        ({"Resources": None}, "MissingResources"),
        ({"Resources": HUNDRED}, "OK"),
        ({"Resources": HUNDRED + ",u/1"}, "ParameterCheckFailed"),
        ({"Resources": "b/#,a/#"}, "ParameterCheckFailed"),
        ({"Resources": "a/#,a/#"}, "ParameterCheckFailed"),
        ({"Resources": "a/#,"}, "InvalidParameter.Resources"),
        ({"Resources": "a/#/b"}, "InvalidParameter.Resources"),
        ({"Resources": "a/b+"}, "InvalidParameter.Resources"),
        ({"Resources": "$SYS/#"}, "InvalidParameter.Resources"),
        ({"Resources": "a/" + "x" * 63}, "InvalidParameter.Resources"),
        ({"Resources": "a/" + "x" * 62}, "OK"),
    ],
)
async def test_apply_token(cloud: Caller, change: dict[str, str | None], code: str) -> None:
    """Every parameter is checked by the guide's rules, and a refusal issues nothing."""
    given = {"Actions": "R", "ExpireTime": str(in_ms(3600)), "Resources": "a/#", **change}
    reply = await cloud.call("ApplyToken", **given)
    assert reply.code == code, reply.text
    issued = await cloud.control("GET", "tokens")
    assert len(issued) == (code == "OK")
    if code in ERRORS:
        assert (reply.status, reply.json["Message"]) == (ERRORS[code].status, ERRORS[code].message)
    elif code.startswith("InvalidParameter"):
        assert reply.json["Message"] == ERRORS["InvalidParameter.%s"].message


async def test_tokens_are_new_and_opaque(cloud: Caller) -> None:
    """Each application gets another token, of changing length, with the characters that break careless clients."""
    tokens = [await cloud.token("R", "a/#") for _ in range(12)]
    assert len(set(tokens)) == 12
    assert len({len(token) for token in tokens}) > 1
    assert all(re.fullmatch(r"[A-Za-z0-9+/]{250,350}={0,2}", token) for token in tokens)
    assert {"+", "/", "="} <= set("".join(tokens))


async def test_the_longest_life_is_thirty_days(cloud: Caller) -> None:
    """A later ExpireTime is accepted and silently counts as 30 days."""
    await cloud.token("R", "a/#", life_s=90 * 24 * 3600)
    (issued,) = await cloud.control("GET", "tokens")
    assert abs(issued["expires_at_ms"] - in_ms(30 * 24 * 3600)) < 60_000


async def test_query_token(cloud: Caller) -> None:
    """A token is valid until it expires or is revoked; one that was never issued is not."""
    short, long = await cloud.token("R", "a/#", life_s=100), await cloud.token("R", "a/#", life_s=1000)
    assert await cloud.status(short)
    assert not await cloud.status(short[:-4])
    await cloud.move_clock(101)
    assert not await cloud.status(short)
    assert await cloud.status(long)
    await cloud.revoke(long)
    assert not await cloud.status(long)


async def test_revoke_token_is_idempotent(cloud: Caller) -> None:
    """Revoking again, or a token never issued, is answered alike, and touches no other token."""
    token, other = await cloud.token("R", "a/#"), await cloud.token("R", "a/#")
    for _ in range(2):
        await cloud.revoke(token)
    await cloud.revoke("never issued")
    assert await cloud.status(other)


@pytest.mark.parametrize("action", ["QueryToken", "RevokeToken"])
async def test_query_and_revoke_check_their_parameters(cloud: Caller, action: str) -> None:
    """A missing token and another's instance are refused."""
    assert (await cloud.call(action)).code == "MissingToken"
    assert (await cloud.call(action, Token="t", InstanceId="other")).code == "InstancePermissionCheckFailed"


async def test_a_token_never_leaves_but_to_its_caller(cloud: Caller, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the log nor the controls show a token."""
    token = await cloud.token("R", "a/#")
    await cloud.revoke(token)
    await cloud.status(token)
    shown = capsys.readouterr()
    assert "ApplyToken" in shown.out + shown.err
    assert token not in shown.out + shown.err + str(await cloud.control("GET", "tokens"))
