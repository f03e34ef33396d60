"""All that an instance is made of: built once from its settings, and run together.

Building connects nothing, so that a wrong setting stops the start and Redis may come later. The command line builds
the same services as far as they need Redis alone.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Final

from app.cloud.client import CloudClient
from app.cloud.quota import CallOutcome
from app.cloud.signed_calls import Noted
from app.errors import Misconfigured
from app.loop_share import LoopShare
from app.model.health import HealthCheck
from app.service.api_keys import ApiKeyAdmin, KeyCheck
from app.service.applications import Applications
from app.service.audit import AuditLog, EventRecorder
from app.service.audit_shipper import AuditShipper
from app.service.authenticate import Authenticator
from app.service.breaker_texts import BreakerTexts
from app.service.cloud_admin import CloudAdmin
from app.service.cloud_watch import CloudWatch
from app.service.confirm import Confirmer
from app.service.delivery import Delivery
from app.service.explorer import Explorer
from app.service.failure_limits import FailureLimits
from app.service.introspect import Introspector
from app.service.issue import Issuer
from app.service.jobs import Jobs
from app.service.metrics import Metrics
from app.service.operators import OperatorAdmin
from app.service.pacing import Pacing
from app.service.policies import Policies
from app.service.refusals import Refusals
from app.service.registry import Registry
from app.service.request_limiter import MAX_CONCURRENT, RequestLimiter
from app.service.retry_promises import RetryPromises
from app.service.revocations import Revocations
from app.service.revoke import Revoker
from app.service.sign_in import SignIn
from app.service.token_lookup import TokenLookup
from app.settings import Settings
from app.store.api_keys import ApiKeys
from app.store.audit import AuditStore
from app.store.audit_shipping import AuditShipping
from app.store.clock import RedisClock
from app.store.counters import CounterStore
from app.store.devices import Devices
from app.store.failures import FailureCounts
from app.store.index import TokenIndex
from app.store.jobs import JobStore
from app.store.operators import Operators
from app.store.quota import QuotaUsageReader, SharedQuota, full_pace
from app.store.revocations import RevocationQueue
from app.store.sealing import SealingKeys
from app.store.sessions import Sessions
from app.store.store import Store
from app.store.tokens import Tokens
from app.tasks import running
from app.upstream import Upstream, build_upstream, check_mqtt_access_key, quota_settings

OPERATORS_SHARE: Final = 0.2
VISITORS_SHARE: Final = 0.1
"""The parts of the event loop for the console and the API, and for the console's pages before signing in."""

BURST_S: Final = 0.05
"""Processor time that either may use at once after a rest: a few pages, which then do not wait."""

Ping = Callable[[], Awaitable[HealthCheck]]
"""Returns the health of a part. Raises ``Unavailable`` where Redis is out of reach."""


@dataclass(frozen=True)
class Stores:
    """What is stored in Redis, by kind, and the keys that it is sealed with."""

    redis: Store
    keys: SealingKeys
    devices: Devices
    tokens: Tokens
    index: TokenIndex
    queue: RevocationQueue
    jobs: JobStore
    api_keys: ApiKeys
    operators: Operators
    sessions: Sessions
    audit: AuditStore


@dataclass(frozen=True)
class StoreServices:
    """The services that need Redis alone."""

    settings: Settings
    stores: Stores
    policies: Policies
    registry: Registry
    jobs: Jobs
    revocations: Revocations
    api_keys: ApiKeyAdmin
    operators: OperatorAdmin
    audit_log: AuditLog

    @property
    def clock(self) -> RedisClock:
        """The time of Redis, which is everyone's."""
        return self.stores.redis.clock


@dataclass(frozen=True)
class Services(StoreServices):
    """All services of an instance. ``pings`` ask its parts how they are; ``draining`` is set from SIGTERM on.

    All that is done for operators, and for their programs, runs within ``operators_share``, once a session or key
    proved valid; what strangers see, within ``visitors_share``, so that they take nothing from the operators either.
    """

    operators_share: LoopShare
    visitors_share: LoopShare
    upstream: Upstream
    metrics: Metrics
    cloud_watch: CloudWatch
    refusals: Refusals
    failures: FailureLimits
    key_check: KeyCheck
    sign_in: SignIn
    delivery: Delivery
    applications: Applications
    cloud_admin: CloudAdmin
    explorer: Explorer
    promises: RetryPromises
    limiter: RequestLimiter
    issuer: Issuer
    introspector: Introspector
    revoker: Revoker
    pings: Mapping[str, Ping]
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def cloud(self) -> CloudClient:
        """The cloud's API, within the quotas."""
        return self.upstream.cloud


def build_stores(settings: Settings, *, share: LoopShare | None = None) -> Stores:
    """Build what reads and writes Redis; searches count as part of ``share``. Raises ``Misconfigured``."""
    try:
        keys = SealingKeys.parse(settings.sealing_keys)
    except ValueError as error:
        raise Misconfigured(f"SEALING_KEYS: {error}") from None
    redis = Store(settings.redis_url, share=share)
    tokens = Tokens(
        redis, keys, max_live=settings.device_max_live_tokens, max_new_per_hour=settings.device_max_new_tokens_per_hour
    )
    operators = Operators(redis, keys)
    return Stores(
        redis=redis,
        keys=keys,
        devices=Devices(redis, keys),
        tokens=tokens,
        index=TokenIndex(redis, tokens),
        queue=RevocationQueue(redis),
        jobs=JobStore(redis),
        api_keys=ApiKeys(redis, keys),
        operators=operators,
        sessions=Sessions(redis, keys, operators),
        audit=AuditStore(redis),
    )


def build_store_services(settings: Settings, stores: Stores, *, wake: Callable[[], None]) -> StoreServices:
    """Build the services that need Redis alone; ``wake`` is called when a revocation is queued.

    Raises ``Misconfigured`` for a policy file that cannot be used.
    """
    policies = Policies(settings.policy_file)
    registry = Registry(stores.devices, policies, stores.redis.clock)
    index = TokenIndex(stores.redis, stores.tokens, client=stores.redis.background)
    jobs = Jobs(stores.jobs, index, stores.queue)
    return StoreServices(
        settings=settings,
        stores=stores,
        policies=policies,
        registry=registry,
        jobs=jobs,
        revocations=Revocations(
            stores.tokens, stores.index, stores.queue, registry, jobs, pace=_revoke_pace(settings), wake=wake
        ),
        api_keys=ApiKeyAdmin(stores.api_keys),
        operators=OperatorAdmin(stores.operators),
        audit_log=AuditLog(stores.audit, stores.tokens),
    )


def build_services(settings: Settings) -> Services:
    """Build all services of an instance. Nothing is connected yet. Raises ``Misconfigured``."""
    operators_share = LoopShare(OPERATORS_SHARE, burst_s=BURST_S)
    stores = build_stores(settings, share=operators_share)
    clock = stores.redis.clock
    limits = quota_settings(settings)
    usage = QuotaUsageReader(stores.redis, limits=limits)
    quota = SharedQuota(stores.redis, limits=limits)
    metrics = Metrics(CounterStore(stores.redis), usage, clock)
    cloud_watch = CloudWatch(
        quota,
        usage=usage,
        recorder=EventRecorder(stores.audit),
        clock=clock,
        texts=BreakerTexts(f"{socket.gethostname()}:{settings.port}", settings.egress_group),
        attempt_timeout_s=limits.attempt_timeout_s,
    )
    pacing = Pacing(
        quota,
        attempt_timeout_s=limits.attempt_timeout_s,
        closed_for_s=cloud_watch.closed_for_s,
        reported_at=lambda: cloud_watch.reported_at,
        on_probe_unsent=cloud_watch.note_unsent_probe,
    )
    upstream = build_upstream(settings, stores.redis, pacing, noted=_each_of(metrics.called, cloud_watch.note))
    check_mqtt_access_key(settings)
    delivery = Delivery(
        stores.queue,
        stores.tokens,
        upstream.cloud,
        audit=stores.audit,
        pace=_revoke_pace(settings),
        close_connections=settings.close_connection_on_revoke,
        confirmed=metrics.revoked,
    )
    basis = build_store_services(settings, stores, wake=delivery.wake)
    applications = Applications(stores.tokens, upstream.cloud, clock, metrics.applied)
    failures = FailureLimits(FailureCounts(stores.redis), clock)
    key_check = KeyCheck(stores.api_keys, failures)
    promises = RetryPromises(quota)
    limiter = RequestLimiter(MAX_CONCURRENT)
    authenticator = Authenticator(stores.devices, clock, settings.issuer_url, failures, limiter=limiter)
    lookup = TokenLookup(authenticator, key_check, stores.tokens, limiter=limiter)
    return Services(
        **fields_of(basis),
        operators_share=operators_share,
        visitors_share=LoopShare(VISITORS_SHARE, burst_s=BURST_S),
        upstream=upstream,
        metrics=metrics,
        cloud_watch=cloud_watch,
        refusals=Refusals(stores.audit),
        failures=failures,
        key_check=key_check,
        sign_in=SignIn(stores.operators, stores.sessions),
        delivery=delivery,
        applications=applications,
        cloud_admin=CloudAdmin(upstream.cloud, stores.audit),
        explorer=Explorer(upstream.cloud, stores.audit),
        promises=promises,
        limiter=limiter,
        issuer=Issuer(authenticator, basis.policies, stores.tokens, applications, promises=promises, limiter=limiter),
        introspector=Introspector(
            lookup, stores.tokens, Confirmer(stores.tokens, upstream.cloud), clock, limiter=limiter
        ),
        revoker=Revoker(lookup, stores.tokens, delivery, limiter=limiter),
        pings={"redis": stores.redis.ping, "policy": basis.policies.ping, "cloud": cloud_watch.ping},
    )


@asynccontextmanager
async def run_services(services: Services) -> AsyncIterator[None]:
    """Connect the services and do their background work; end it in the opposite order."""
    async with AsyncExitStack() as stack:
        shipper = AuditShipper(AuditShipping(services.stores.redis))
        stack.push_async_callback(services.stores.redis.close)
        # After everything else has ended: so the log has what happened last, also where no other instance runs.
        stack.push_async_callback(shipper.ship_last_entries)
        await stack.enter_async_context(running(services.metrics.add_regularly))
        await stack.enter_async_context(running(services.cloud_watch.report_regularly))
        await stack.enter_async_context(services.upstream.connect())
        stack.push_async_callback(services.applications.close)
        stack.push_async_callback(services.promises.close)
        for work in (
            services.stores.redis.keep_time,
            services.policies.follow,
            services.delivery.deliver_revocations,
            services.jobs.work_on_jobs,
            services.failures.count_failures,
            services.refusals.write_refusals,
            shipper.ship_entries,
        ):
            await stack.enter_async_context(running(work))
        yield


def fields_of(services: StoreServices) -> dict[str, Any]:
    """Return the services by name, to build a larger container of them."""
    return {each.name: getattr(services, each.name) for each in fields(StoreServices)}


def _each_of(*noted: Noted) -> Noted:
    """Return what calls each of these with the outcome of a call."""

    def note_all(outcome: CallOutcome) -> None:
        for note in noted:
            note(outcome)

    return note_all


def _revoke_pace(settings: Settings) -> float:
    """Return how many revocations a second the cloud takes."""
    limits = quota_settings(settings)
    return full_pace(limits.qps["RevokeToken"], limits.jitter_s)
