"""The connection to the cloud, built from the settings: access key, quota and client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields

import structlog

from app.cloud.chain import Chain, Sources
from app.cloud.client import CloudClient
from app.cloud.credentials import Credentials, CredentialsProvider, LastingCredentials, RenewedCredentials
from app.cloud.signed_calls import Noted
from app.errors import Misconfigured
from app.service.pacing import Pacing
from app.settings import Settings
from app.store.quota import QuotaSettings, SharedQuota
from app.store.store import Store
from app.tasks import running

log = structlog.get_logger(__name__)


def credentials_of(settings: Settings, now_ms: Callable[[], int]) -> CredentialsProvider:
    """Return the source of the access key: the settings, or the ecosystem's chain.

    Raises ``Misconfigured`` where there is neither.
    """
    if settings.alibaba_cloud_access_key_id:
        return LastingCredentials(
            Credentials(
                settings.alibaba_cloud_access_key_id,
                settings.alibaba_cloud_access_key_secret,
                settings.alibaba_cloud_security_token or None,
            )
        )
    chain = Chain(Sources(**{each.name: getattr(settings, f"alibaba_cloud_{each.name}") for each in fields(Sources)}))
    if not chain:
        raise Misconfigured(
            "ALIBABA_CLOUD_ACCESS_KEY_ID is not set, and there is no other source of credentials: "
            "no role, profile or ALIBABA_CLOUD_CREDENTIALS_URI (`serve --help` lists them all)"
        )
    return RenewedCredentials(chain.fetch, now_ms)


@dataclass(frozen=True)
class Upstream:
    """The connection to the cloud: one client, whose calls keep to the quotas shared by all instances."""

    cloud: CloudClient
    credentials: CredentialsProvider
    pacing: Pacing

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[CloudClient]:
        """Connect to the cloud, and keep the credentials fresh meanwhile."""
        async with AsyncExitStack() as stack:
            if isinstance(self.credentials, RenewedCredentials):
                await stack.enter_async_context(running(self.credentials.run))
            await stack.enter_async_context(self.cloud.connect())
            # Before the connections are closed: those that wait for permits are refused, as nothing failed.
            stack.push_async_callback(self.pacing.close)
            yield self.cloud


def quota_settings(settings: Settings) -> QuotaSettings:
    """Return the account's limits, and how far calls may be moved together on the way to the cloud."""
    return QuotaSettings(
        qps=settings.qps,
        egress_qps=settings.egress_qps,
        egress_group=settings.egress_group,
        jitter_s=settings.cloud_jitter_ms / 1000,
    )


def build_upstream(
    settings: Settings, store: Store, pacing: Pacing, *, noted: Noted = lambda _outcome: None
) -> Upstream:
    """Build the connection to the cloud: calls wait in ``pacing``, and ``noted`` is called after each attempt.

    Raises ``Misconfigured``.
    """
    credentials = credentials_of(settings, store.clock.now_ms)
    cloud = CloudClient(
        endpoint=settings.endpoint,
        region=settings.cloud_region,
        instance_id=settings.cloud_instance_id,
        credentials=credentials,
        quota=pacing,
        now_ms=store.clock.now_ms,
        attempt_timeout_s=quota_settings(settings).attempt_timeout_s,
        noted=noted,
    )
    return Upstream(cloud, credentials, pacing)


@asynccontextmanager
async def open_cloud_alone(settings: Settings) -> AsyncIterator[CloudClient]:
    """Open the client alone, for the command line. Raises ``Misconfigured``."""
    store = Store(settings.redis_url)
    try:
        limits = quota_settings(settings)
        pacing = Pacing(SharedQuota(store, limits=limits), attempt_timeout_s=limits.attempt_timeout_s)
        async with build_upstream(settings, store, pacing).connect() as cloud:
            yield cloud
    finally:
        await store.close()


def check_mqtt_access_key(settings: Settings) -> None:
    """Check that the access key in the devices' MQTT user name is a lasting one.

    Raises ``Misconfigured`` where it would change with each renewal while issued tokens are in use.
    """
    if settings.mqtt_access_key_id:
        return
    if not settings.alibaba_cloud_access_key_id:
        raise Misconfigured(
            "MQTT_ACCESS_KEY_ID is not set: credentials of the chain change, "
            "and devices name a lasting access key of the account in MQTT CONNECT"
        )
    if settings.alibaba_cloud_access_key_id.startswith("STS."):
        log.warning(
            "temporary_access_key",
            cure="set MQTT_ACCESS_KEY_ID: devices name this temporary key in MQTT CONNECT, and it will lapse",
        )
