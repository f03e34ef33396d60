from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import Callable
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from app.cloud.client import AppliedTokens, CloudClient
from app.cloud.credentials import Credentials, LastingCredentials
from app.cloud.errors import CloudError, ErrorKind
from app.cloud.quota import QuotaExhausted
from app.model.grants import TokenType
from app.model.secrets import AccessKeySecret
from app.model.topics import parse_filter
from tests.cloud.conftest import (
    ACCESS_KEY_SECRET,
    REQUEST_ID,
    SECURITY_TOKEN,
    TOKEN,
    Answer,
    Cloud,
    Permits,
    answer,
    apply,
    drop,
    hang,
    raw,
    refuse,
    soon,
)

APPLIED = answer({"RequestId": REQUEST_ID, "Token": TOKEN.reveal()})
VALID = answer({"RequestId": REQUEST_ID, "TokenStatus": True})
REVOKED = answer({"RequestId": REQUEST_ID})
NOW_MS = 1_609_434_061_999
"""The time of the client."""


async def test_apply_token_sends_what_the_guide_says(cloud: Cloud, client: CloudClient) -> None:
    """All parameters travel in a signed form; Resources are sorted in byte order; the token is a secret."""
    cloud.answers = [APPLIED]
    resources = [parse_filter(text) for text in ("b/+", "a/#", "B", "a", "a-b")]
    applied = await client.apply_tokens([(TokenType.RW, resources)], lambda: 1_609_434_121_000, deadline=soon())
    assert applied == AppliedTokens({TokenType.RW: TOKEN}, [], 1_609_434_121_000)
    assert TOKEN.reveal() not in repr(applied)
    (call,) = cloud.calls
    assert call.pop("SignatureNonce")
    assert call.pop("Signature")
    assert call == {
        "Action": "ApplyToken",
        "Actions": "R,W",
        "ExpireTime": "1609434121000",
        "InstanceId": "post-cn-test",
        "RegionId": "cn-hangzhou",
        "Resources": "B,a,a-b,a/#,b/+",
        "Format": "JSON",
        "Version": "2020-04-20",
        "AccessKeyId": "testid",
        "SecurityToken": SECURITY_TOKEN.reveal(),
        "SignatureMethod": "HMAC-SHA1",
        "SignatureVersion": "1.0",
        "Timestamp": "2020-12-31T17:01:01Z",
    }


async def test_query_and_revoke_send_the_token_and_read_the_answer(cloud: Cloud, client: CloudClient) -> None:
    """QueryToken gives the token's status, and RevokeToken nothing."""
    cloud.answers = [VALID, answer({"RequestId": REQUEST_ID, "TokenStatus": False}), REVOKED]
    assert await client.query_token(TOKEN, deadline=soon()) is True
    assert await client.query_token(TOKEN, deadline=soon()) is False
    await client.revoke_token(TOKEN, deadline=soon())
    assert [call["Action"] for call in cloud.calls] == ["QueryToken", "QueryToken", "RevokeToken"]
    assert {call["Token"] for call in cloud.calls} == {TOKEN.reveal()}


async def test_a_permanent_key_sends_no_security_token(cloud: Cloud) -> None:
    """``SecurityToken`` is there for temporary credentials alone."""
    cloud.answers = [VALID]
    async with CloudClient(
        endpoint=f"{cloud.url}/",
        region="cn-hangzhou",
        instance_id="post-cn-test",
        credentials=LastingCredentials(Credentials("testid", ACCESS_KEY_SECRET)),
        quota=Permits(),
        now_ms=lambda: 0,
    ).connect() as client:
        await client.query_token(TOKEN, deadline=soon())
    assert "SecurityToken" not in cloud.calls[0]


async def test_many_calls_share_one_connection(cloud: Cloud, client: CloudClient) -> None:
    """The session is kept alive: refusals and answers alike leave the connection open."""
    cloud.answers = [VALID, refuse("ParameterCheckFailed"), VALID]
    assert await client.query_token(TOKEN, deadline=soon())
    with pytest.raises(CloudError, match="ParameterCheckFailed"):
        await client.query_token(TOKEN, deadline=soon())
    for _ in range(8):
        assert await client.query_token(TOKEN, deadline=soon())
    assert len(cloud.calls) == 10
    assert len(cloud.peers) == 1


BAD: dict[str, Answer] = {
    "HTML": raw(b"<html>502</html>", "text/html", 502),
    "HTML with status 200": raw(b"<html>login</html>", "text/html"),
    "HTML that says it is JSON": raw(b"<html></html>"),
    "half a JSON": raw(b'{"RequestId": "1", "Tok'),
    "nothing at all": raw(b""),
    "nothing at all, 500": raw(b"", status=500),
    "500 without a Code": answer({"RequestId": "1"}, 500),
    "a 500 that looks right": answer({"RequestId": "1", "Token": "t", "TokenStatus": True}, 500),
    "right, but not said to be JSON": raw(b'{"RequestId":"1","Token":"t","TokenStatus":true}', "text/plain"),
    "no RequestId": answer({"Token": "t", "TokenStatus": True}),
    "a list": answer([]),
    "a number": answer(1),
    "null": answer(None),
    "not UTF-8": raw(b'{"RequestId":"\xff","Token":"t","TokenStatus":true}'),
    "too long": raw(b'{"RequestId":"1","Token":"t","TokenStatus":true}' + b" " * 300_000),
    "nested without end": raw(b'{"RequestId":"1","Token":"t","TokenStatus":true,"x":' + b"[" * 60_000),
    "compressed": raw(gzip.compress(b'{"RequestId":"1","Token":"t"}'), headers={"Content-Encoding": "gzip"}),
    "a redirect": raw(b"", status=307, headers={"Location": "/"}),
}


@pytest.mark.parametrize("bad", BAD)
async def test_an_answer_that_says_nothing_is_transient(cloud: Cloud, client: CloudClient, bad: str) -> None:
    """Whatever the cloud sends in place of an answer is an error to try again on, once, and never a success."""
    cloud.answers = [BAD[bad]]
    for call in (
        apply(client, TokenType.R, NOW_MS + 3_600_000, deadline=soon()),
        client.query_token(TOKEN, deadline=soon()),
        client.revoke_token(TOKEN, deadline=soon()),
    ):
        cloud.calls.clear()
        with pytest.raises(CloudError) as refusal:
            await call
        assert refusal.value.kind is ErrorKind.TRANSIENT
        assert refusal.value.code == "MalformedAnswer"
        assert len(cloud.calls) == 2


@pytest.mark.parametrize("token", [None, 1, "", "a|b", ["t"], {"t": 1}, True])
async def test_a_token_that_is_none_is_no_token(cloud: Cloud, client: CloudClient, token: object) -> None:
    """A Token that is missing, no text, empty, or would part an MQTT password in two, is never handed on."""
    cloud.answers = [answer({"RequestId": "1", "Token": token})]
    with pytest.raises(CloudError, match="expected the fields of ApplyTokenAnswer"):
        await apply(client, TokenType.R, NOW_MS + 3_600_000, deadline=soon())
    cloud.answers = [answer({"RequestId": "1", "TokenStatus": token if token is not True else "true"})]
    with pytest.raises(CloudError, match="expected the fields of QueryTokenAnswer"):
        await client.query_token(TOKEN, deadline=soon())


@pytest.mark.parametrize("status", [200, 400, 404, 500, 503])
async def test_a_refusal_is_told_by_its_code_and_never_by_its_status(
    cloud: Cloud, client: CloudClient, status: int
) -> None:
    """A Code refuses also with status 200, so no RevokeToken is taken for confirmed that was not."""
    cloud.answers = [refuse("permissioncheckFAILED", status=status)]
    with pytest.raises(CloudError) as refusal:
        await client.revoke_token(TOKEN, deadline=soon())
    error = refusal.value
    assert (error.kind, error.code, error.message) == (ErrorKind.PERMISSION, "permissioncheckFAILED", "No.")
    assert (error.request_id, error.status) == (REQUEST_ID, status)
    assert len(cloud.calls) == 1


@pytest.mark.parametrize(
    ("payload", "kind", "code"),
    [
        ({"RequestId": "1", "Code": "Throttling", "Message": None}, ErrorKind.THROTTLED, "Throttling"),
        ({"RequestId": 1, "Code": "Throttling"}, ErrorKind.THROTTLED, "Throttling"),
        ({"RequestId": "1", "Code": 7}, ErrorKind.PERMANENT, "7"),
        ({"RequestId": "1", "Code": ""}, ErrorKind.PERMANENT, ""),
    ],
)
async def test_a_malformed_refusal_is_not_a_success(
    cloud: Cloud, client: CloudClient, payload: object, kind: ErrorKind, code: str
) -> None:
    """A Code refuses whatever it looks like and whatever stands beside it."""
    cloud.answers = [answer(payload)]
    with pytest.raises(CloudError) as refusal:
        await client.revoke_token(TOKEN, deadline=soon(0.3))
    assert (refusal.value.kind, refusal.value.code, refusal.value.message) == (kind, code, "")


@pytest.mark.parametrize("failure", [refuse("InternalError", status=500), refuse("Throttling", x_acs_retry_after="1")])
async def test_what_may_pass_is_tried_again_signed_afresh(cloud: Cloud, client: CloudClient, failure: Answer) -> None:
    """Two failures are got over; each attempt has a nonce and a signature of its own."""
    cloud.answers = [failure, failure, APPLIED]
    assert await apply(client, TokenType.R, NOW_MS + 3_600_000, deadline=soon()) == TOKEN
    assert len({call["SignatureNonce"] for call in cloud.calls}) == 3
    assert len({call["Signature"] for call in cloud.calls}) == 3


async def test_there_are_three_attempts_at_most(cloud: Cloud, client: CloudClient) -> None:
    """A cloud that goes on failing is not called for ever."""
    cloud.answers = [refuse("ServiceUnavailable", status=503)]
    with pytest.raises(CloudError) as refusal:
        await apply(client, TokenType.R, NOW_MS + 3_600_000, deadline=soon())
    assert refusal.value.kind is ErrorKind.TRANSIENT
    assert len(cloud.calls) == 3


async def test_what_will_not_pass_is_not_tried_again(cloud: Cloud, client: CloudClient) -> None:
    """A refusal that another attempt cannot change is raised at once."""
    for code in ("ParameterCheckFailed", "InvalidAccessKeyId.NotFound", "ApiNotSupport", "Forbidden.RAM", "Unheard"):
        cloud.answers = [refuse(code)]
        cloud.calls.clear()
        with pytest.raises(CloudError, match=code):
            await client.query_token(TOKEN, deadline=soon())
        assert len(cloud.calls) == 1


async def test_the_cloud_says_when_to_come_back(
    cloud: Cloud, client: CloudClient, stopwatch: Callable[[], float]
) -> None:
    """``x-acs-retry-after`` is waited for where the deadline allows it, and reported where it does not."""
    cloud.answers = [refuse("Throttling.User", x_acs_retry_after="300"), VALID]
    assert await client.query_token(TOKEN, deadline=soon())
    assert stopwatch() >= 0.3
    cloud.answers = [refuse("Throttling.User", x_acs_retry_after="60000")]
    with pytest.raises(CloudError) as refusal:
        await client.query_token(TOKEN, deadline=soon())
    assert refusal.value.retry_after_s == 60
    assert stopwatch() < 2


@pytest.mark.parametrize(("again_in_ms", "calls"), [(50, 3), (400, 1)])
async def test_a_token_is_not_asked_for_again_when_it_would_live_too_short(
    cloud: Cloud, client: CloudClient, again_in_ms: int, calls: int
) -> None:
    """What the cloud would refuse for its life, less than 60 s by then, is not sent: the passing fault is raised."""
    cloud.answers = [refuse("Throttling.User", x_acs_retry_after=str(again_in_ms))]
    with pytest.raises(CloudError) as refusal:
        await apply(client, TokenType.R, NOW_MS + 60_000 + 350, deadline=soon())
    assert refusal.value.kind is ErrorKind.THROTTLED
    assert len(cloud.calls) == calls


@pytest.mark.parametrize("text", ["0", "-1", "1e3", "soon", "", "9" * 400, "1.5"])
async def test_a_retry_after_that_is_no_time_is_left_out(cloud: Cloud, client: CloudClient, text: str) -> None:
    """A header that is no positive whole number of milliseconds counts as none."""
    cloud.answers = [refuse("ParameterCheckFailed", x_acs_retry_after=text)]
    with pytest.raises(CloudError) as refusal:
        await client.query_token(TOKEN, deadline=soon())
    assert refusal.value.retry_after_s is None


@pytest.mark.parametrize(
    ("headers", "after_s"),
    [
        ({"x_acs_retry_after": "1500"}, 1.5),
        ({"x_acs_retry_after": "31536000000"}, 60),
        ({"Retry_After": "7"}, 7),
        ({"Retry_After": "31536000"}, 60),
        ({"Retry_After": "-1"}, None),
        ({"Retry_After": "Fri, 31 Dec 2049 23:59:59 GMT"}, 60),
        ({"Retry_After": "Fri, 31 Dec 1999 23:59:59 GMT"}, None),
        ({"Retry_After": "Fri, 31 Dec 1999 23:59:59 GMT", "Date": "Fri, 31 Dec 1999 23:59:50 GMT"}, 9),
        ({"Retry_After": "Fri Dec 31 23:59:59 1999", "Date": "Fri, 31 Dec 1999 23:59:50 GMT"}, 9),
        ({"Retry_After": "Fri, 31 Dec 1999 23:59:59 GMT", "Date": "Fri, 31 Dec 1999 23:59:59 GMT"}, None),
        ({"Retry_After": "Fri, 31 Dec 2049 23:59:59 GMT", "Date": "soon"}, None),
        ({"Retry_After": "Fri, 99 Dec 2049 23:59:59 GMT"}, None),
        ({"Retry_After": "Fri, 31 Dec 2049 23:59:59 GMT", "x_acs_retry_after": "2000"}, 2),
        ({"Retry_After": "9", "x_acs_retry_after": "2000"}, 2),
        ({"Retry_After": "9", "x_acs_retry_after": "-1"}, 9),
    ],
)
async def test_however_long_the_cloud_asks_to_be_left_alone_it_is_called_again(
    cloud: Cloud, client: CloudClient, headers: dict[str, str], after_s: float | None
) -> None:
    """A year is a minute; the standard's header in whole seconds counts where the cloud's own is missing."""
    cloud.answers = [refuse("Throttling.User", status=429, message="No.", **headers)]
    with pytest.raises(CloudError) as refusal:
        await client.query_token(TOKEN, deadline=soon(0.1))
    assert refusal.value.retry_after_s == after_s


async def test_a_hanging_cloud_keeps_no_caller_beyond_its_deadline(
    cloud: Cloud, client: CloudClient, stopwatch: Callable[[], float]
) -> None:
    """The deadline holds over all attempts, and a lost answer is asked for once more and not twice."""
    cloud.answers = [hang]
    with pytest.raises(CloudError) as refusal:
        await apply(client, TokenType.R, NOW_MS + 3_600_000, deadline=soon(0.2))
    assert stopwatch() < 0.4
    assert (refusal.value.kind, refusal.value.uncertain) == (ErrorKind.UNREACHABLE, True)
    assert len(cloud.calls) == 1
    with pytest.raises(CloudError, match="Timeout: no answer in"):
        await apply(client, TokenType.R, NOW_MS + 3_600_000, deadline=soon(30))
    assert len(cloud.calls) == 3
    assert stopwatch() < 3


async def test_a_deadline_that_has_passed_makes_no_call(cloud: Cloud, client: CloudClient) -> None:
    """Nothing is sent for a caller who no longer waits."""
    cloud.answers = [APPLIED]
    with pytest.raises(CloudError) as refusal:
        await apply(client, TokenType.R, NOW_MS + 3_600_000, deadline=soon(-1))
    assert refusal.value.kind is ErrorKind.UNREACHABLE
    assert not refusal.value.uncertain
    assert cloud.calls == []


async def test_a_lost_connection_is_made_anew(cloud: Cloud, client: CloudClient) -> None:
    """A connection that the cloud closes costs one more attempt, on another connection."""
    cloud.answers = [drop, APPLIED]
    assert await apply(client, TokenType.R, NOW_MS + 3_600_000, deadline=soon()) == TOKEN
    assert len(cloud.peers) == 2


async def test_a_cloud_that_is_not_there_is_unreachable(unused_tcp_port: int) -> None:
    """A refused connection is certain to have had no effect, and is tried three times."""
    async with CloudClient(
        endpoint=f"http://127.0.0.1:{unused_tcp_port}",
        region="cn-hangzhou",
        instance_id="post-cn-test",
        credentials=LastingCredentials(Credentials("testid", ACCESS_KEY_SECRET)),
        quota=Permits(),
        now_ms=lambda: 0,
    ).connect() as client:
        with capture_logs() as logs, pytest.raises(CloudError) as refusal:
            await client.query_token(TOKEN, deadline=soon())
    assert (refusal.value.kind, refusal.value.code) == (ErrorKind.UNREACHABLE, "CannotConnect")
    assert not refusal.value.uncertain
    assert [entry["attempt"] for entry in logs] == [1, 2, 3]


async def test_a_cancelled_call_leaves_nothing_behind(cloud: Cloud, client: CloudClient) -> None:
    """Its task ends, its connection is closed, and the next call goes through."""
    cloud.answers = [hang]
    before = asyncio.all_tasks()
    task = asyncio.create_task(apply(client, TokenType.R, NOW_MS + 3_600_000, deadline=soon()))
    await cloud.called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cloud.answers = [VALID]
    assert await client.query_token(TOKEN, deadline=soon())
    ours = {each for each in asyncio.all_tasks() - before if "CloudClient" in repr(each)}
    assert ours == set()


async def test_every_attempt_takes_a_permit(cloud: Cloud) -> None:
    """Retries are calls too: what the quota does not allow in time is not sent."""
    cloud.answers = [refuse("InternalError", status=500)]
    async with CloudClient(
        endpoint=cloud.url,
        region="cn-hangzhou",
        instance_id="post-cn-test",
        credentials=LastingCredentials(Credentials("testid", ACCESS_KEY_SECRET)),
        quota=Permits(1),
        now_ms=lambda: 0,
    ).connect() as client:
        with pytest.raises(QuotaExhausted) as refusal:
            await client.query_token(TOKEN, deadline=soon(0.8))
    assert len(cloud.calls) == 1
    assert refusal.value.retry_after_s == 1


async def test_a_failed_call_is_logged_and_no_secret_with_it(cloud: Cloud, client: CloudClient) -> None:
    """The log names action, code, request ID and attempt; never a token, a secret or the string to sign.

    The gateway quotes the whole string to sign when it refuses a signature, and a token is in it.
    """
    token = TOKEN.reveal()
    quoted = f"server string to sign is:POST&%2F&Token%3D{quote(quote(token, safe=''), safe='')}"
    for message in (
        f"Specified signature is not matched with our calculation. {quoted}",
        f"The token {token} is unknown",
        f"The token {quote(token, safe='')} is unknown",
        f"key {ACCESS_KEY_SECRET.reveal()}",
        f"sts {SECURITY_TOKEN.reveal()}",
        "two\nlines",
        quoted[: quoted.index("XLFI") + 8],
    ):
        cloud.answers = [refuse("SignatureDoesNotMatch", message)]
        with capture_logs() as logs, pytest.raises(CloudError) as refusal:
            await client.revoke_token(TOKEN, deadline=soon())
        (entry,) = logs
        assert (entry["action"], entry["code"], entry["attempt"]) == ("RevokeToken", "SignatureDoesNotMatch", 1)
        assert entry["request_id"] == REQUEST_ID
        for text in (repr(entry), repr(refusal.value), str(refusal.value)):
            assert "\n" not in text
            assert "XLFI" not in text
            for secret in (TOKEN, ACCESS_KEY_SECRET, SECURITY_TOKEN):
                assert secret.reveal() not in text
                assert quote(secret.reveal(), safe="") not in text
                assert quote(quote(secret.reveal(), safe=""), safe="") not in text


async def test_a_wrong_key_is_the_accounts_fault(cloud: Cloud) -> None:
    """A signature under another secret is refused by the server and reported as such."""
    cloud.answers = [VALID]
    async with CloudClient(
        endpoint=cloud.url,
        region="cn-hangzhou",
        instance_id="post-cn-test",
        credentials=LastingCredentials(Credentials("testid", AccessKeySecret("another"))),
        quota=Permits(),
        now_ms=lambda: 0,
    ).connect() as client:
        with pytest.raises(CloudError) as refusal:
            await client.query_token(TOKEN, deadline=soon())
    assert refusal.value.kind is ErrorKind.ACCOUNT


async def test_a_proxy_in_the_environment_is_not_used(
    cloud: Cloud, client: CloudClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed parameters go straight to the endpoint."""
    cloud.answers = [VALID]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert await client.query_token(TOKEN, deadline=soon())
