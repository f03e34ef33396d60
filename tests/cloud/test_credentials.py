from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from app.cloud import credentials as module
from app.cloud.client import CloudClient
from app.cloud.credentials import Credentials, Fetched, NoCredentials, RenewedCredentials
from app.cloud.errors import CloudError, ErrorKind
from app.model.secrets import Secret
from app.tasks import end
from tests.cloud.conftest import ACCESS_KEY_SECRET, REQUEST_ID, TOKEN, Cloud, Permits, answer, refuse, soon
from tests.waiting import until


@dataclass
class Source:
    """A source that blocks its thread as long as the test says, and gives numbered keys."""

    life_s: float | None = 3600
    fails: bool = False
    open: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    ahead_ms: int = 0
    """How far the time has been moved."""

    def __post_init__(self) -> None:
        self.open.set()

    def now_ms(self) -> int:
        """Return the time, moved."""
        return int(time.time() * 1000) + self.ahead_ms

    def fetch(self) -> Fetched:
        """Give the next key."""
        self.asked += 1
        number = self.asked
        assert self.open.wait(20)
        if self.fails:
            raise NoCredentials("URI: HTTP 500")
        given = Credentials(f"STS.{number}", ACCESS_KEY_SECRET, Secret("token"))
        expires_at_ms = None if self.life_s is None else self.now_ms() + int(self.life_s * 1000)
        return Fetched(given, "URI", expires_at_ms)


@asynccontextmanager
async def renewed(source: Source) -> AsyncIterator[RenewedCredentials]:
    """Credentials from that source, renewed."""
    provider = RenewedCredentials(source.fetch, source.now_ms)
    task = asyncio.create_task(provider.run())
    try:
        yield provider
    finally:
        source.open.set()
        await end([task])


async def test_many_callers_wait_for_one_fetch_and_the_loop_goes_on() -> None:
    """While a slow source is asked, once for all, the loop ticks on undisturbed; then all have the same key."""
    source = Source()
    source.open.clear()
    longest_s = 0.0

    async def tick() -> None:
        nonlocal longest_s
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            longest_s = max(longest_s, time.monotonic() - began)

    async with renewed(source) as provider:
        ticking = asyncio.create_task(tick())
        callers = [asyncio.create_task(provider.get(deadline=soon())) for _ in range(100)]
        await asyncio.wait(callers, timeout=0.3)
        assert not any(caller.done() for caller in callers)
        source.open.set()
        keys = {(await caller).access_key_id for caller in callers}
        await end([ticking])
    assert (keys, source.asked) == ({"STS.1"}, 1)
    assert longest_s < 0.2


async def test_nobody_waits_while_the_old_ones_are_good() -> None:
    """Renewal goes on behind: a source that hangs at it holds up no caller as long as the old key lasts."""
    source = Source(life_s=4000)
    async with renewed(source) as provider:
        assert (await provider.get(deadline=soon())).access_key_id == "STS.1"
        source.open.clear()
        source.ahead_ms = 3_900_000
        provider._invalidated.set()  # stands for the minute after which it looks at the clock again
        await until(lambda: _is(source.asked == 2), "the renewal")
        began = time.monotonic()
        assert (await provider.get(deadline=soon())).access_key_id == "STS.1"
        assert time.monotonic() - began < 0.1
        source.open.set()
        await until(lambda: _has(provider, "STS.2"), "the new key")


async def test_a_caller_waits_no_longer_than_its_deadline() -> None:
    """Without valid credentials, a source that does not answer in time is a passing failure of the call."""
    source = Source()
    source.open.clear()
    async with renewed(source) as provider:
        with pytest.raises(CloudError, match="has not answered") as caught:
            await provider.get(deadline=soon(0.05))
    assert (caught.value.kind, caught.value.code) == (ErrorKind.TRANSIENT, "CredentialsUnavailable")


async def test_a_failing_source_is_asked_again_and_callers_told_when(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it fails callers are answered at once, with the time of the next try; once it is back, so are they."""
    monkeypatch.setattr(module, "FIRST_BACK_OFF_S", 0.1)
    source = Source(fails=True)
    async with renewed(source) as provider:
        with pytest.raises(CloudError, match="HTTP 500") as caught:
            await provider.get(deadline=soon())
        assert caught.value.kind is ErrorKind.TRANSIENT
        assert caught.value.retry_after_s is not None
        assert 0 <= caught.value.retry_after_s <= 0.1
        source.fails = False
        await until(lambda: _has(provider, "STS.2"), "the key")


async def test_expired_credentials_are_never_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing renewal leaves the old key in use until it expires, and no longer."""
    monkeypatch.setattr(module, "FIRST_BACK_OFF_S", 0.02)
    source = Source(life_s=100)
    async with renewed(source) as provider:
        assert (await provider.get(deadline=soon())).access_key_id == "STS.1"
        source.fails = True
        provider._invalidated.set()
        await until(lambda: _is(source.asked > 2), "renewals that fail")
        assert (await provider.get(deadline=soon())).access_key_id == "STS.1"
        source.ahead_ms = 96_000
        with pytest.raises(CloudError, match="HTTP 500"):
            await provider.get(deadline=soon())


async def test_a_source_that_gives_expired_credentials_has_failed() -> None:
    """What a source gives is believed only if it is good for a while."""
    async with renewed(Source(life_s=2)) as provider:
        with pytest.raises(CloudError, match="expired"):
            await provider.get(deadline=soon())


async def test_short_lives_are_renewed_at_half_of_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour's key is renewed a quarter of an hour ahead, one of ten minutes after five."""
    waits: list[float] = []

    async def note(_self: object, pause_s: float) -> None:
        waits.append(pause_s)
        await asyncio.Event().wait()

    monkeypatch.setattr(RenewedCredentials, "_until_due", note)
    for life_s in (3600, 600, None):
        async with renewed(Source(life_s=life_s)) as provider:
            await provider.get(deadline=soon())
            await until(lambda: _is(waits), "the pause")
    assert waits == pytest.approx([2700, 300, 60], abs=2)


async def test_an_early_end_is_noticed(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the cloud calls the key's token expired, new ones are fetched before their time, but not at each refusal."""
    source = Source()
    cloud.answers = [
        refuse("InvalidSecurityToken.Expired"),
        answer({"RequestId": REQUEST_ID, "TokenStatus": True}),
    ]
    async with renewed(source) as provider, _client(cloud, provider) as client:
        await provider.get(deadline=soon())
        provider.invalidate()
        assert not provider._invalidated.is_set()
        monkeypatch.setattr(module, "INVALIDATE_EVERY_S", 0.0)
        with pytest.raises(CloudError, match="Expired"):
            await client.query_token(TOKEN, deadline=soon())
        await until(lambda: _has(provider, "STS.2"), "the new key")
        assert await client.query_token(TOKEN, deadline=soon())
    assert [call["AccessKeyId"] for call in cloud.calls] == ["STS.1", "STS.2"]
    assert {call["SecurityToken"] for call in cloud.calls} == {"token"}


def _client(cloud: Cloud, provider: RenewedCredentials) -> AbstractAsyncContextManager[CloudClient]:
    return CloudClient(
        endpoint=cloud.url,
        region="cn-hangzhou",
        instance_id="post-cn-test",
        credentials=provider,
        quota=Permits(),
        now_ms=lambda: 0,
    ).connect()


async def _is(value: object) -> object:
    return value


async def _has(provider: RenewedCredentials, key_id: str) -> bool:
    try:
        return (await provider.get(deadline=soon())).access_key_id == key_id
    except CloudError:
        return False
