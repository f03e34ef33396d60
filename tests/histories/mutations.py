"""What the histories must find: each takes one safeguard out of the server, in this process alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final
from unittest import mock

from app.store.redis_client import RedisClient
from app.store.script import Script
from tests.histories.instance import Instance

LATER: Final = "later"
"""Where the mutated script leaves what it should have queued."""


@dataclass(frozen=True)
class Mutation:
    """Texts of the scripts and what stands in their place; each must be there, or the mutation changes nothing."""

    lua: Mapping[str, str]
    python: Callable[[], Any] | None = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Take the safeguard out until the block ends."""
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(Script, "text", property(self._text)))
            stack.enter_context(mock.patch.object(Script, "sha", property(_sha)))
            if self.python:
                stack.enter_context(self.python())
            yield

    def _text(self, script: Script) -> str:
        text = _TEXT(script)
        for right, wrong in self.lua.items():
            text = text.replace(right, wrong)
        return text

    def stale(self, scripts: Sequence[str]) -> list[str]:
        """Return the texts that are in none of the scripts."""
        texts = [_TEXT(Script(name)) for name in scripts]
        return [right for right in self.lua if not any(right in text for text in texts)]


def _original(name: str) -> Callable[[Script], str]:
    made = Script.__dict__[name]
    assert isinstance(made, cached_property)
    function: Callable[[Script], str] = made.func
    return function


_TEXT: Final = _original("text")
_sha: Final = _original("sha")


@contextmanager
def _queued_later() -> Iterator[None]:
    """Queue what was revoked only when the instance that answered delivers next: it keeps it in its own memory."""
    run, deliver = RedisClient.run_script, Instance.deliver
    enqueue = _EnqueueLater("later", may_oom=True)
    waiting: dict[int, list[tuple[str, dict[str, str]]]] = {}

    async def running(
        self: RedisClient, script: Script, keys: Mapping[str, str | Sequence[str]], /, **arguments: Any
    ) -> Any:
        answer = await run(self, script, keys, **arguments)
        if script.name in {"revoke_tokens", "write_device"}:
            shard = str(next(iter(keys.values()))).partition(":")[0]
            while (entry := await self.command("LPOP", f"{shard}:{LATER}")) is not None:
                waiting.setdefault(id(self._clock), []).append(
                    (shard, dict(zip(("handle", "priority", "expires_at_ms"), entry.split(" "), strict=True)))
                )
        return answer

    async def delivering(self: Instance) -> bool:
        for shard, entry in waiting.pop(id(self.parts.redis.clock), []):
            await run(self.parts.redis.background, enqueue, {"queue": f"{shard}:q"}, **entry)
        return await deliver(self)

    with mock.patch.object(RedisClient, "run_script", running), mock.patch.object(Instance, "deliver", delivering):
        yield


class _EnqueueLater(Script):
    """What the mutated script left out."""

    @property
    def text(self) -> str:
        return _TEXT(Script("raise_watermark", may_oom=True)).partition("-- Raises a")[0] + (
            "local queue = unpack(KEYS)\n"
            "local handle, priority, expires_at_ms = unpack(ARGV, 2)\n"
            "enqueue(handle, tonumber(priority), tonumber(expires_at_ms))\nreturn 1"
        )


MUTATIONS: Final[Mapping[str, Mutation]] = MappingProxyType(
    {
        "the epoch comparison": Mutation(
            {
                "if redis.call('HGET', device, 'epoch') ~= epoch then": "if false then",
                "found_state == state and found_epoch == epoch and": "found_state == state and",
                "current.epoch == epoch and valid_record": "valid_record",
                " and redis.call('HGET', device, 'epoch') == epoch": "",
            }
        ),
        "the jti claim": Mutation({"if user and user ~= request then": "if false then"}),
        "the tombstone on an application": Mutation(
            {"elseif selected then": "elseif selected and record.state == LIVE then"}
        ),
        "queueing before answering": Mutation(
            {
                "append(queued, queue_score(how.priority, record.expires_at_ms), record.handle)": (
                    "redis.call('RPUSH', shard .. 'later', "
                    "string.format('%s %d %.0f', record.handle, how.priority, record.expires_at_ms))"
                ),
                "append(fields, 'revocation', QUEUED)": "",
            },
            _queued_later,
        ),
        "the watermark": Mutation({"return tonumber(generation or 0) < watermark": "return false"}),
    }
)
