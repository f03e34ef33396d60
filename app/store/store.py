"""One Redis, shared by all instances: a connection for each purpose, the clock, and what Redis promises to keep."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Literal

import structlog
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from app.errors import Misconfigured, Unavailable
from app.loop_share import LoopShare
from app.model.health import HealthCheck, HealthStatus
from app.model.secrets import Secret
from app.model.text import _
from app.store.clock import RedisClock
from app.store.pipelined_connection import Connect, PipelinedConnection
from app.store.redis_client import RedisClient

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S: Final = 0.5
LEARN_TIME_EVERY_S: Final = 5.0

COMMANDS_AT_ONCE: Final = 100
"""In one round trip of a search. A hundred plain commands take Redis about 0.2 ms."""

Durability = Literal["always", "everysec", "no", "off", "evicting", "unknown"]
_FSYNC: Final[dict[str, Durability]] = {"always": "always", "everysec": "everysec", "no": "no"}

_HEALTH: Final[Mapping[Durability, HealthCheck]] = {
    "always": HealthCheck(
        HealthStatus.READY, _("durability always: acknowledged changes survive a crash of Redis and of its machine")
    ),
    "everysec": HealthCheck(
        HealthStatus.READY,
        _("durability everysec: a crash of Redis may lose up to two seconds of acknowledged changes"),
        _("to lose none, set appendfsync to always"),
    ),
    "no": HealthCheck(
        HealthStatus.DEGRADED,
        _("durability no: a crash of Redis's machine may lose acknowledged changes"),
        _("set appendfsync to always"),
    ),
    "off": HealthCheck(
        HealthStatus.DEGRADED,
        _("durability off: a restart of Redis loses all data, including devices"),
        _("set appendonly to yes"),
    ),
    "evicting": HealthCheck(
        HealthStatus.DEGRADED,
        _("durability evicting: when memory is full, Redis evicts devices and revocations"),
        _("set maxmemory-policy to noeviction"),
    ),
    "unknown": HealthCheck(
        HealthStatus.READY,
        _("durability unknown: the configuration of Redis cannot be read"),
        _("find out from its provider what a crash may lose"),
    ),
}
"""The first words are for programs: they do not change. ``everysec`` is a choice, so it degrades nothing."""


class Store:
    """The connections to Redis, by purpose: on one connection an answer waits for all that was asked before.

    Each is opened when it is first used. Which one a class of this package uses is decided in its ``__init__``.
    """

    def __init__(self, url: Secret, *, share: LoopShare | None = None) -> None:
        """Take ``REDIS_URL``; nothing is connected yet. Raises ``Misconfigured`` for a URL that is not valid.

        Reading the answers to searches counts as part of ``share``.
        """
        connect = _connector(url)
        self.clock = RedisClock()
        self.requests = RedisClient(PipelinedConnection(connect), self.clock)
        """What a device, a service or an operator waits for. One or two short round trips each."""
        self.permits = RedisClient(PipelinedConnection(connect), self.clock)
        """Permits to call the cloud. One that comes late is void, so asking must not queue behind token requests."""
        self.background = RedisClient(PipelinedConnection(connect), self.clock)
        """Delivery, jobs, counters, and what is recorded in the audit: large pipelines that may take longer."""
        self.searches = RedisClient(
            PipelinedConnection(connect, run=share.count if share else None), self.clock, most_at_once=COMMANDS_AT_ONCE
        )
        """Searches, lists and exports for operators: no revocation and no entry of the audit waits for their answers.

        They go in bounded round trips, because Redis works on one at a time: a large one would delay token requests.
        """
        self.polling = RedisClient(PipelinedConnection(connect), self.clock)
        """Looking again and again: whether something is done at another instance, how full the quotas are, the time."""
        self._clients: Final = (
            self.requests,
            self.permits,
            self.background,
            self.searches,
            self.polling,
        )

    async def ping(self) -> HealthCheck:
        """Check that Redis answers requests; return what it promises. Raises ``Unavailable``."""
        await self.requests.command("PING")
        return _HEALTH[await self.durability()]

    async def durability(self) -> Durability:
        """Return what a crash of Redis may lose: ``always`` nothing that was answered, ``everysec`` up to two seconds.

        ``evicting``: it may even drop devices and revocations when it is full; set maxmemory-policy noeviction.
        ``unknown`` where a managed Redis hides its configuration. Raises ``Unavailable``.
        """
        try:
            pairs = await self.requests.command("CONFIG", "GET", "appendonly", "appendfsync", "maxmemory-policy")
        except Unavailable as error:
            if isinstance(error.__cause__, ResponseError):
                return "unknown"
            raise
        configured = dict(zip(pairs[::2], pairs[1::2], strict=True))
        if configured.get("maxmemory-policy") != "noeviction":
            return "evicting"
        if configured.get("appendonly") != "yes":
            return "off"
        return _FSYNC.get(str(configured.get("appendfsync")), "unknown")

    async def learn_time(self) -> None:
        """Learn Redis's time now. Raises ``Unavailable``."""
        await self.clock.learn(self.polling.command)

    async def keep_time(self) -> None:
        """Learn Redis's time now and every few seconds, until cancelled; log when Redis goes away and comes back."""
        away = False
        while True:
            try:
                await self.learn_time()
            except Unavailable as error:
                if not away:
                    log.warning("redis_away", cause=error.cause)
                away = True
                await asyncio.sleep(CONNECT_TIMEOUT_S)
            else:
                if away:
                    log.warning("redis_back")
                away = False
                await asyncio.sleep(LEARN_TIME_EVERY_S)

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.connection.close()


def _connector(url: Secret) -> Connect:
    """Return a function that makes a connection, with neither retries nor an answer's timeout of its own."""
    try:
        pool = ConnectionPool.from_url(
            url.reveal(),
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=None,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            protocol=2,
        )
    except ValueError:
        raise Misconfigured("REDIS_URL: not a valid URL: expected redis://, rediss:// or unix://") from None
    return pool.make_connection
