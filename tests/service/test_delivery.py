from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import web

from app.cloud.client import CloudClient
from app.cloud.credentials import Credentials, LastingCredentials
from app.model.actors import Actor
from app.model.calls import CallRank
from app.model.devices import Device
from app.model.grants import TokenType
from app.model.secrets import CloudToken
from app.service import delivery as module
from app.service.delivery import Delivery
from app.service.pacing import Pacing
from app.store.audit import AuditStore
from app.store.constants import CLAIM_MS
from app.store.quota import PermitGrant, PermitQuestion, QuotaSettings, SharedQuota, full_pace
from app.store.records import CloudTokenOfType, Priority
from app.store.redis_keys import Shard
from app.store.revocations import Claim, RevocationQueue
from app.store.store import Store
from app.store.tokens import Tokens
from app.tasks import end
from tests.cloud.conftest import ACCESS_KEY_SECRET, Answer, Cloud, Permits, answer, hang, refuse, shorten_pauses
from tests.store.fleet import Fleet
from tests.store.test_tokens import begin_application, want
from tests.waiting import until

OK = answer({"RequestId": "r"})
Begin = Callable[..., Delivery]

PATIENCE_S = 600.0
"""Longer than any test."""


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep back-offs and looks quick."""
    monkeypatch.setattr(module, "FIRST_BACKOFF_MS", 20)
    monkeypatch.setattr(module, "LAST_BACKOFF_MS", 40)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.02)
    shorten_pauses(monkeypatch)


@pytest.fixture
async def begin(
    store: Store, revocations: RevocationQueue, tokens: Tokens, client: CloudClient
) -> AsyncIterator[Begin]:
    """A function that begins to deliver, as one more instance."""
    tasks: list[asyncio.Task[None]] = []

    def start(cloud: CloudClient = client, pace: float = 1000, queue: RevocationQueue = revocations) -> Delivery:
        delivery = Delivery(queue, tokens, cloud, audit=AuditStore(store), pace=pace)
        tasks.append(asyncio.create_task(delivery.deliver_revocations()))
        return delivery

    yield start
    await end(tasks)


class CountedQuota(SharedQuota):
    """The shared quota, and how many permits it has given so far."""

    given = 0

    async def take_permits(self, action: str, question: PermitQuestion) -> PermitGrant:
        """Take, and count."""
        grant = await super().take_permits(action, question)
        self.given += grant.permits
        return grant


@asynccontextmanager
async def paced(store: Store, cloud: Cloud, qps: float) -> AsyncIterator[tuple[CloudClient, CountedQuota]]:
    """Open a client, patient with the cloud, whose quota is the one that all instances share."""
    limits = QuotaSettings({"RevokeToken": qps}, egress_qps=10 * qps, egress_group="all")
    shared = CountedQuota(store, limits=limits)
    pacing = Pacing(shared)
    async with CloudClient(
        endpoint=cloud.url,
        region="cn-hangzhou",
        instance_id="post-cn-test",
        credentials=LastingCredentials(Credentials("testid", ACCESS_KEY_SECRET)),
        quota=pacing,
        now_ms=store.clock.now_ms,
        attempt_timeout_s=PATIENCE_S,
    ).connect() as opened:
        yield opened, shared
    await pacing.close()


class RecordedQueue(RevocationQueue):
    """A queue that notes what is claimed, in order; ``while_read`` is awaited once while its order is read."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.claimed: list[str] = []
        self.while_read: Callable[[], Awaitable[None]] | None = None

    async def next_shards(self) -> list[Shard]:
        """Read the order, and let something happen before it arrives."""
        shards = await super().next_shards()
        if shards and (happen := self.while_read):
            self.while_read = None
            await happen()
        return shards

    async def claim_revocation(self, shard: Shard) -> Claim | None:
        """Claim, and note it."""
        if claim := await super().claim_revocation(shard):
            self.claimed.append(claim.handle)
        return claim


def called(cloud: Cloud, action: str = "RevokeToken") -> list[str]:
    """Return the tokens named in calls, in order."""
    return [call["Token"] for call in cloud.calls if call["Action"] == action]


def drained(revocations: RevocationQueue) -> Callable[[], Awaitable[bool]]:
    """Return whether the queue is empty, to be waited for."""

    async def empty() -> bool:
        return (await revocations.read_backlog()).queued == 0

    return empty


async def revoke_all(fleet: Fleet, count: int) -> None:
    """Put so many revocations into the queue."""
    for record in await fleet.issue_many(count):
        await fleet.tokens.revoke_token(record, Priority.BULK, actor=Actor("cli:test"))


async def test_everything_is_delivered_once_by_whichever_instance(
    fleet: Fleet, revocations: RevocationQueue, cloud: Cloud, begin: Begin
) -> None:
    """Three instances at one queue make one call for each cloud token, and all is confirmed."""
    cloud.answers = [OK]
    await revoke_all(fleet, 40)
    for _ in range(3):
        begin()
    await until(drained(revocations), "the queue drained")
    assert sorted(called(cloud)) == sorted(f"cloud-token-f{number}" for number in range(40))


async def test_the_drain_keeps_the_pace_of_the_quota_however_long_the_cloud_takes(
    fleet: Fleet, store: Store, revocations: RevocationQueue, cloud: Cloud, begin: Begin
) -> None:
    """Two instances call as fast as permits come, though no call is answered yet, and never without a permit."""
    qps, count = 60, 75
    quotas: list[CountedQuota] = []
    answered = asyncio.Event()
    permits_left: list[int] = []

    async def slow(request: web.Request) -> web.StreamResponse:
        permits_left.append(sum(quota.given for quota in quotas) - len(cloud.calls))
        await answered.wait()
        return await OK(request)

    async def all_called() -> bool:
        return len(called(cloud)) == count

    cloud.answers = [slow]
    await revoke_all(fleet, count)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            client, quota = await stack.enter_async_context(paced(store, cloud, qps))
            quotas.append(quota)
            begin(client, pace=full_pace(qps, 0.03))
        await until(all_called, "a call for each token, and none answered")
        answered.set()
        await until(drained(revocations), "the queue drained")
    assert len(cloud.calls) == count
    assert min(permits_left) >= 0


async def test_an_operator_s_revoke_passes_the_bulk(
    fleet: Fleet, store: Store, revocations: RevocationQueue, cloud: Cloud, begin: Begin
) -> None:
    """What is queued in the middle of a drain with a better turn goes next, but for those that wait for a permit."""
    cloud.answers = [OK]
    await revoke_all(fleet, 30)
    urgent = await fleet.issue("urgent", life_s=600)
    queue = RecordedQueue(store)
    async with paced(store, cloud, 50) as (client, _):
        delivery = begin(client, pace=full_pace(50, 0.03), queue=queue)

        async def some() -> bool:
            return len(called(cloud)) >= 5

        await until(some, "some of the bulk delivered")
        await fleet.tokens.revoke_token(urgent, Priority.OPERATOR, actor=Actor("cli:test"))
        before = len(queue.claimed)
        delivery.wake()
        await until(drained(revocations), "the queue drained")
    assert queue.claimed.index(urgent.handle) <= before + 2


@pytest.mark.parametrize(
    ("priority", "rank"),
    [
        (Priority.OPERATOR, CallRank.OPERATOR),
        (Priority.BULK, CallRank.OPERATOR),
        (Priority.DEVICE, CallRank.RENEWAL),
    ],
)
async def test_operators_revocations_go_before_those_of_devices_at_the_quota_too(
    fleet: Fleet,
    store: Store,
    revocations: RevocationQueue,
    cloud: Cloud,
    begin: Begin,
    priority: Priority,
    rank: CallRank,
) -> None:
    """Also where the calls of several actions share a limit, and for the question whether a token is still valid."""
    cloud.answers = [
        by_action(
            RevokeToken=refuse("ParameterCheckFailed"), QueryToken=answer({"RequestId": "r", "TokenStatus": False})
        )
    ]
    record = await fleet.issue("d1")
    await fleet.tokens.revoke_token(record, priority, actor=Actor("cli:test"))
    quota = Permits()
    async with CloudClient(
        endpoint=cloud.url,
        region="cn-hangzhou",
        instance_id="post-cn-test",
        credentials=LastingCredentials(Credentials("testid", ACCESS_KEY_SECRET)),
        quota=quota,
        now_ms=store.clock.now_ms,
    ).connect() as client:
        begin(client)
        await until(drained(revocations), "the queue drained")
    assert quota.ranks == [("RevokeToken", rank), ("QueryToken", rank)]


async def test_what_is_queued_while_the_order_is_read_goes_next(
    fleet: Fleet, store: Store, revocations: RevocationQueue, cloud: Cloud, begin: Begin
) -> None:
    """The order that is on its way then lacks it: one worker goes by that, and the next one reads again."""
    cloud.answers = [OK]
    await revoke_all(fleet, 30)
    urgent = await fleet.issue("urgent", life_s=600)
    queue = RecordedQueue(store)
    delivery: Delivery

    async def revoke() -> None:
        await fleet.tokens.revoke_token(urgent, Priority.OPERATOR, actor=Actor("cli:test"))
        delivery.wake()

    queue.while_read = revoke
    delivery = begin(queue=queue)
    await until(drained(revocations), "the queue drained")
    assert queue.claimed.index(urgent.handle) == 1


async def test_both_cloud_tokens_of_a_token_are_revoked(
    fleet: Fleet, revocations: RevocationQueue, device: Device, cloud: Cloud, begin: Begin
) -> None:
    """One after the other; it is confirmed only when both are gone."""
    states: list[str] = []

    async def look(request: web.Request) -> web.StreamResponse:
        states.append((await fleet.read(lead.handle)).revocation)
        return await OK(request)

    cloud.answers = [look]
    lead = await begin_application(fleet.tokens, want(device, "pub:plant/x sub:plant/y"))
    pair = (
        CloudTokenOfType(TokenType.R, CloudToken("read")),
        CloudTokenOfType(TokenType.W, CloudToken("write")),
    )
    await fleet.tokens.store(lead, pair, fleet.store.clock.now_ms() + 3_600_000, whole=True, actor=Actor("device:test"))
    await fleet.tokens.revoke_token(await fleet.read(lead.handle), actor=Actor("cli:test"))
    begin()
    await until(drained(revocations), "the queue drained")
    assert called(cloud) == ["read", "write"]
    assert states == ["queued", "queued"]
    assert (await fleet.read(lead.handle)).revocation == "confirmed"


@pytest.mark.parametrize(("valid", "outcome"), [(False, "confirmed"), (True, "failed")])
async def test_a_token_the_cloud_does_not_know_is_asked_for(
    fleet: Fleet,
    revocations: RevocationQueue,
    cloud: Cloud,
    begin: Begin,
    monkeypatch: pytest.MonkeyPatch,
    *,
    valid: bool,
    outcome: str,
) -> None:
    """What QueryToken calls invalid is as good as revoked; what it calls valid is tried again, then shown as failed."""
    monkeypatch.setattr(module, "MAX_ATTEMPTS", 2)
    cloud.answers = [
        by_action(
            RevokeToken=refuse("ParameterCheckFailed"), QueryToken=answer({"RequestId": "r", "TokenStatus": valid})
        )
    ]
    record = await fleet.issue("d1")
    await fleet.tokens.revoke_token(record, actor=Actor("cli:test"))
    begin()
    await until(drained(revocations), "the queue drained")
    assert (await fleet.read(record.handle)).revocation == outcome
    assert len(called(cloud)) == len(called(cloud, "QueryToken")) == (2 if valid else 1)


def by_action(**answers: Answer) -> Answer:
    """Answer each action in its own way."""

    async def respond(request: web.Request) -> web.StreamResponse:
        return await answers[(await request.post())["Action"]](request)  # type: ignore[index]

    return respond


@pytest.mark.parametrize("fault", [refuse("RevokeTokenOverflow"), refuse("InternalError", status=500), hang])
async def test_an_outage_costs_no_attempt_and_is_waited_out(
    fleet: Fleet,
    revocations: RevocationQueue,
    cloud: Cloud,
    begin: Begin,
    monkeypatch: pytest.MonkeyPatch,
    fault: Answer,
) -> None:
    """However often the cloud cannot be asked, for longer than the longest back-off: then all is confirmed."""
    monkeypatch.setattr(module, "MAX_ATTEMPTS", 1)
    monkeypatch.setattr(module, "SEND_WITHIN_S", 0.1)
    cloud.answers = [fault]
    records = await fleet.issue_many(3)
    for record in records:
        await fleet.tokens.revoke_token(record, actor=Actor("cli:test"))
    begin()

    async def tried() -> bool:
        return len(called(cloud)) > 12

    await until(tried, "many vain calls")
    cloud.answers = [OK]
    await until(drained(revocations), "the queue drained")
    assert {(await fleet.read(record.handle)).revocation for record in records} == {"confirmed"}


async def test_a_permanent_refusal_ends_as_failed_and_can_be_retried(
    fleet: Fleet, revocations: RevocationQueue, cloud: Cloud, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds up no other; an operator who mended the cause has it delivered."""
    monkeypatch.setattr(module, "MAX_ATTEMPTS", 3)
    cloud.answers = [refuse("PermissionCheckFailed")]
    record = await fleet.issue("d1")
    await fleet.tokens.revoke_token(record, actor=Actor("cli:test"))
    delivery = begin()
    await until(drained(revocations), "the attempts used up")
    assert (await fleet.read(record.handle)).revocation == "failed"
    assert len(called(cloud)) == 3
    cloud.answers = [OK]
    assert await revocations.resolve_revocation(record.handle, "retry", actor=Actor("cli:test"))
    delivery.wake()
    await until(drained(revocations), "the queue drained")
    assert (await fleet.read(record.handle)).revocation == "confirmed"


async def test_one_that_hangs_at_the_cloud_costs_only_itself(
    fleet: Fleet,
    store: Store,
    revocations: RevocationQueue,
    cloud: Cloud,
    begin: Begin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes first, and the others are delivered while its call is still under way."""
    monkeypatch.setattr(module, "SEND_WITHIN_S", PATIENCE_S)
    hung = await fleet.issue("hung", life_s=7200)

    async def respond(request: web.Request) -> web.StreamResponse:
        token = (await request.post())["Token"]
        return await (hang if token == "cloud-token-hung" else OK)(request)

    cloud.answers = [respond]
    await fleet.tokens.revoke_token(hung, Priority.OPERATOR, actor=Actor("cli:test"))
    await revoke_all(fleet, 10)

    async def others() -> bool:
        return (await revocations.read_backlog()).queued == 1

    async with paced(store, cloud, 1000) as (client, _):
        begin(client)
        await until(others, "the others delivered")
        assert called(cloud).count("cloud-token-hung") == 1
        assert (await fleet.read(hung.handle)).revocation == "queued"


async def test_a_worker_that_dies_leaves_its_claim_to_the_next(
    fleet: Fleet, store: Store, revocations: RevocationQueue, cloud: Cloud, begin: Begin
) -> None:
    """What it had claimed is delivered by another once the claim has lapsed."""
    cloud.answers = [OK]
    record = await fleet.issue("d1")
    await fleet.tokens.revoke_token(record, actor=Actor("cli:test"))
    dead = await revocations.claim_revocation(Shard.of(record.client_id))
    assert dead is not None
    store.clock.shift_ms = CLAIM_MS + 1
    begin()
    await until(drained(revocations), "the queue drained")
    assert called(cloud) == ["cloud-token-d1"]
    assert not await revocations.record_delivery(dead, "queued")


async def test_what_cannot_be_opened_fails_without_a_call(
    fleet: Fleet,
    store: Store,
    revocations: RevocationQueue,
    cloud: Cloud,
    begin: Begin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A record whose sealing key is gone is tried for a while, then shown; nothing else is held up."""
    monkeypatch.setattr(module, "MAX_ATTEMPTS", 2)
    cloud.answers = [OK]
    record = await fleet.issue("d1")
    await store.requests.command("HSET", Shard.of(record.client_id).token(record.handle), "sealed", "k9.AAAA")
    await fleet.tokens.revoke_token(record, actor=Actor("cli:test"))
    begin()
    await until(drained(revocations), "the attempts used up")
    assert (await fleet.read(record.handle)).revocation == "failed"
    assert cloud.calls == []
