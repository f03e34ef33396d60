from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import pytest
import structlog
from aiohttp import web

from app.cloud.client import CloudClient
from app.cloud.credentials import Credentials, LastingCredentials
from app.cloud.errors import CloudError, ErrorKind
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
from app.store.redis_keys import Handle, Shard
from app.store.revocations import Claim, Outcome, RevocationQueue
from app.store.sealing import Sealed
from app.store.store import Store
from app.store.tokens import Tokens
from app.tasks import end
from tests.cloud.conftest import ACCESS_KEY_SECRET, Answer, Cloud, Permits, answer, hang, refuse, shorten_pauses
from tests.service.grants import grant
from tests.store.fleet import Fleet
from tests.store.test_tokens import begin_application, want
from tests.virtual_time import run_virtual, virtual_loop
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


PROBES_AT_S = (2.0, 10.0, 23.0, 46.0, 89.0)
"""When the cloud is tried during an outage that begins at 0."""

PACE = 5.0


class StoppableQuota:
    """Permits of a cloud that does not answer at first, as the shared quota gives them; in virtual time."""

    def __init__(self) -> None:
        self._probes = list(PROBES_AT_S)
        self._due_at = 0.0

    def restore(self) -> None:
        """Let calls go on, as after another instance's probe."""
        self._probes = []

    def closed_for_s(self) -> float:
        """Return when the next probe is due; 0: calls are not stopped."""
        return max(0.001, self._probes[0] - virtual_loop().time()) if self._probes else 0.0

    async def take_permits(self, _action: str, question: PermitQuestion) -> PermitGrant:
        """Give a permit where one is due."""
        await asyncio.sleep(0.001)
        now = virtual_loop().time()
        if self._probes:
            is_due = question.ready > 0 and self._probes[0] <= now
            if is_due:
                self._probes.pop(0)
            closed = {"closed_for_s": self.closed_for_s(), "again_in_s": self.closed_for_s()}
            return grant(int(is_due), pace=PACE, is_probe=is_due, **closed)
        if question.ready == 0 or now < self._due_at:
            return grant(0, pace=PACE, again_in_s=max(0.001, self._due_at - now))
        self._due_at = now + 1 / PACE
        return grant(1, pace=PACE, again_in_s=1 / PACE)


class StoppableCloud:
    """A client whose probes fail and whose other calls succeed."""

    def __init__(self, pacing: Pacing) -> None:
        self._pacing = pacing
        self.refusal = pacing.refusal
        self.revoked: list[str] = []

    async def revoke_token(
        self, token: CloudToken, *, rank: CallRank, deadline: float, on_sent: Callable[[], None]
    ) -> None:
        """Wait for a permit, and call."""
        async with self._pacing.place("RevokeToken", rank=rank, deadline=deadline) as place:
            permit = await place.permit()
            on_sent()
            if permit.is_probe:
                await asyncio.sleep(3)
                raise CloudError(ErrorKind.UNREACHABLE, "Timeout")
            await asyncio.sleep(0.05)
            self.revoked.append(token.reveal())


class VirtualQueue:
    """A queue of one shard in virtual time; counts the claims."""

    def __init__(self, count: int) -> None:
        self.claims = self.attempts = 0
        self.due_at = dict.fromkeys(range(count), 0.0)
        self.tries = dict.fromkeys(range(count), 0)

    async def next_shards(self) -> list[Shard]:
        """Return the shard for each that is due."""
        await asyncio.sleep(0.002)
        return [Shard(0)] * len(self._due())

    async def claim_revocation(self, _shard: Shard) -> Claim | None:
        """Claim the first that is due."""
        await asyncio.sleep(0.001)
        if not (due := self._due()):
            return None
        self.claims += 1
        self.due_at[due[0]] = virtual_loop().time() + CLAIM_MS / 1000
        handle, tries = f"{due[0]:04}", self.tries[due[0]]
        return Claim(Handle(handle), "1", "d1", Priority.BULK, Sealed(handle), 0, tries, tries)

    async def record_delivery(
        self, claim: Claim, outcome: Outcome, *, again_in_ms: int = 0, counts: bool = True, tried: bool = True
    ) -> bool:
        """Note the outcome."""
        await asyncio.sleep(0.001)
        number = int(claim.handle)
        if outcome == "confirmed":
            del self.due_at[number]
        else:
            self.due_at[number] = virtual_loop().time() + again_in_ms / 1000
            self.tries[number] += tried
            self.attempts += tried and counts
        return True

    def _due(self) -> list[int]:
        return [number for number, due_at in self.due_at.items() if due_at <= virtual_loop().time()]


class PlainTokens:
    """Opens what is not sealed."""

    def open(self, sealed: Sealed, _client_id: str, _handle: Handle) -> list[CloudTokenOfType]:
        """Return one cloud token."""
        return [CloudTokenOfType(TokenType.RW, CloudToken(sealed))]


def test_while_calls_are_stopped_nothing_is_claimed_but_for_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 a handful are claimed in a minute, without a log entry; then all go at the pace, in their order."""
    monkeypatch.setattr(module, "LOOK_EVERY_S", 1.0)

    async def outage() -> None:
        quota, queue = StoppableQuota(), VirtualQueue(200)
        pacing = Pacing(cast("SharedQuota", quota), closed_for_s=quota.closed_for_s)
        cloud = StoppableCloud(pacing)
        given: tuple[Any, ...] = (queue, PlainTokens(), cloud)
        delivery = Delivery(*given, audit=cast("AuditStore", None), pace=PACE)
        task = asyncio.create_task(delivery.deliver_revocations())
        with structlog.testing.capture_logs() as logged:
            await asyncio.sleep(60)
        assert len(PROBES_AT_S) - 1 <= queue.claims <= 2 * len(PROBES_AT_S)
        assert len([each for each in logged if each["log_level"] != "debug"]) <= len(PROBES_AT_S)
        assert sum(queue.tries.values()) == len(PROBES_AT_S) - 1  # the probes
        assert queue.attempts == 0
        quota.restore()
        await asyncio.sleep(1.5)
        assert cloud.revoked
        await asyncio.sleep(200 / PACE)
        assert not queue.due_at
        assert cloud.revoked == sorted(cloud.revoked)
        await end([task])
        await pacing.close()

    run_virtual(outage())
