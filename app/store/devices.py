"""Device records in Redis, the small cache of them in this process, and every change to one."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from app.model.actors import SERVER
from app.model.devices import CLIENT_ID_MARK, Algorithm, ClientId, Device, methods_of
from app.model.secrets import Secret
from app.store.audit import Event, EventKind
from app.store.redis_keys import ALL_SHARDS, Shard
from app.store.script import Script
from app.store.sealing import KeyRing
from app.store.store import Store

_WRITE: Final = Script("write_device", may_oom=True)
CACHED_DEVICES: Final = 10_000

_ADDED: Final = Event(SERVER, EventKind.DEVICE_ADDED)
_CHANGED: Final = Event(SERVER, EventKind.DEVICE_CHANGED)
_REMOVED: Final = Event(SERVER, EventKind.DEVICE_REMOVED)


class Conflict(Exception):
    """The record was changed, added or removed by another since it was read."""


@dataclass(frozen=True, slots=True)
class PreviousKey:
    """The key before a rotation: it is good beside the new one until ``until_ms`` (Unix ms)."""

    algorithm: Algorithm
    key: Secret
    until_ms: int


@dataclass(frozen=True, slots=True)
class Registered:
    """A device's record with its key: the shared secret, or the public key as PEM."""

    device: Device
    key: Secret
    previous: PreviousKey | None = None


class _DeviceRecord(msgspec.Struct, omit_defaults=True):
    """The part of a record that no script reads."""

    algorithm: str
    role: str = ""
    attributes: dict[str, str] = {}
    disabled: bool = False
    note: str = ""
    created_at_ms: int = 0
    previous_algorithm: str = ""
    previous_until_ms: int = 0


class Devices:
    """The registry as it lies in Redis."""

    def __init__(self, store: Store, keys: KeyRing) -> None:
        """Read and write through ``store``; device keys are sealed with ``keys``."""
        self._redis = store.requests
        self._scans = store.background
        self._clock = store.clock
        self._keys = keys
        self._cache: OrderedDict[str, Registered] = OrderedDict()

    def cached(self, client_id: str) -> Registered | None:
        """Return the record as this process last saw it. The epoch tells a script whether that still counts."""
        if registered := self._cache.get(client_id):
            self._cache.move_to_end(client_id)
        return registered

    async def read(self, client_id: str) -> Registered | None:
        """Read the record afresh. Raises ``Unavailable``, and ``CannotOpen`` if its key cannot be unsealed."""
        epoch, text, sealed, sealed_previous = await self._redis.command(
            "HMGET", Shard.of(client_id).device(client_id), "epoch", "record", "key", "previous"
        )
        if epoch is None:
            self._cache.pop(client_id, None)
            return None
        record = msgspec.json.decode(text, type=_DeviceRecord)
        device = self._device(client_id, epoch, record)
        registered = Registered(
            device,
            self._keys.open(sealed, "client-key", client_id, device.algorithm),
            self._open_previous(device, record, sealed_previous),
        )
        self._cache[client_id] = registered
        self._cache.move_to_end(client_id)
        if len(self._cache) > CACHED_DEVICES:
            self._cache.popitem(last=False)
        return registered

    async def find(self, client_id: str) -> Device | None:
        """Read the record without its key, as it is listed. Raises ``Unavailable``."""
        found = await self._of(Shard.of(client_id), [client_id])
        return found[0] if found else None

    async def add(self, device: Device, key: Secret, act: Event = _ADDED) -> Device:
        """Register a new device. Raises ``Conflict`` if there is one of that client ID, and ``Unavailable``."""
        epoch, _ = await self._write(Registered(device, key), act, read_epoch="", revoke=False)
        return replace(device, epoch=epoch)

    async def change(
        self,
        read: Device,
        device: Device,
        key: Secret,
        act: Event = _CHANGED,
        *,
        revoke: bool,
        previous: PreviousKey | None = None,
    ) -> tuple[Device, int]:
        """Write ``device`` over the record that was read, and revoke all it holds if asked to.

        No other key than ``key`` and ``previous`` is good from then on. Returns the device under its new epoch and how
        many tokens and flights were revoked. Raises ``Conflict`` and ``Unavailable``.
        """
        written = Registered(device, key, previous)
        epoch, revoked = await self._write(written, act, read_epoch=read.epoch, revoke=revoke)
        return replace(device, epoch=epoch, grace_until_ms=previous.until_ms if previous else 0), revoked

    async def remove(self, read: Device, act: Event = _REMOVED) -> int:
        """Remove the record and revoke all it holds; returns how much. Raises ``Conflict`` and ``Unavailable``."""
        _, revoked = await self._write(Registered(read, Secret("")), act, read_epoch=read.epoch, revoke=True)
        return revoked

    async def all(self) -> AsyncIterator[Device]:
        """Iterate over every device, shard by shard. Raises ``Unavailable``."""
        for shard in ALL_SHARDS:
            for device in await self._of(shard, sorted(await self._scans.command("SMEMBERS", shard.devices))):
                yield device

    async def count(self) -> int:
        """Return how many devices are registered. Raises ``Unavailable``."""
        return sum(await self._scans.pipeline([("SCARD", shard.devices) for shard in ALL_SHARDS]))

    async def page(
        self, after: ClientId | None, limit: int, *, part: str = "", budget_s: float = math.inf
    ) -> tuple[list[Device], str]:
        """Return up to ``limit`` devices after that one (None: from the start), and the client ID to go on from.

        In the order of ``all``; an empty client ID ends. A device keeps its place whatever is added or removed, so
        ``after`` need not be registered any more. Only those are returned that have ``part`` in their client ID,
        whatever its case; the page is as short as it is when that has taken ``budget_s`` seconds. Raises
        ``Unavailable``.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + budget_s
        first = Shard.of(after).number if after else 0
        seen: str = after or ""
        devices: list[Device] = []
        for shard in ALL_SHARDS[first:]:
            client_ids = sorted(await self._scans.command("SMEMBERS", shard.devices))
            if after and shard.number == first:
                client_ids = client_ids[bisect_right(client_ids, after) :]
            wanted = [each for each in client_ids if part.lower() in each.lower()] if part else client_ids
            room = limit - len(devices)
            devices += await self._of(shard, wanted[:room])
            if len(wanted) >= room:
                return devices, wanted[room - 1]
            seen = client_ids[-1] if client_ids else seen
            # However slow Redis is, each page gets further than the one before.
            if loop.time() > until and seen != (after or "") and shard != ALL_SHARDS[-1]:
                return devices, seen
        return devices, ""

    async def count_of_group(self, group_id: str, *, budget_s: float) -> tuple[int, bool]:
        """Count the devices of a group ID for at most ``budget_s`` seconds; returns also whether that is all of them.

        Raises ``Unavailable``.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + budget_s
        count = 0
        for shard in ALL_SHARDS:
            if loop.time() > until:
                return count, False
            client_ids = await self._scans.command("SMEMBERS", shard.devices)
            count += sum(each.startswith(group_id + CLIENT_ID_MARK) for each in client_ids)
        return count, True

    async def _of(self, shard: Shard, client_ids: list[str]) -> list[Device]:
        if not client_ids:
            return []
        rows = await self._scans.pipeline([("HMGET", shard.device(name), "epoch", "record") for name in client_ids])
        return [
            self._device(client_id, epoch, msgspec.json.decode(text, type=_DeviceRecord))
            for client_id, (epoch, text) in zip(client_ids, rows, strict=True)
            if epoch is not None
        ]

    async def _write(self, written: Registered, act: Event, *, read_epoch: str, revoke: bool) -> tuple[str, int]:
        """Write a record, or remove it: one without a key is none."""
        device, key, previous = written.device, written.key, written.previous
        shard = Shard.of(device.client_id)
        # With the algorithm, or whoever writes to Redis could turn a public key into a shared secret.
        sealed_key = self._keys.seal(key, "client-key", device.client_id, device.algorithm) if key else ""
        answer = await self._redis.run_script(
            _WRITE,
            {
                "device": shard.device(device.client_id),
                "devices": shard.devices,
                "device_index": shard.live(device.client_id),
            },
            client_id=device.client_id,
            read_epoch=read_epoch,
            record=_text(device, previous) if key else "",
            sealed_key=sealed_key,
            revokes=int(revoke),
            previous_key=self._seal_previous(device, previous) if previous else "",
            actor=act.actor.name,
            request_id=act.actor.request_id,
            event=act.kind,
            detail=act.detail,
        )
        self._cache.pop(device.client_id, None)
        if answer[0] == "conflict":
            raise Conflict(device.client_id)
        return answer[1], answer[2]

    def _device(self, client_id: str, epoch: str, record: _DeviceRecord) -> Device:
        algorithm = Algorithm(record.algorithm)
        return Device(
            client_id=ClientId(client_id),
            algorithm=algorithm,
            methods=methods_of(algorithm),
            role=record.role,
            attributes=record.attributes,
            disabled=record.disabled,
            note=record.note,
            created_at_ms=record.created_at_ms,
            grace_until_ms=record.previous_until_ms if record.previous_until_ms > self._clock.now_ms() else 0,
            epoch=epoch,
        )

    def _seal_previous(self, device: Device, previous: PreviousKey) -> str:
        return self._keys.seal(previous.key, "previous-client-key", device.client_id, _term(previous))

    def _open_previous(self, device: Device, record: _DeviceRecord, sealed: str | None) -> PreviousKey | None:
        if not sealed or not device.grace_until_ms:
            return None
        found = PreviousKey(Algorithm(record.previous_algorithm), Secret(""), record.previous_until_ms)
        return replace(found, key=self._keys.open(sealed, "previous-client-key", device.client_id, _term(found)))


def _term(previous: PreviousKey) -> str:
    """What a previous key is sealed with: whoever writes to Redis can neither prolong it nor make it another kind."""
    return f"{previous.algorithm} {previous.until_ms}"


def _text(device: Device, previous: PreviousKey | None) -> str:
    record = _DeviceRecord(
        algorithm=device.algorithm,
        role=device.role,
        attributes=dict(device.attributes),
        disabled=device.disabled,
        note=device.note,
        created_at_ms=device.created_at_ms,
        previous_algorithm=previous.algorithm if previous else "",
        previous_until_ms=previous.until_ms if previous else 0,
    )
    return msgspec.json.encode(record).decode()
