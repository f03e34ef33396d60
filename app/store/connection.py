"""One Redis: its connections, its scripts, and what it promises about keeping what was answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import structlog
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from app.errors import Misconfigured, Unavailable
from app.model.secrets import Secret
from app.store.clock import RedisClock
from app.store.pipelined_connection import Command, PipelinedConnection
from app.store.script import Script

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S: Final = 0.5
LEARN_TIME_EVERY_S: Final = 5.0
FIRST_DELAY_S: Final = 0.02
LAST_DELAY_S: Final = 0.2

T = TypeVar("T")

Durability = Literal["always", "everysec", "no", "off", "evicting", "unknown"]
_FSYNC: Final[dict[str, Durability]] = {"always": "always", "everysec": "everysec", "no": "no"}


class Store:
    """One Redis, shared by all instances.

    No command is ever sent twice on its own: the client's retries are off, because it would resend a script whose
    answer was lost. A caller that may send again does so knowingly.
    """

    def __init__(self, url: Secret) -> None:
        """Take ``REDIS_URL``; nothing is connected yet. Raises ``Misconfigured`` for a URL that is none."""
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
            raise Misconfigured("REDIS_URL: is no URL of the form redis://, rediss:// or unix://") from None
        self._line = PipelinedConnection(pool.make_connection)
        self.clock = RedisClock()
        self._scripts: dict[str, Script] = {}

    async def run(self, script: Script, keys: Mapping[str, str | Sequence[str]], /, **arguments: Any) -> Any:
        """Run ``script`` with its keys and arguments by their names in the script's first lines.

        Raises ``Unavailable``, and ``TypeError`` if a name is missing or unknown.
        """
        [answer] = await self.each([self.call(script, keys, **arguments)])
        return answer

    def call(self, script: Script, keys: Mapping[str, str | Sequence[str]], /, **arguments: Any) -> Command:
        """Return the command that runs ``script`` as ``run``, to be sent beside others by ``each``."""
        self._scripts[script.sha] = script
        return script.command(keys, arguments, shift_ms=self.clock.shift_ms)

    async def command(self, *words: str | int) -> Any:
        """Send one plain command. Raises ``Unavailable``."""
        [answer] = await self.each([words])
        return answer

    async def each(self, commands: Sequence[Command]) -> list[Any]:
        """Send independent commands in one round trip. Raises ``Unavailable``."""
        try:
            answers = await self._line.ask(commands)
            for place, answer in enumerate(answers):
                if isinstance(answer, NoScriptError):
                    # Redis was started anew and did nothing yet, so this is no second sending.
                    _, sha, *rest = commands[place]
                    [answers[place]] = await self._line.ask([("EVAL", self._scripts[str(sha)].text, *rest)])
        except RedisError as error:
            raise _unavailable(error) from error
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise _unavailable(answer) from answer
        return answers

    async def ping(self) -> str:
        """Check that Redis answers. Raises ``Unavailable``; returns what it promises, for people."""
        await self.command("PING")
        return f"durability {await self.durability()}"

    async def durability(self) -> Durability:
        """Tell what a crash of Redis may lose: ``always`` nothing that was answered, ``everysec`` up to two seconds.

        ``evicting``: it may even drop devices and revocations when it is full; set maxmemory-policy noeviction.
        ``unknown`` where a managed Redis hides its configuration. Raises ``Unavailable``.
        """
        try:
            pairs = await self.command("CONFIG", "GET", "appendonly", "appendfsync", "maxmemory-policy")
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

    async def keep_time(self) -> None:
        """Learn Redis's time now and every few seconds, until cancelled; tell when Redis goes and when it is back."""
        away = False
        while True:
            try:
                await self.clock.learn(self.command)
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
        """Close the connection."""
        await self._line.close()


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(
        "the server cannot reach its memory just now; ask again", cause=f"redis: {type(error).__name__}: {error}"
    )


async def retry_until(step: Callable[[], Awaitable[T]], *, within_s: float) -> T:
    """Repeat a step that may be sent again until Redis takes it. Raises ``Unavailable`` after ``within_s``."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    for delay_s in backoff():
        try:
            return await step()
        except Unavailable:
            if loop.time() + delay_s > deadline:
                raise
            await asyncio.sleep(delay_s)
    raise AssertionError("the delays never end")


def backoff() -> Iterator[float]:
    """Yield seconds to wait between two looks at Redis: short at first, longer later, without end."""
    delay_s = FIRST_DELAY_S
    while True:
        yield delay_s
        delay_s = min(LAST_DELAY_S, delay_s * 1.5)
