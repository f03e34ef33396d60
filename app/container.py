"""All that an instance is made of: built once from its settings, and run together.

Building connects nothing, so that a wrong setting stops the start and Redis may come later. The command line builds
the same services as far as they need Redis alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from app.cloud.client import CloudClient
from app.errors import Misconfigured
from app.service.api_keys import ApiKeyAdmin, KeyCheck
from app.service.applications import Applications
from app.service.audit import AuditLog
from app.service.audit_shipper import AuditShipper
from app.service.authenticate import Authenticator
from app.service.cloud_admin import CloudAdmin
from app.service.confirm import Confirmer
from app.service.delivery import Delivery
from app.service.explorer import Explorer
from app.service.failure_limits import FailureLimits
from app.service.introspect import Introspector
from app.service.issue import Issuer
from app.service.jobs import Jobs
from app.service.metrics import Metrics
from app.service.operators import OperatorAdmin
from app.service.policies import Policies
from app.service.refusals import Refusals
from app.service.registry import Registry
from app.service.revocations import Revocations
from app.service.revoke import Revoker
from app.service.sign_in import SignIn
from app.service.token_lookup import TokenLookup
from app.settings import Settings
from app.store.api_keys import ApiKeys
from app.store.audit import AuditStore
from app.store.audit_shipping import AuditShipping
from app.store.clock import RedisClock
from app.store.constants import PACE
from app.store.counters import CounterStore
from app.store.devices import Devices
from app.store.failures import FailureCounts
from app.store.index import TokenIndex
from app.store.jobs import JobStore
from app.store.operators import Operators
from app.store.quota import QuotaUsageReader
from app.store.revocations import RevocationQueue
from app.store.sealing import SealingKeys
from app.store.sessions import Sessions
from app.store.store import Store
from app.store.tokens import Tokens
from app.tasks import running
from app.upstream import Upstream, build_upstream, check_mqtt_access_key

Ping = Callable[[], Awaitable[str]]
"""Describes the state of a part, for people. Raises ``Unavailable`` where it is out of reach."""


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
    """All services of an instance. ``pings`` ask its parts how they are; ``draining`` is set from SIGTERM on."""

    upstream: Upstream
    metrics: Metrics
    refusals: Refusals
    failures: FailureLimits
    key_check: KeyCheck
    sign_in: SignIn
    delivery: Delivery
    applications: Applications
    cloud_admin: CloudAdmin
    explorer: Explorer
    issuer: Issuer
    introspector: Introspector
    revoker: Revoker
    pings: Mapping[str, Ping]
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def cloud(self) -> CloudClient:
        """The cloud's API, within the quotas."""
        return self.upstream.cloud


def build_stores(settings: Settings) -> Stores:
    """Build what reads and writes Redis. Raises ``Misconfigured``."""
    try:
        keys = SealingKeys.parse(settings.sealing_keys)
    except ValueError as error:
        raise Misconfigured(f"SEALING_KEYS: {error}") from None
    redis = Store(settings.redis_url)
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
    jobs = Jobs(stores.jobs, stores.index, stores.queue)
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
    stores = build_stores(settings)
    clock = stores.redis.clock
    metrics = Metrics(CounterStore(stores.redis), _quota_usage(settings, stores), clock)
    upstream = build_upstream(settings, stores.redis, noted=metrics.called)
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
    authenticator = Authenticator(stores.devices, clock, settings.issuer_url, failures)
    lookup = TokenLookup(authenticator, key_check, stores.tokens)
    return Services(
        **fields_of(basis),
        upstream=upstream,
        metrics=metrics,
        refusals=Refusals(stores.audit),
        failures=failures,
        key_check=key_check,
        sign_in=SignIn(stores.operators, stores.sessions),
        delivery=delivery,
        applications=applications,
        cloud_admin=CloudAdmin(upstream.cloud, stores.audit),
        explorer=Explorer(upstream.cloud, stores.audit),
        issuer=Issuer(authenticator, basis.policies, stores.tokens, applications),
        introspector=Introspector(lookup, stores.tokens, Confirmer(stores.tokens, upstream.cloud), clock),
        revoker=Revoker(lookup, stores.tokens, delivery),
        pings={"redis": stores.redis.ping, "policy": basis.policies.ping},
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
        await stack.enter_async_context(services.upstream.connect())
        stack.push_async_callback(services.applications.close)
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


def _revoke_pace(settings: Settings) -> float:
    """Return how many revocations a second the cloud takes."""
    return settings.qps["RevokeToken"] * PACE


def _quota_usage(settings: Settings, stores: Stores) -> QuotaUsageReader:
    return QuotaUsageReader(
        stores.redis, qps=settings.qps, egress_qps=settings.egress_qps, egress_group=settings.egress_group
    )
