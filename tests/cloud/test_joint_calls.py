"""The tokens of one grant: applied for together, with one expiry; and what is noted of each attempt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from app.cloud import answers, signed_calls
from app.cloud.client import CloudClient
from app.cloud.credentials import Credentials, LastingCredentials
from app.cloud.errors import CloudError, ErrorKind
from app.cloud.quota import CallOutcome, CloudClosed, QuotaExhausted
from app.model.grants import TokenType
from app.model.lifetimes import CLOUD_MIN_LIFETIME_S
from app.model.topics import parse_filter
from tests.cloud.conftest import (
    ACCESS_KEY_SECRET,
    REQUEST_ID,
    TOKEN,
    Answer,
    Cloud,
    Permits,
    answer,
    drop,
    refuse,
    soon,
)

APPLIED = answer({"RequestId": REQUEST_ID, "Token": TOKEN.reveal()})
PAIR = ((TokenType.R, (parse_filter("a"),)), (TokenType.W, (parse_filter("b"),)))
NOW_MS = 1_609_434_061_999
HOUR_MS = 3_600_000
THROTTLED = refuse("Throttling.User")


def by_type(**answers: list[Answer]) -> list[Answer]:
    """Answer the calls for each type of token in turn; the last answer is for all calls after it."""

    async def respond(request: web.Request) -> web.StreamResponse:
        own = answers[str((await request.post())["Actions"])]
        return await (own.pop(0) if len(own) > 1 else own[0])(request)

    return [respond]


@asynccontextmanager
async def opened(cloud: Cloud, quota: Permits, noted: Callable[[CallOutcome], None]) -> AsyncIterator[CloudClient]:
    """Open a client whose outcomes are noted."""
    async with CloudClient(
        endpoint=cloud.url,
        region="cn-hangzhou",
        instance_id="post-cn-test",
        credentials=LastingCredentials(Credentials("testid", ACCESS_KEY_SECRET)),
        quota=quota,
        now_ms=lambda: NOW_MS,
        noted=noted,
    ).connect() as client:
        yield client


@pytest.fixture
def expiries() -> Iterator[int]:
    """Another expiry at each time it is asked for."""
    return iter(range(NOW_MS + HOUR_MS, NOW_MS + 2 * HOUR_MS))


def calls_of(cloud: Cloud) -> list[tuple[str, int]]:
    """Return type and number of the expiry of each call."""
    return sorted((call["Actions"], int(call["ExpireTime"]) - NOW_MS - HOUR_MS) for call in cloud.calls)


async def test_both_tokens_expire_at_one_instant(cloud: Cloud, client: CloudClient, expiries: Iterator[int]) -> None:
    """It is computed once, when there are permits for both."""
    cloud.answers = [APPLIED]
    applied = await client.apply_tokens(PAIR, expiries.__next__, deadline=soon())
    assert applied.tokens == {TokenType.R: TOKEN, TokenType.W: TOKEN}
    assert (applied.errors, applied.expires_at_ms) == ([], NOW_MS + HOUR_MS)
    assert calls_of(cloud) == [("R", 0), ("W", 0)]


async def test_a_half_that_failed_is_made_again_alone(
    cloud: Cloud, client: CloudClient, expiries: Iterator[int]
) -> None:
    """With the expiry of the token that there is."""
    cloud.answers = by_type(R=[APPLIED], W=[THROTTLED, THROTTLED, APPLIED])
    applied = await client.apply_tokens(PAIR, expiries.__next__, deadline=soon())
    assert (len(applied.tokens), applied.errors) == (2, [])
    assert calls_of(cloud) == [("R", 0), ("W", 0), ("W", 0), ("W", 0)]


async def test_halves_that_both_failed_are_made_again_together(
    cloud: Cloud, client: CloudClient, expiries: Iterator[int]
) -> None:
    """With an expiry that is as far ahead as the first one was: the wait for permits took nothing off it."""
    cloud.answers = by_type(R=[drop, APPLIED], W=[THROTTLED, APPLIED])
    applied = await client.apply_tokens(PAIR, expiries.__next__, deadline=soon())
    assert (len(applied.tokens), applied.expires_at_ms) == (2, NOW_MS + HOUR_MS + 1)
    assert calls_of(cloud) == [("R", 0), ("R", 1), ("W", 0), ("W", 1)]


async def test_a_half_that_cannot_be_had_ends_both(cloud: Cloud, client: CloudClient, expiries: Iterator[int]) -> None:
    """One token is of no use without the other, so no further call is made; what there is is returned."""
    cloud.answers = by_type(R=[refuse("PermissionCheckFailed")], W=[THROTTLED, APPLIED])
    applied = await client.apply_tokens(PAIR, expiries.__next__, deadline=soon())
    assert [error.code for error in applied.errors] == ["PermissionCheckFailed", "Throttling.User"]
    assert calls_of(cloud) == [("R", 0), ("W", 0)]
    cloud.answers = by_type(R=[refuse("PermissionCheckFailed")], W=[APPLIED])
    applied = await client.apply_tokens(PAIR, expiries.__next__, deadline=soon())
    assert (list(applied.tokens), [error.code for error in applied.errors]) == (
        [TokenType.W],
        ["PermissionCheckFailed"],
    )


async def test_a_half_is_not_asked_for_when_it_would_live_too_short(cloud: Cloud, client: CloudClient) -> None:
    """The cloud would refuse an expiry that near: the fault that passes is returned, beside the token there is."""
    cloud.answers = by_type(R=[APPLIED], W=[refuse("Throttling.User", x_acs_retry_after="400")])
    nearest_ms = NOW_MS + CLOUD_MIN_LIFETIME_S * 1000 + 350
    applied = await client.apply_tokens(PAIR, lambda: nearest_ms, deadline=soon())
    assert (list(applied.tokens), [error.code for error in applied.errors]) == ([TokenType.R], ["Throttling.User"])
    assert len(cloud.calls) == 2


async def test_a_token_is_not_lost_when_there_is_no_permit_for_the_other(cloud: Cloud, expiries: Iterator[int]) -> None:
    """A half's second attempt takes its own permit; without one, what was obtained is returned all the same."""
    cloud.answers = by_type(R=[APPLIED], W=[THROTTLED, APPLIED])
    quota = Permits(2)
    outcomes: list[CallOutcome] = []
    async with opened(cloud, quota, outcomes.append) as client:
        applied = await client.apply_tokens(PAIR, expiries.__next__, deadline=soon())
    assert list(applied.tokens) == [TokenType.R]
    assert [type(error) for error in applied.errors] == [QuotaExhausted]
    assert (len(cloud.calls), quota.places, len(outcomes)) == (2, 0, 2)


async def test_a_fault_of_this_server_loses_no_token(
    cloud: Cloud, client: CloudClient, expiries: Iterator[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other half brought is returned; the fault is logged, and not repeated."""
    cloud.answers = by_type(R=[APPLIED], W=[APPLIED])
    read = answers.read_answer
    calls: list[object] = []

    def broken(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise ZeroDivisionError
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(signed_calls, "read_answer", broken)
    with capture_logs() as logs:
        applied = await client.apply_tokens(PAIR, expiries.__next__, deadline=soon())
    assert [entry["event"] for entry in logs] == ["cloud_answer_unread"]
    assert len(applied.tokens) == 1
    assert [(error.code, error.uncertain) for error in applied.errors] == [("ServerFault", True)]
    assert len(cloud.calls) == 2


async def test_each_attempt_is_noted_once(cloud: Cloud, expiries: Iterator[int], unused_tcp_port: int) -> None:
    """With its permit if it had one; and an attempt that the quota refused is none."""
    quota, outcomes = Permits(), list[CallOutcome]()
    cloud.answers = by_type(R=[APPLIED], W=[THROTTLED, APPLIED])
    async with opened(cloud, quota, outcomes.append) as client:
        await client.apply_tokens(PAIR, expiries.__next__, deadline=soon())
        assert sorted(each.error.code if each.error else "" for each in outcomes) == ["", "", "Throttling.User"]
        assert all(each.action == "ApplyToken" and each.permit for each in outcomes)
        outcomes.clear()
        quota.left = 0
        with pytest.raises(QuotaExhausted):
            await client.query_token(TOKEN, deadline=soon())
        assert outcomes == []
    cloud.url = f"http://127.0.0.1:{unused_tcp_port}"
    async with opened(cloud, Permits(), outcomes.append) as client:
        applied = await client.apply_tokens(PAIR, expiries.__next__, deadline=soon())
    assert len(applied.errors) == 2
    assert [(each.error.code, each.permit) for each in outcomes if each.error] == [("CannotConnect", None)] * 3


async def test_a_call_by_hand_is_noted_by_what_it_says_of_the_cloud(cloud: Cloud) -> None:
    """A refusal of what a person tried is an answer; throttling and lost answers are what they are."""
    outcomes: list[CallOutcome] = []
    async with opened(cloud, Permits(), outcomes.append) as client:
        for each in (refuse("ParameterCheckFailed"), THROTTLED, drop):
            cloud.answers = [each]
            with suppress(CloudError):
                await client.call("QueryToken", {"Token": "x"}, deadline=soon(), checked=False)
    kinds = [each.error.kind if each.error else None for each in outcomes]
    assert kinds == [None, ErrorKind.THROTTLED, ErrorKind.UNREACHABLE]
    assert all(each.permit for each in outcomes)


async def test_a_refusal_of_the_quota_does_not_hide_an_unknown_outcome(
    cloud: Cloud, client: CloudClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt may have taken effect; that there is no permit for the second does not change it."""
    places = client._calls._quota.place
    attempts: list[str] = []

    def place(action: str, *arguments: Any, **options: Any) -> Any:
        attempts.append(action)
        if len(attempts) == 2:
            raise CloudClosed(2.0)
        return places(action, *arguments, **options)

    monkeypatch.setattr(client._calls._quota, "place", place)
    cloud.answers = [drop]
    with pytest.raises(CloudError) as failure:
        await client.query_token(TOKEN, deadline=soon())
    assert len(attempts) == 2
    assert (failure.value.uncertain, failure.value.code) == (True, "ConnectionLost")
