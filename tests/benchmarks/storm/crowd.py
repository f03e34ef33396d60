"""A process of devices: new ones that arrive at once and obey ``Retry-After``, and ones with a live token.

A job: ``{ports, issuer, devices: FILE, live: [FIRST, COUNT], new: [FIRST, COUNT], start_s, arrive_s, min_s, max_s,
killed_port, seed, result: FILE}``. From ``start_s`` (``time.monotonic``) on, the new devices arrive within ``arrive_s``
seconds. The load ends when none of them waits, after ``min_s`` seconds at least and ``max_s`` at most. Requests that
are lost at ``killed_port`` are counted apart. The result is written to a file, because it is long: ``Tally``, and of
this process ``processor_s`` and ``late_ms``, its longest delay behind its schedule.

- A new device asks for a token. Refused, it returns after ``Retry-After`` and up to 5 % more, 5 s at most. One in ten
  does not return after its first refusal; one in twenty returns early. One in twenty that was served revokes its token.
- A device with a live token asks for a token each second, and introspects its own every third second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

from app.tasks import end
from tests.benchmarks.storm.connections import Balancer, NoReplyError, Reply
from tests.benchmarks.storm.requests import INTROSPECT, REVOKE, FleetDevice, read_devices
from tests.benchmarks.storm.tally import Tally
from tests.benchmarks.worker import Job, serve

GONE_SHARE: Final = 0.1
EARLY_SHARE: Final = 0.05
REVOKING_SHARE: Final = 0.05
JITTER_SHARE, MAX_JITTER_S = 0.05, 5.0
LIVE_EVERY_S: Final = 1.0
INTROSPECT_EVERY: Final = 3
TRY_AGAIN_S: Final = 1.0
"""When a device asks again that got no response, or a wrong one."""

_TICK_S: Final = 0.01


class Crowd:
    """The devices of one job."""

    def __init__(self, balancer: Balancer, chance: random.Random, *, killed_port: int | None = None) -> None:
        self.tally = Tally()
        self.waiting: dict[str, list[float]] = {}
        """New devices that wait for a token, each with when it returned as promised."""
        self._balancer = balancer
        self._killed_port = killed_port
        self._random = chance

    async def arrive(self, device: FleetDevice, at_s: float) -> None:
        """Ask for a token from ``at_s`` on until there is one, as a new device does."""
        self.waiting[device.client_id] = []
        request = device.token_request()
        await _sleep_until(at_s)
        refusals, is_promised = 0, False
        while (reply := await self._ask(device, request)) is None or reply.status != 200:
            refusals += reply is not None
            if reply is not None and refusals == 1 and self._random.random() < GONE_SHARE:
                self.tally.gone += 1
                del self.waiting[device.client_id]
                return
            is_promised = await self._return(device, reply)
            request = device.token_request()
        self._note_served(device, refusals)
        self.tally.kept += is_promised
        await self._revoke(device, reply)

    async def stay_live(self, device: FleetDevice) -> None:
        """Ask for a token each second, as a device does that has a live one. Runs until canceled."""
        loop_s = time.monotonic() + self._random.uniform(0, LIVE_EVERY_S)
        turn = self._random.randrange(INTROSPECT_EVERY)
        while True:
            await _sleep_until(loop_s)
            answer = await self._ask_live(device)
            turn += 1
            if answer and turn % INTROSPECT_EVERY == 0:
                await self._send_other(device, INTROSPECT, json.loads(answer)["access_token"])
            loop_s = max(loop_s + LIVE_EVERY_S, time.monotonic())

    def note_unserved(self) -> None:
        """Count the new devices that still wait; what they were promised is late by the time until now, at least."""
        now_s = time.monotonic()
        for returned_at_s in self.waiting.values():
            self.tally.unserved += 1
            self.tally.promise_errors_s += [now_s - each for each in returned_at_s]

    async def _ask(self, device: FleetDevice, request: bytes) -> Reply | None:
        """Send a new device's token request; return ``None`` for a response that must not be, or none."""
        self.tally.sent += 1
        try:
            reply = await self._balancer.exchange(request)
        except NoReplyError as error:
            self._note_lost(error, device)
            return None
        if reply.status == 200 and device.owns(reply.body):
            return reply
        if reply.status == 503 and reply.retry_after_s is not None:
            self.tally.refused += 1
            self.tally.waits_s.append(reply.retry_after_s)
            return reply
        self.tally.note_wrong(_described(device, reply))
        return None

    async def _return(self, device: FleetDevice, reply: Reply | None) -> bool:
        """Sleep until the device asks again; return whether that is when it was promised."""
        if reply is None or reply.retry_after_s is None:
            await asyncio.sleep(TRY_AGAIN_S)
            return False
        promised_s = float(reply.retry_after_s)
        if self._random.random() < EARLY_SHARE:
            await asyncio.sleep(promised_s * self._random.uniform(0.1, 1))
            return False
        await asyncio.sleep(promised_s + self._random.uniform(0, min(JITTER_SHARE * promised_s, MAX_JITTER_S)))
        self.tally.promises += 1
        self.waiting[device.client_id].append(time.monotonic())
        return True

    def _note_served(self, device: FleetDevice, refusals: int) -> None:
        now_s, returned_at_s = time.monotonic(), self.waiting.pop(device.client_id)
        self.tally.tokens += 1
        self.tally.served_at_s.append(now_s)
        self.tally.refusals.append(refusals)
        self.tally.promise_errors_s += [now_s - each for each in returned_at_s]

    async def _revoke(self, device: FleetDevice, reply: Reply) -> None:
        if self._random.random() < REVOKING_SHARE:
            await self._send_other(device, REVOKE, json.loads(reply.body)["access_token"])

    async def _ask_live(self, device: FleetDevice) -> bytes:
        """Send the token request of a device that has a live one; return the body of a right response, or nothing."""
        self.tally.live_sent += 1
        sent_s = time.monotonic()
        try:
            reply = await self._balancer.exchange(device.token_request())
        except NoReplyError as error:
            if not self._note_lost(error, device):
                self.tally.live_refused += 1
            return b""
        self.tally.live_ms.append((time.monotonic() - sent_s) * 1000)
        if reply.status == 200 and device.owns(reply.body):
            self.tally.live_tokens += 1
            return reply.body
        self.tally.live_refused += 1
        self.tally.add_sample(_described(device, reply))
        return b""

    async def _send_other(self, device: FleetDevice, path: str, token: str) -> None:
        """Introspect or revoke the device's token; both may be refused while the cloud fails."""
        try:
            reply = await self._balancer.exchange(device.request(path, token=token))
        except NoReplyError as error:
            self._note_lost(error, device)
            return
        self.tally.others[f"{path} {reply.status}"] += 1
        if reply.status not in {200, 503} or b'"active":false' in reply.body.replace(b" ", b""):
            self.tally.note_wrong(_described(device, reply))

    def _note_lost(self, error: NoReplyError, device: FleetDevice) -> bool:
        """Count a request without a response; return whether the killed instance was serving it."""
        was_killed = self._killed_port is not None and error.port == self._killed_port
        if was_killed:
            self.tally.killed += 1
        else:
            self.tally.note_wrong(f"{device.client_id}: {error}")
        return was_killed


def _described(device: FleetDevice, reply: Reply) -> str:
    return f"{device.client_id}: {reply.status} {reply.body.decode(errors='replace')[:300]}"


async def run(job: Job) -> dict[str, Any]:
    """Run one job."""
    _raise_open_files()
    processor_s = time.process_time()
    chance = random.Random(job["seed"])  # noqa: S311 - a load must be repeatable
    balancer = Balancer(job["ports"])
    crowd = Crowd(balancer, chance, killed_port=job["killed_port"])
    tasks = [asyncio.create_task(each) for each in _lives(crowd, job, chance)]
    late_s = await _until_served(crowd, job)
    crowd.note_unserved()
    _raise_errors(tasks)
    await end(tasks)
    balancer.close()
    used = {"processor_s": time.process_time() - processor_s, "late_ms": late_s * 1000}
    Path(job["result"]).write_text(json.dumps({**crowd.tally.as_json(), **used}), encoding="utf-8")
    return {}


def _lives(crowd: Crowd, job: Job, chance: random.Random) -> Iterator[Coroutine[Any, Any, None]]:
    """Yield what each device does."""
    for device in _chosen_devices(job, "new"):
        yield crowd.arrive(device, job["start_s"] + chance.uniform(0, job["arrive_s"]))
    yield from map(crowd.stay_live, _chosen_devices(job, "live"))


def _raise_errors(tasks: list[asyncio.Task[None]]) -> None:
    """Raise the error of a task that failed: it would be missing in the load."""
    for task in tasks:
        if task.done():
            task.result()


async def _until_served(crowd: Crowd, job: Job) -> float:
    """Wait for the end of the load; return the longest delay of this process behind its schedule."""
    late_s = 0.0
    await _sleep_until(job["start_s"])
    while (now_s := time.monotonic()) < job["start_s"] + job["max_s"]:
        if not crowd.waiting and now_s >= job["start_s"] + job["min_s"]:
            break
        await asyncio.sleep(_TICK_S)
        late_s = max(late_s, time.monotonic() - now_s - _TICK_S)
    return late_s


async def _sleep_until(at_s: float) -> None:
    await asyncio.sleep(max(0.0, at_s - time.monotonic()))


def _chosen_devices(job: Job, name: str) -> list[FleetDevice]:
    first, count = job[name]
    return read_devices(Path(job["devices"]), job["issuer"], slice(first, first + count))


def _raise_open_files() -> None:
    """Allow as many connections as the system permits: each request that waits has one."""
    with contextlib.suppress(ValueError):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    serve(run)
