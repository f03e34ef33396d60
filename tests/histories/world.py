"""Two instances, Redis and the cloud, as a history drives them: one step at a time, and each judged when it is over."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import jwt
import redis

from app.errors import InvalidClient, InvalidRequest, NotFound, Refusal, TooManyFailures
from app.model.actors import Actor
from app.model.api_keys import Right
from app.model.policy_file import load_policy
from app.model.secrets import ApiKeyText, Secret
from app.model.selections import Selection, SelectionKind
from app.service.api_keys import ApiKeyAdmin, Bearer
from app.service.client_credentials import Assertion
from app.service.issue import IssuedToken
from app.service.registry import Registration
from app.settings import Settings
from app.store.jobs import Job
from app.store.records import ApplicationLease
from app.store.redis_keys import Handle
from tests.actors import CLI
from tests.clouds import Cloud
from tests.histories.instance import Dead, Death, Instance, sha256
from tests.histories.ledger import (
    CLIENTS,
    POLICIES,
    ROLES,
    Application,
    Attempt,
    Broken,
    DeviceState,
    Ledger,
    Matches,
    for_topic,
)
from tests.processes import trust_server
from tests.waiting import until

Key = Literal["new", "old"]
Change = Literal["disable", "enable", "rotate", "rotate with grace", "remove", "add"]
Event = Literal["narrow", "wide", "refuse"]

DEADLINE_S: Final = 20.0
ADDRESS: Final = "192.0.2.1"
ROUNDS: Final = 12
"""So often the clock is moved past every claim, back-off and lease before what is still queued counts as stuck."""

ROUND_S: Final = 31

NEW_LIFE_S: Final = 500
"""Tokens of different lives are different grants: from this one on, each is asked for once."""

GRACE_S: Final = 600

AGE: Final = """
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left_ms = redis.call('PTTL', key)
  if left_ms >= 0 then
    redis.call('PEXPIRE', key, math.max(0, left_ms - ARGV[1]))
  end
end
"""
"""Redis has no clock to move, so all that it would forget moves nearer."""


@dataclass(eq=False)
class Pending:
    """A request for a token that is not answered yet. ``at`` is the moment of its answer."""

    task: asyncio.Task[IssuedToken]
    instance: Instance
    client_id: str
    key: str
    assertion: Assertion
    good: bool
    """Whether its key was good when it was sent."""
    replay: bool
    policies: set[str]
    """Those that were in force since."""
    waited: bool = False
    at: int = 0


class World:
    """What a history happens to. It begins anew with each."""

    def __init__(self, settings: Settings, cloud: Cloud, policies: Path) -> None:
        self.ledger = Ledger()
        self._settings = settings
        self._cloud = cloud
        self._redis = redis.Redis.from_url(settings.redis_url.reveal())
        self._policies = {name: load_policy(policies / name) for name in POLICIES}

    async def begin(self) -> None:
        """Begin from nothing: two instances, two devices, and a service's key."""
        self.ledger = Ledger(seen=self.ledger.seen)
        self.instances: dict[int, Instance] = {}
        self._pending: list[Pending] = []
        self._used: list[tuple[str, Assertion]] = []
        self._policy = "wide"
        self._shift_ms = 0
        self._holding = False
        self._orphans = 0
        self._started = 0
        self._redis.flushall()
        trust_server(self._redis)
        await self._cloud.clear()
        await self._cloud.move_clock(0)
        for at in (1, 2):
            await self._open(at)
        made = await ApiKeyAdmin(self.instances[1].parts.api_keys).add_api_key("service", [Right.ADMIN], actor=CLI)
        self._bearer = Bearer(ApiKeyText(made.text.reveal()))
        for device in CLIENTS:
            await self.add(device, 1)

    async def end(self) -> None:
        """Recover from all that is wrong, let every revocation be delivered, and judge what came of it."""
        await self.release()
        for at in (1, 2):
            await self.crash(at)
        await self._drain()
        await self._judge_the_cloud()
        await self._judge_the_spared()

    async def close(self) -> None:
        """End the instances, however the history went."""
        for instance in self.instances.values():
            await instance.kill()

    def began(self, instance: Instance, lease: ApplicationLease) -> None:
        """Enter an application."""
        self._started += 1
        wanted, moment = lease.wanted, self.ledger.moment()
        client_id = wanted.device.client_id
        self.ledger.began(Application(lease.handle, client_id, wanted.role, wanted.scope, instance, moment))

    def arrived(self, handle: Handle, hashes: frozenset[str], expires_at_ms: int) -> None:
        """Enter what the cloud gave."""
        application = self.ledger.applications[handle]
        application.hashes, application.expires_at_ms = hashes, expires_at_ms

    def pick(self, which: int) -> Application | None:
        """Return one of the applications: those under way first, then the youngest."""
        youngest_first = list(self.ledger.applications.values())[::-1]
        order = sorted(youngest_first, key=lambda each: bool(each.hashes) or each.lost)
        return order[which % len(order)] if order else None

    # What devices do.

    async def apply(self, device: str, at: int, *, held: bool) -> None:
        """Have a device ask for what it never had; ``held``: from now on the cloud keeps applications waiting."""
        if held and not self._holding:
            self._holding = True
            await self._cloud.fault("ApplyToken", "hold", times=None)
        await self.request(device, at, None, NEW_LIFE_S + self._started, "new")

    async def request(self, device: str, at: int, scope: str | None, life_s: int | None, key: Key) -> None:
        """Have a device ask for a token."""
        state = self.ledger.devices[CLIENTS[device]]
        secret = state.previous or state.key if key == "old" else state.key
        await self._send(CLIENTS[device], secret, self._sign(CLIENTS[device], secret), at, scope, life_s)

    async def replay(self, which: int, at: int) -> None:
        """Send an assertion once more that was accepted before."""
        if self._used:
            client_id, assertion = self._used[-1 - which % len(self._used)]
            await self._send(client_id, "", assertion, at, None, None, replay=True)

    async def _send(
        self,
        client_id: str,
        key: str,
        assertion: Assertion,
        at: int,
        scope: str | None,
        life_s: int | None,
        *,
        replay: bool = False,
    ) -> None:
        instance = self.instances[at]
        good = self.ledger.devices[client_id].admits(key, self._now_ms())
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        life = None if life_s is None else str(life_s)
        task = instance.own(instance.services.issuer.issue(assertion, scope, life, address=ADDRESS, deadline=deadline))
        pending = Pending(task, instance, client_id, key, assertion, good, replay, {self._policy})

        def answered(_: object) -> None:
            pending.at = self.ledger.moment()

        task.add_done_callback(answered)
        self._pending.append(pending)
        await self._settle()

    def _sign(self, client_id: str, key: str) -> Assertion:
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": self._settings.issuer_url,
            "exp": self._now_ms() // 1000 + 120,
            "jti": str(uuid.uuid4()),
        }
        return Assertion(Secret(jwt.encode(claims, key, "HS256")))

    # What takes back.

    async def revoke_token(self, which: int, way: str, at: int, death: Death | None) -> None:
        """Revoke a token, or what is being applied for: by its device, a service or an operator."""
        if target := self.pick(which):
            await self._act(at, partial(self._revoke_token, target, way), [target], death)

    async def _revoke_token(self, target: Application, way: str, instance: Instance) -> None:
        if way == "operator":
            await instance.revocations.revoke_selection(
                Selection.of_handle(target.handle), actor=Actor("operator:test")
            )
            return
        caller: Bearer | Assertion = self._bearer
        if way == "device":
            caller = self._sign(target.client_id, self.ledger.devices[target.client_id].key)
        revoked = await instance.services.revoker.revoke(
            caller,
            Secret(target.password or target.handle),
            address=ADDRESS,
            deadline=asyncio.get_running_loop().time() + DEADLINE_S,
        )
        if revoked is None:
            raise NotFound("its record is gone, or not there yet")

    async def revoke(self, selection: Selection, at: int, death: Death | None) -> None:
        """Revoke all that a selection means."""
        if selection.kind is not SelectionKind.CLIENT_ID:
            await self._begin_job(selection, at, death)
            return
        targets = self.ledger.meant(lambda application: application.client_id == selection.value)
        await self._act(
            at, lambda here: here.revocations.revoke_selection(selection, actor=Actor("operator:test")), targets, death
        )

    async def _begin_job(self, selection: Selection, at: int, death: Death | None) -> None:
        meant = _meant(selection)
        targets = self.ledger.meant(meant)
        jobs: list[Job] = []

        async def start(here: Instance) -> None:
            job = await here.revocations.revoke_selection(selection, actor=Actor("operator:test"), counted=0)
            assert isinstance(job, Job)
            jobs.append(job)

        by_topic = selection.kind is SelectionKind.TOPIC
        answered = await self._act(at, start, targets, death, at_once=not by_topic)
        if answered is False or by_topic:
            self.ledger.attempts.append(Attempt(meant, targets, jobs[0].id if answered else ""))
        if answered and by_topic:
            for each in targets:
                each.possible_revokes += 1

    async def work(self, at: int, shards: int) -> None:
        """Go on with the open jobs."""
        here = self.instances[at]
        await here.do(here.work(shards))
        for attempt in [each for each in self.ledger.attempts if each.job]:
            if (await here.do(here.jobs.get_job(attempt.job))).done_at_ms:
                self.ledger.attempts.remove(attempt)
                self.ledger.answered(attempt.targets)
                await self._introspect_dead(attempt.targets)
        await self._settle()

    async def change(self, device: str, at: int, change: Change, death: Death | None) -> None:
        """Change a device as an operator does; what makes no sense of it now is left out."""
        state = self.ledger.devices[CLIENTS[device]]
        if state.registered == (change == "add"):
            return
        if change == "add":
            await self.add(device, at)
        elif change == "disable":
            await self._disable(device, at, state, death)
        elif change == "enable":
            await self._act(at, lambda here: here.registry.enable_device(CLIENTS[device], actor=CLI), [])
            state.disabled, state.changed_at = False, self.ledger.moment()
        elif change == "remove":
            await self._act(at, lambda here: here.registry.remove_device(CLIENTS[device], actor=CLI), self._of(device))
            state.registered, state.changed_at = False, self.ledger.moment()
        elif not (state.disabled and change == "rotate with grace"):
            await self._rotate(device, at, state, GRACE_S if change == "rotate with grace" else 0)
        # Each instance may have cached the record: its next answer must go by the new one.
        for each in self.instances:
            await self.request(device, each, None, None, "old")

    async def _disable(self, device: str, at: int, state: DeviceState, death: Death | None) -> None:
        targets = self._of(device)
        answered = await self._act(
            at, lambda here: here.registry.disable_device(CLIENTS[device], actor=CLI), targets, death
        )
        # Never answered, it is done or not: if so, wholly.
        here = self.instances[at]
        done = answered or (await here.do(here.registry.get_device(CLIENTS[device]))).disabled
        if done and not state.disabled:
            state.disabled, state.previous, state.changed_at = True, "", self.ledger.moment()
            self.ledger.answered(targets)

    async def _rotate(self, device: str, at: int, state: DeviceState, grace_s: int) -> None:
        keys: list[str] = []

        async def rotate(here: Instance) -> None:
            added, _ = await here.registry.rotate_key(CLIENTS[device], grace_s=grace_s, actor=CLI)
            assert added.secret
            keys.append(added.secret.reveal())

        await self._act(at, rotate, [] if grace_s else self._of(device))
        state.previous, state.previous_until_ms = state.key, self._now_ms() + grace_s * 1000
        state.key, state.changed_at = keys[0], self.ledger.moment()

    async def add(self, device: str, at: int) -> None:
        """Register a device, with a new key."""
        client_id = CLIENTS[device]
        here = self.instances[at]
        added = await here.do(here.registry.add_device(Registration(client_id, role=ROLES[device]), actor=CLI))
        assert added.secret
        self.ledger.devices[client_id] = DeviceState(added.secret.reveal(), changed_at=self.ledger.moment())

    # What befalls the site.

    async def deliver(self, at: int, death: Death | None) -> None:
        """Deliver one revocation."""
        here = self.instances[at]
        try:
            await here.do(here.deliver(), death)
        except Dead:
            self.ledger.seen["died while delivering"] += 1
            await self.crash(at)

    async def release(self) -> None:
        """Let the applications go on."""
        self._holding = False
        self._orphans = 0
        await self._cloud.clear()
        await self._settle()

    async def crash(self, at: int) -> None:
        """Kill an instance, and start one in its place."""
        here = self.instances[at]
        self._orphans += here.calls_out if self._holding else 0
        await here.kill()
        for application in self.ledger.applications.values():
            if application.owner is here and not application.hashes:
                application.lost = True
        await self._open(at)
        await self._settle()

    async def clock_on(self, seconds: int) -> None:
        """Let time pass for Redis, the instances and the cloud, while nothing else happens."""
        self._shift_ms += seconds * 1000
        self._redis.eval(AGE, 0, str(seconds * 1000))
        for instance in self.instances.values():
            instance.set_clock(self._shift_ms)
        await self._cloud.move_clock(self._shift_ms // 1000)
        await self._settle()

    async def befall(self, event: Event) -> None:
        """Put another policy in force, or have the cloud refuse the next RevokeToken as no outage would."""
        if event == "refuse":
            await self._cloud.fault("RevokeToken", "error", code="PermissionCheckFailed")
            return
        self._policy = event
        for instance in self.instances.values():
            instance.set_policy(self._policies[event])
        for each in self._pending:
            each.policies.add(event)

    async def introspect(self, which: int, at: int) -> None:
        """Ask what a token is, and judge the answer."""
        if (application := self.pick(which)) and application.password:
            good = self.ledger.good(application, self._now_ms())
            active = await self._active(application, at)
            if active and application.dead_at is not None:
                raise Broken(f"promise 2: {application.handle} is revoked and called active")
            if good and not active:
                raise Broken(f"{application.handle} is good, no revoke meant it, and it is called inactive")

    # How it is driven and judged.

    def _now_ms(self) -> int:
        return int(time.time() * 1000) + self._shift_ms

    def _of(self, device: str) -> list[Application]:
        return self.ledger.meant(lambda application: application.client_id == CLIENTS[device])

    async def _open(self, at: int) -> None:
        instance = Instance(self._settings, self)
        await instance.open(self._shift_ms)
        instance.set_policy(self._policies[self._policy])
        self.instances[at] = instance

    async def _act(
        self,
        at: int,
        steps: Callable[[Instance], Awaitable[object]],
        targets: list[Application],
        death: Death | None = None,
        *,
        at_once: bool = True,
    ) -> bool | None:
        """Do what takes ``targets`` back; True: it was answered, False: it was not, None: it was refused."""
        here = self.instances[at]

        async def act() -> None:
            await steps(here)

        answered: bool | None = True
        try:
            await here.do(act(), death)
        except Dead:
            answered = False
            self.ledger.unanswered(targets)
            await self.crash(at)
        except (NotFound, InvalidRequest, InvalidClient, TooManyFailures):
            answered = None
        if answered and at_once:
            self.ledger.answered(targets)
            await self._introspect_dead(targets)
        await self._settle()
        return answered

    async def _introspect_dead(self, targets: list[Application]) -> None:
        for application in [each for each in targets if each.password][-2:]:
            for at in self.instances:
                if await self._active(application, at):
                    raise Broken(f"promise 2: {application.handle} is revoked and called active")

    async def _active(self, application: Application, at: int) -> bool:
        here = self.instances[at]
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        steps = here.services.introspector.introspect(
            self._bearer, Secret(application.password), address=ADDRESS, deadline=deadline
        )
        return await here.do(steps) is not None

    async def _settle(self) -> None:
        """Wait until every request is answered, or waits for what only a later step can bring; then judge."""
        started = -1
        while started != self._started or not await self._applications_are_in_place():
            await until(self._applications_are_in_place, "applications at their end, or held")
            started = self._started
            for instance in self.instances.values():
                instance.turn += 1
            await until(self._all_are_parked, "each request answered, or waiting")
        pending, self._pending = self._pending, []
        for each in pending:
            if each.task.done():
                self._judge(each)
                continue
            self._pending.append(each)
            if each.replay:
                raise Broken("a used assertion was let in again")
            if not each.waited:
                each.waited = True
                self._used.append((each.client_id, each.assertion))

    async def _all_are_parked(self) -> bool:
        return all(map(_is_parked, self._pending))

    async def _applications_are_in_place(self) -> bool:
        """Return whether every application has come as far as it can: to its end, or to the cloud that holds it."""
        out = sum(instance.calls_expected() for instance in self.instances.values())
        calls = sum(instance.calls_out for instance in self.instances.values())
        if out != calls:
            return False
        return not out or (self._holding and await self._cloud.held() == out + self._orphans)

    def _judge(self, pending: Pending) -> None:
        if pending.task.cancelled():
            return
        error = pending.task.exception()
        state = self.ledger.devices[pending.client_id]
        good_now = state.admits(pending.key, self._now_ms())
        if error is None:
            if pending.replay:
                raise Broken("a used assertion was let in again")
            if not pending.good or (not good_now and pending.at > state.changed_at):
                raise Broken("promise 2: a disabled, removed or re-keyed device was handed a token")
            issued = pending.task.result()
            self.ledger.handed_out(issued.handle, issued.scope, issued.password, pending.at, pending.policies)
            hashes = {sha256(each.token.reveal()) for each in issued.cloud_tokens}
            if hashes != self.ledger.applications[issued.handle].hashes:
                raise Broken(f"{issued.handle} was handed out with other cloud tokens than its own")
            if not pending.waited:
                self._used.append((pending.client_id, pending.assertion))
        elif not isinstance(error, Refusal):
            raise error
        else:
            self.ledger.seen[f"refused: {error.code}"] += 1
            at_once = pending.good and good_now and not pending.waited
            if at_once and isinstance(error, InvalidClient | TooManyFailures) and not pending.replay:
                raise Broken(f"a good device was refused: {error.description}")

    async def _drain(self) -> None:
        for _ in range(ROUNDS):
            for at in (1, 2):
                await self.work(at, 1000)
                while await self.instances[at].do(self.instances[at].deliver()):
                    pass
            here = self.instances[1]
            waiting = await here.do(here.parts.queue.read_backlog())
            if not waiting.queued and not await here.do(here.jobs._store.open_jobs()):
                return
            await self.clock_on(ROUND_S)
        raise Broken("promise 3: revocations are still queued, long after every claim and back-off ended")

    async def _judge_the_cloud(self) -> None:
        """Compare with what the cloud holds: all that was revoked is revoked there, or shown as failed or lapsed."""
        there = {each["sha256"]: each for each in await self._cloud.tokens()}
        for application in self.ledger.applications.values():
            _judge_kinds(application, there)
            alive = self._now_ms() < application.expires_at_ms - 1000
            gone = all(there[each]["revoked"] for each in application.hashes)
            if self.ledger.good(application, self._now_ms()) and any(
                there[each]["revoked"] for each in application.hashes
            ):
                raise Broken(f"{application.handle} is good, no revoke meant it, and it is revoked at the cloud")
            if application.dead_at is None or application.lost or not alive:
                continue
            if not gone:
                record = await self.instances[1].parts.tokens.read_token(application.handle)
                if record is None or record.revocation not in {"failed", "lapsed"}:
                    raise Broken(f"promise 3: {application.handle} is revoked here, valid at the cloud, and not shown")
            self.ledger.seen["confirmed" if gone else "shown as failed or lapsed"] += 1

    async def _judge_the_spared(self) -> None:
        for half in self.ledger.halves:
            meant = [each for each in half if each.dead_at is None and each.possible_revokes == 1]
            alive = [each for each in meant if self._now_ms() < each.expires_at_ms - 1000]
            if len({await self._active(each, 1) for each in alive}) > 1:
                raise Broken("a revoke that was never answered was done by half")
        for which in range(3):
            await self.introspect(which, 1)


def _meant(selection: Selection) -> Matches:
    if selection.kind is SelectionKind.TOPIC:
        return for_topic(selection.value)
    return lambda application: selection.kind is SelectionKind.EVERYTHING or application.role == selection.value


def _is_parked(pending: Pending) -> bool:
    """Return whether a request is over, or waits for an application that is known to be under way."""
    if pending.task.done():
        return True
    here = pending.instance
    application = here.waiting.get(pending.task)
    return application is not None and (
        application in here.applications._own or here.looked.get(application, -1) >= here.turn
    )


def _judge_kinds(application: Application, there: dict[str, Any]) -> None:
    """See that no cloud token of a token permits more than its scope says."""
    verbs = {"R": {"sub"}, "W": {"pub"}, "RW": {"pub", "sub"}}
    for each in application.hashes:
        token = there[each]
        for topic_filter in token["resources"]:
            if not {f"{verb}:{topic_filter}" for verb in verbs[token["type"]]} <= set(application.scope.split()):
                raise Broken(f"promise 1: a cloud token of {application.handle} permits {token['type']} {topic_filter}")
