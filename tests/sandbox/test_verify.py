"""Each table is what the gateway in front of the cloud answers, over real HTTP."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from app.rpc import signature
from app.rpc.codes import GATEWAY_ERRORS
from tests.sandbox.caller import FORM, Caller, in_ms, timestamp

QUERY: dict[str, str | None] = {"Token": "unknown"}


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({}, 200, "OK"),
        ({"Format": "json"}, 200, "OK"),
        ({"SignatureMethod": "Hmac-SHA1"}, 200, "OK"),
        ({"SignatureType": ""}, 200, "OK"),
        ({"RegionId": "cn-hangzhou"}, 200, "OK"),
        ({"ResourceOwnerAccount": "a b~*/+ü"}, 200, "OK"),
        ({"Version": "2019-01-01"}, 400, "InvalidVersion"),
        ({"Version": None}, 400, "MissingVersion"),
        ({"Action": "DropTables"}, 404, "InvalidAction.NotFound"),
        ({"Action": None}, 400, "MissingAction"),
        ({"SignatureMethod": "HMAC-MD5"}, 400, "InvalidSignatureMethod"),
        ({"SignatureVersion": "2.0"}, 400, "InvalidSignatureVersion"),
        ({"SignatureNonce": None}, 400, "MissingSignatureNonce"),
        ({"SignatureNonce": ""}, 400, "MissingSignatureNonce"),
        ({"AccessKeyId": "nobody"}, 404, "InvalidAccessKeyId.NotFound"),
        ({"AccessKeyId": None}, 400, "MissingAccessKeyId"),
        ({"Timestamp": None, "TimeStamp": "2026-11-23T00:00:00Z"}, 400, "MissingTimestamp"),
        ({"Timestamp": "yesterday"}, 400, "InvalidTimeStamp.Format"),
        ({"Timestamp": "2026-13-45T00:00:00Z"}, 400, "InvalidTimeStamp.Format"),
        ({"SecurityToken": "sts"}, 400, "CheckAccountInfoFailed"),
    ],
)
async def test_rpc(cloud: Caller, change: dict[str, str | None], status: int, code: str) -> None:
    """Each common parameter of chapter 7 is checked, and its refusal has the gateway's status, code and text."""
    reply = await cloud.send(form=cloud.signed("QueryToken", **{**QUERY, **change}))
    assert (reply.status, reply.code) == (status, code), reply.text
    if code != "OK":
        assert set(reply.json) == {"RequestId", "HostId", "Code", "Message", "Recommend"}
        if row := GATEWAY_ERRORS.get(code):
            assert reply.json["Message"] == row.message
        elif code.startswith("Missing"):
            assert reply.json["Message"] == f"{code.removeprefix('Missing')} is mandatory for this action."


@pytest.mark.parametrize(
    ("minutes", "status", "code"),
    [(-16, 400, "InvalidTimeStamp.Expired"), (16, 400, "InvalidTimeStamp.Expired"), (-14, 200, "OK"), (14, 200, "OK")],
)
async def test_clock_skew(cloud: Caller, minutes: int, status: int, code: str) -> None:
    """A timestamp is valid for 15 minutes on either side of the cloud's clock."""
    reply = await cloud.send(form=cloud.signed("QueryToken", **QUERY, Timestamp=timestamp(minutes * 60)))
    assert (reply.status, reply.code) == (status, code), reply.text


@pytest.mark.parametrize(
    "encode", [lambda text: quote(text, safe=""), lambda text: quote(text, safe=",*/:~@=").replace("%20", "+")]
)
@pytest.mark.parametrize("place", ["query", "form", "both"])
async def test_any_place_and_encoding(cloud: Caller, place: str, encode: Callable[[str], str]) -> None:
    """Query and form count the same, together too, in whichever of the official clients' encodings."""
    signed = cloud.signed(
        "ApplyToken", Actions="R,W", Resources="a/+,b/~*/#", Extra="a b+=é", ExpireTime=str(in_ms(100))
    )
    pairs = [f"{name}={encode(value)}" for name, value in signed.items()]
    half = {"query": len(pairs), "form": 0, "both": 6}[place]
    reply = await cloud.send("&".join(pairs[:half]), "&".join(pairs[half:]))
    assert reply.code == "OK", reply.text


async def test_get(cloud: Caller) -> None:
    """GET serves as well as POST; its signature says GET."""
    assert (await cloud.send(cloud.signed("QueryToken", "GET", Token="t"), method="GET")).code == "OK"
    assert (
        await cloud.send(cloud.signed("QueryToken", "POST", Token="t"), method="GET")
    ).code == "SignatureDoesNotMatch"


async def test_other_methods(cloud: Caller) -> None:
    """Methods other than GET and POST are refused by name."""
    reply = await cloud.send(cloud.signed("QueryToken", "PUT", Token="t"), method="PUT")
    assert (reply.status, reply.code) == (403, "UnsupportedHTTPMethod")


async def test_wrong_signature(cloud: Caller) -> None:
    """A wrong secret is refused; the message ends in the server's string to sign with no space before it.

    The classic SDK compares that text with its own to distinguish a wrong secret from a wrong encoding (FACTS 4).
    """
    signed = cloud.forger().signed("QueryToken", Token="t")
    reply = await cloud.send(form=signed)
    assert reply.code == "SignatureDoesNotMatch"
    assert reply.json["Message"].endswith(f"is:{signature.rpc_string_to_sign('POST', signed)}")


async def test_tampering(cloud: Caller) -> None:
    """No parameter can be changed, added or taken away after signing."""
    signed = cloud.signed("QueryToken", Token="t")
    for tampered in ({**signed, "Token": "other"}, {**signed, "Extra": "1"}, signed | {"RegionId": ""}):
        assert (await cloud.send(form=tampered)).code == "SignatureDoesNotMatch"
    assert (await cloud.send(form={k: v for k, v in signed.items() if k != "Token"})).code == "SignatureDoesNotMatch"


async def test_a_name_with_two_values(cloud: Caller) -> None:
    """A name given twice with different values is refused, so the value verified is the value used."""
    signed = cloud.signed("QueryToken", Token="t")
    assert "<Code>ParameterCheckFailed</Code>" in (await cloud.send("Token=other", signed)).text
    assert (await cloud.control("GET", "calls")) == {"Unknown": {"ParameterCheckFailed": 1}}
    assert (await cloud.send("Token=t", signed)).code == "OK"


@pytest.mark.parametrize("junk", ["%ff=1", "a=%c3%28", "&".join(f"p{n}=1" for n in range(300))])
async def test_junk(cloud: Caller, junk: str) -> None:
    """Parameters that are not UTF-8, or are far too many, are refused."""
    reply = await cloud.send(junk, cloud.signed("QueryToken", Token="t"))
    assert reply.status == 400
    assert "ParameterCheckFailed" in reply.text


async def test_too_large_a_body(cloud: Caller) -> None:
    """A body beyond any real call is refused before it is parsed."""
    reply = await cloud.send(form="x=" + "a" * 300_000)
    assert "ParameterCheckFailed" in reply.text


async def test_replay(cloud: Caller) -> None:
    """A nonce counts once, also when two equal requests arrive together; another access key's does not matter."""
    signed = cloud.signed("QueryToken", Token="t")
    replies = await asyncio.gather(*(cloud.send(form=signed) for _ in range(5)))
    assert sorted(reply.code for reply in replies) == ["OK", *["SignatureNonceUsed"] * 4]
    other = Caller(cloud.http, cloud.url, "ak-two")
    assert (await other.call("QueryToken", Token="t", SignatureNonce=signed["SignatureNonce"])).code == "OK"


async def test_a_stranger_spends_no_nonce(cloud: Caller) -> None:
    """A request with a wrong signature does not spend its nonce."""
    forged = cloud.forger().signed("QueryToken", Token="t", SignatureNonce="n1")
    assert (await cloud.send(form=forged)).code == "SignatureDoesNotMatch"
    assert (await cloud.call("QueryToken", Token="t", SignatureNonce="n1")).code == "OK"


async def test_a_nonce_outlives_its_timestamp(cloud: Caller) -> None:
    """A request stamped ahead cannot be replayed later, as long as its time stamp passes."""
    ahead = cloud.signed("QueryToken", Token="t", Timestamp=timestamp(14 * 60))
    assert (await cloud.send(form=ahead)).code == "OK"
    await cloud.move_clock(20 * 60)
    assert (await cloud.send(form=ahead)).code == "SignatureNonceUsed"
    await cloud.move_clock(30 * 60)
    assert (await cloud.send(form=ahead)).code == "InvalidTimeStamp.Expired"


async def test_format(cloud: Caller) -> None:
    """Format is JSON or XML in any case of letters; left out it is XML; another is refused."""
    for given, start, content_type in (
        ("JSON", "{", "application/json;charset=utf-8"),
        ("xml", "<?xml", "text/xml;charset=utf-8"),
        (None, "<?xml", "text/xml;charset=utf-8"),
    ):
        reply = await cloud.call("QueryToken", Token="t", Format=given)
        assert reply.text.startswith(start)
        assert reply.content_type == content_type
    assert "<Code>InvalidParameter.Format</Code>" in (await cloud.call("QueryToken", Token="t", Format="YAML")).text


async def test_acs3(cloud: Caller) -> None:
    """A call signed with ACS3-HMAC-SHA256 is served, in JSON, with parameters in the query and in the form."""
    query = {"InstanceId": "post-cn-test", "Token": "t +/~*"}
    assert (await cloud.acs3("QueryToken", query=query)).json["TokenStatus"] is False
    reply = await cloud.acs3("QueryToken", query={"InstanceId": "post-cn-test"}, body=b"Token=t")
    assert reply.code == "OK"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sent_body": b"Token=other", "body": b"Token=t"}, "SignatureDoesNotMatch"),
        *(
            ({"unsigned": frozenset({name})}, "SignatureDoesNotMatch")
            for name in ("host", "x-acs-action", "x-acs-version", "x-acs-date", "x-acs-signature-nonce")
        ),
        ({"unsigned": frozenset({"x-acs-content-sha256"})}, "SignatureDoesNotMatch"),
        ({"extra": (("x-acs-action", "RevokeToken"),)}, "SignatureDoesNotMatch"),
        ({"headers": {"x-acs-date": timestamp(-1000)}}, "InvalidTimeStamp.Expired"),
        ({"headers": {"x-acs-date": "now"}}, "InvalidTimeStamp.Format"),
        ({"headers": {"x-acs-date": None}}, "MissingTimestamp"),
        ({"headers": {"x-acs-action": None}}, "MissingAction"),
        ({"headers": {"x-acs-version": "1"}}, "InvalidVersion"),
        ({"headers": {"x-acs-security-token": "sts"}}, "CheckAccountInfoFailed"),
        ({"authorization": "ACS3-HMAC-SHA256 what"}, "MissingSignature"),
    ],
)
async def test_acs3_refusals(cloud: Caller, change: dict[str, Any], code: str) -> None:
    """Whatever could be exchanged on the way must be signed, and what is signed must be what came."""
    query = {"InstanceId": "post-cn-test"} | ({} if "body" in change else {"Token": "t"})
    assert (await cloud.acs3("QueryToken", query=query, **change)).code == code


async def test_acs3_strangers(cloud: Caller) -> None:
    """An unknown access key is refused by name; a replayed nonce too."""
    stranger = Caller(cloud.http, cloud.url, "nobody")
    query = {"InstanceId": "post-cn-test", "Token": "t"}
    assert (await stranger.acs3("QueryToken", query=query)).code == "InvalidAccessKeyId.NotFound"
    assert (await cloud.forger().acs3("QueryToken", query=query)).code == "SignatureDoesNotMatch"
    for code in ("OK", "SignatureNonceUsed"):
        assert (await cloud.acs3("QueryToken", query=query, headers={"x-acs-signature-nonce": "n"})).code == code


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x"])
async def test_a_packed_body(cloud: Caller, encoding: str) -> None:
    """A packed body is refused, whatever is in it: a small one could unpack into a huge one."""
    for body in (zlib.compress(b"Action=QueryToken"), b"Action=QueryToken"):
        async with cloud.http.post(
            cloud.url, data=body, headers={"Content-Encoding": encoding, "Content-Type": FORM}
        ) as response:
            assert response.status == 400
            assert "<Code>ParameterCheckFailed</Code>" in await response.text()


async def test_request_ids(cloud: Caller) -> None:
    """Each answer has its own RequestId in the cloud's spelling."""
    ids = {(await cloud.call("QueryToken", Token="t")).json["RequestId"] for _ in range(3)}
    assert len(ids) == 3
    assert all(re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", id_) for id_ in ids)
