"""Putting an instance together: the only file that knows every room of the server."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from aiohttp import web

from app.cloud.credentials import CredentialsProvider
from app.errors import Misconfigured
from app.logs import configure_logging
from app.model.actors import Actor
from app.service.api_keys import ApiKeyAdmin, KeyCheck
from app.service.applications import Applications
from app.service.audit import AuditLog
from app.service.authenticate import Authenticator
from app.service.cloud_admin import CloudAdmin
from app.service.confirm import Confirmer
from app.service.delivery import Delivery
from app.service.explorer import Explorer
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
from app.store.constants import PACE
from app.store.counters import CounterStore
from app.store.devices import Devices
from app.store.index import TokenIndex
from app.store.jobs import JobStore
from app.store.operators import Operators
from app.store.quota import QuotaUsageReader
from app.store.revocations import RevocationQueue
from app.store.sealing import KeyRing
from app.store.sessions import Sessions
from app.store.store import Store
from app.store.tokens import Tokens
from app.tasks import running
from app.upstream import check_mqtt_access_key, credentials_of, open_cloud
from app.web.api import AUDIT_LOG, JOBS, REGISTRY, REVOCATIONS
from app.web.bearer import KEY_CHECK, REFUSALS
from app.web.console import rendering
from app.web.console.api_keys import API_KEYS
from app.web.console.explorer import EXPLORER
from app.web.console.guard import SIGN_IN, TRUSTED_PROXIES
from app.web.console.operators import OPERATORS
from app.web.console.overview import METRICS
from app.web.console.pages import CLOUD, CLOUD_ADMIN, KEYS, PAGE_LIMITER, POLICIES, PageLimiter
from app.web.drain import Runner
from app.web.forms import MAX_BODY_BYTES
from app.web.health import PINGS
from app.web.middleware import ANSWERED, CLOCK, DRAINING, RENDERERS, envelope
from app.web.oauth import SERVICES, BrokerAddress, Services
from app.web.routes import add_routes

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Parts:
    """What an instance is made of before it opens its door."""

    settings: Settings
    store: Store
    keys: KeyRing
    policies: Policies
    devices: Devices
    tokens: Tokens
    queue: RevocationQueue
    api_keys: ApiKeys
    operators: Operators
    sessions: Sessions
    audit: AuditStore


PARTS: Final = web.AppKey("parts", Parts)
CREDENTIALS: Final[web.AppKey[CredentialsProvider]] = web.AppKey("credentials")
GUNICORN_HALTS: Final = 4
"""The exit code with which a worker ends gunicorn itself; after any other it starts the next worker, without end."""


def build(settings: Settings) -> web.Application:
    """Build an instance. Nothing is connected before it starts; Redis may come later.

    Raises ``Misconfigured`` for a setting or policy that cannot work.
    """
    parts = _parts(settings)
    app = web.Application(middlewares=[envelope], client_max_size=MAX_BODY_BYTES)
    app[PARTS] = parts
    app[CLOCK] = parts.store.clock
    app[KEY_CHECK] = KeyCheck(parts.api_keys)
    app[REFUSALS] = Refusals(parts.audit)
    app[SIGN_IN] = SignIn(parts.operators, parts.sessions)
    app[KEYS] = parts.keys
    app[PAGE_LIMITER] = PageLimiter()
    app[OPERATORS], app[API_KEYS] = parts.operators, parts.api_keys
    app[POLICIES] = parts.policies
    app[TRUSTED_PROXIES] = list(settings.trusted_networks)
    app[RENDERERS] = ((rendering.is_console, rendering.render_refusal),)
    app[METRICS] = _tallies(parts)
    app[ANSWERED] = {"/oauth/token": app[METRICS].answered}
    app[DRAINING] = asyncio.Event()
    app[PINGS] = {"redis": parts.store.ping, "policy": parts.policies.ping}
    rendering.set_up(app, secure=settings.issuer_url.startswith("https:"))
    add_routes(app)
    app[CREDENTIALS] = credentials_of(settings, parts.store.clock.now_ms)
    check_mqtt_access_key(settings)
    app.cleanup_ctx.append(_run)
    return app


def runner(settings: Settings) -> Runner:
    """Build an instance that drains before it stops. Raises ``Misconfigured``."""
    return Runner(build(settings), drain_s=settings.drain_s)


async def serve_app() -> Runner:
    """Build an instance from the environment, for gunicorn's aiohttp worker. Ends with one line if it cannot."""
    try:
        settings = Settings.load(os.environ)
        configure_logging(settings.log_level)
        return runner(settings)
    except Misconfigured as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(GUNICORN_HALTS)


@dataclass(frozen=True)
class AdminServices:
    """What an operator works with at the command line; the audit names them ``actor``."""

    actor: Actor
    registry: Registry
    revocations: Revocations
    jobs: Jobs
    api_keys: ApiKeyAdmin
    operators: OperatorAdmin
    audit_log: AuditLog


@asynccontextmanager
async def open_admin_services(settings: Settings, *, actor: Actor) -> AsyncIterator[AdminServices]:
    """Open what needs Redis alone, for the command line; the audit names ``actor`` for all that is done.

    Raises ``Misconfigured`` and ``Unavailable``.
    """
    parts = _parts(settings)
    try:
        await parts.store.learn_time()
        revocations, jobs = _revoking(parts)
        yield AdminServices(
            actor=actor,
            registry=_registry(parts),
            revocations=revocations,
            jobs=jobs,
            api_keys=ApiKeyAdmin(parts.api_keys),
            operators=OperatorAdmin(parts.operators),
            audit_log=AuditLog(parts.audit, parts.tokens),
        )
    finally:
        await parts.store.close()


def _parts(settings: Settings) -> Parts:
    try:
        keys = KeyRing.parse(settings.sealing_keys)
    except ValueError as error:
        raise Misconfigured(f"SEALING_KEYS: {error}") from None
    store = Store(settings.redis_url)
    operators = Operators(store, keys)
    return Parts(
        settings=settings,
        store=store,
        keys=keys,
        policies=Policies(settings.policy_file),
        devices=Devices(store, keys),
        tokens=Tokens(
            store,
            keys,
            max_live=settings.device_max_live_tokens,
            max_new_per_hour=settings.device_max_new_tokens_per_hour,
        ),
        queue=RevocationQueue(store),
        api_keys=ApiKeys(store, keys),
        operators=operators,
        sessions=Sessions(store, keys, operators),
        audit=AuditStore(store),
    )


def _registry(parts: Parts) -> Registry:
    return Registry(parts.devices, parts.policies, parts.store.clock)


def _tallies(parts: Parts) -> Metrics:
    settings, store = parts.settings, parts.store
    use = QuotaUsageReader(store, qps=settings.qps, egress_qps=settings.egress_qps, egress_group=settings.egress_group)
    return Metrics(CounterStore(store), use, store.clock)


def _revoking(parts: Parts, wake: Callable[[], None] = lambda: None) -> tuple[Revocations, Jobs]:
    index = TokenIndex(parts.store, parts.tokens)
    jobs = Jobs(JobStore(parts.store), index, parts.queue)
    registry = _registry(parts)
    pace = parts.settings.qps["RevokeToken"] * PACE
    return Revocations(parts.tokens, index, parts.queue, registry, jobs, pace=pace, wake=wake), jobs


async def _run(app: web.Application) -> AsyncIterator[None]:
    """Open what an instance runs on, and close it in the opposite order."""
    parts = app[PARTS]
    settings, clock = parts.settings, parts.store.clock
    async with AsyncExitStack() as stack:
        stack.push_async_callback(parts.store.close)
        metrics = app[METRICS]
        await stack.enter_async_context(running(metrics.add_regularly))
        cloud = await stack.enter_async_context(
            open_cloud(settings, app[CREDENTIALS], parts.store, noted=metrics.called)
        )
        app[CLOUD], app[CLOUD_ADMIN] = cloud, CloudAdmin(cloud, parts.audit)
        app[EXPLORER] = Explorer(cloud, parts.audit)
        applications = Applications(parts.tokens, cloud, clock, metrics.applied)
        stack.push_async_callback(applications.close)
        delivery = Delivery(
            parts.queue,
            parts.tokens,
            cloud,
            pace=settings.qps["RevokeToken"] * PACE,
            close_connections=settings.close_connection_on_revoke,
            confirmed=metrics.revoked,
        )
        revocations, jobs = _revoking(parts, delivery.wake)
        app[REVOCATIONS], app[JOBS] = revocations, jobs
        app[REGISTRY], app[AUDIT_LOG] = _registry(parts), AuditLog(parts.audit, parts.tokens)
        for work in (
            parts.store.keep_time,
            parts.policies.follow,
            delivery.deliver_revocations,
            jobs.work_on_jobs,
            app[REFUSALS].write_refusals,
        ):
            await stack.enter_async_context(running(work))

        authenticator = Authenticator(parts.devices, clock, settings.issuer_url)
        holder = TokenLookup(authenticator, app[KEY_CHECK], parts.tokens)
        app[SERVICES] = Services(
            issuer=Issuer(authenticator, parts.policies, parts.tokens, applications),
            introspector=Introspector(holder, parts.tokens, Confirmer(parts.tokens, cloud), clock),
            revoker=Revoker(holder, parts.tokens, delivery),
            refusals=app[REFUSALS],
            broker=BrokerAddress(settings.broker_host, settings.mqtt_port, settings.mqtt_tls, settings.mqtt_username),
            issuer_url=settings.issuer_url,
            deadline_s=settings.request_deadline_s,
        )
        yield
