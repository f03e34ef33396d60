"""Device records in Redis, a cache of them in this process, every change to one, and lists of them."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from app.model.devices import CLIENT_ID_MARK, Algorithm, ClientId, Device, methods_of
from app.model.secrets import Secret
from app.store.audit import Event
from app.store.merging import READ_AT_ONCE
from app.store.redis_keys import ALL_SHARDS, Shard
from app.store.script import Script
from app.store.sealing import SealingKeys
from app.store.store import Store

_WRITE: Final = Script("write_device", may_oom=True)
CACHED_DEVICES: Final = 10_000


class Conflict(Exception):
    """The record was changed, added or removed since it was read."""


@dataclass(frozen=True, slots=True)
class PreviousKey:
    """The key before a rotation: it is valid beside the new one until ``until_ms`` (Unix ms)."""

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
    """The part of a device's record that no script reads."""

    algorithm: str
    role: str = ""
    attributes: dict[str, str] = {}
    disabled: bool = False
    note: str = ""
    created_at_ms: int = 0
    previous_algorithm: str = ""
    previous_until_ms: int = 0


class Devices:
    """The registered devices."""

    def __init__(self, store: Store, sealing_keys: SealingKeys) -> None:
        """Read and write through ``store``; device keys are sealed with ``sealing_keys``."""
        self._redis = store.requests
        self._searches = store.searches
        self._clock = store.clock
        self._sealing_keys = sealing_keys
        self._cache: OrderedDict[str, Registered] = OrderedDict()

    def cached_device(self, client_id: str) -> Registered | None:
        """Return the record as this process last read it. A script checks by the epoch that it is still current."""
        if registered := self._cache.get(client_id):
            self._cache.move_to_end(client_id)
        return registered

    async def read_device(self, client_id: str) -> Registered | None:
        """Read the record from Redis, not the cache. Raises ``Unavailable``, and ``CannotOpen`` for its key."""
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
            self._sealing_keys.open(sealed, "client-key", client_id, device.algorithm),
            self._open_previous(device, record, sealed_previous),
        )
        self._cache[client_id] = registered
        self._cache.move_to_end(client_id)
        if len(self._cache) > CACHED_DEVICES:
            self._cache.popitem(last=False)
        return registered

    async def find_device(self, client_id: str) -> Device | None:
        """Read the record without its key, as lists show it. Raises ``Unavailable``."""
        found = await self._read_listed(Shard.of(client_id), [client_id])
        return found[0] if found else None

    async def add_device(self, device: Device, key: Secret, event: Event) -> Device:
        """Register a new device. Raises ``Conflict`` if its client ID is registered, and ``Unavailable``."""
        epoch, _ = await self._write(Registered(device, key), event, read_epoch="", revoke=False)
        return replace(device, epoch=epoch)

    async def change_device(
        self, read: Device, registered: Registered, event: Event, *, revoke: bool
    ) -> tuple[Device, int]:
        """Write ``registered`` over the record that was read, and with ``revoke`` revoke all that the device holds.

        Only the keys in ``registered`` are valid from then on. Returns the device under its new epoch, and how many
        tokens and applications were revoked. Raises ``Conflict`` and ``Unavailable``.
        """
        epoch, revoked = await self._write(registered, event, read_epoch=read.epoch, revoke=revoke)
        grace_until_ms = registered.previous.until_ms if registered.previous else 0
        return replace(registered.device, epoch=epoch, grace_until_ms=grace_until_ms), revoked

    async def remove_device(self, read: Device, event: Event) -> int:
        """Remove the record and revoke all that the device holds; returns how many tokens and applications that was.

        Raises ``Conflict`` and ``Unavailable``.
        """
        _, revoked = await self._write(Registered(read, Secret("")), event, read_epoch=read.epoch, revoke=True)
        return revoked

    async def all_devices(self) -> AsyncIterator[Device]:
        """Iterate over every device, shard by shard. Raises ``Unavailable``."""
        async for shard, client_ids in self._client_ids_after(None):
            for device in await self._read_listed(shard, client_ids):
                yield device

    async def count_devices(self) -> int:
        """Return how many devices are registered. Raises ``Unavailable``."""
        return sum(await self._searches.pipeline([("ZCARD", shard.devices) for shard in ALL_SHARDS]))

    async def list_devices(
        self, after: ClientId | None, limit: int, *, part: str = "", budget_s: float = math.inf
    ) -> tuple[list[Device], str]:
        """Return up to ``limit`` devices after that one (None: from the start), and the client ID to go on from.

        An empty client ID ends the list. Only devices are returned whose client ID contains ``part``, in whatever case.
        The order is that of ``all_devices``: a device keeps its place whatever is added or removed, so ``after`` may be
        a device that is no longer registered. After ``budget_s`` seconds the page ends as far as it has come. Raises
        ``Unavailable``.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + budget_s
        devices: list[Device] = []
        passed: str = after or ""
        async for shard, client_ids in self._client_ids_after(after):
            matching = [client_id for client_id in client_ids if part.lower() in client_id.lower()]
            room = limit - len(devices)
            devices += await self._read_listed(shard, matching[:room])
            if len(matching) >= room:
                return devices, matching[room - 1]
            passed = client_ids[-1] if client_ids else passed
            # However slow Redis is, each page must get further than the one before.
            gets_further = passed != (after or "")
            if loop.time() > until and gets_further and shard != ALL_SHARDS[-1]:
                return devices, passed
        return devices, ""

    async def count_group(self, group_id: str, *, budget_s: float) -> tuple[int, bool]:
        """Count the devices of a group ID for at most ``budget_s`` seconds; returns also whether that is all of them.

        Raises ``Unavailable``.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + budget_s
        count = 0
        async for shard, client_ids in self._client_ids_after(None):
            count += sum(client_id.startswith(group_id + CLIENT_ID_MARK) for client_id in client_ids)
            if loop.time() > until and shard != ALL_SHARDS[-1]:
                return count, False
        return count, True

    async def _client_ids_after(self, after: ClientId | None) -> AsyncIterator[tuple[Shard, list[str]]]:
        """Yield the client IDs of each shard in order, some at a time, from the one after ``after`` on."""
        first = Shard.of(after) if after else ALL_SHARDS[0]
        for shard in ALL_SHARDS[first.number :]:
            begin = f"({after}" if after and shard == first else "-"
            client_ids = [""] * READ_AT_ONCE
            while len(client_ids) == READ_AT_ONCE:
                client_ids = await self._searches.command(
                    "ZRANGE", shard.devices, begin, "+", "BYLEX", "LIMIT", 0, READ_AT_ONCE
                )
                yield shard, client_ids
                begin = f"({client_ids[-1]}" if client_ids else begin

    async def _read_listed(self, shard: Shard, client_ids: list[str]) -> list[Device]:
        rows = await self._searches.pipeline(
            [("HMGET", shard.device(client_id), "epoch", "record") for client_id in client_ids]
        )
        return [
            self._device(client_id, epoch, msgspec.json.decode(text, type=_DeviceRecord))
            for client_id, (epoch, text) in zip(client_ids, rows, strict=True)
            if epoch is not None
        ]

    async def _write(self, written: Registered, event: Event, *, read_epoch: str, revoke: bool) -> tuple[str, int]:
        """Write a record, or remove it where it has no key. Returns the new epoch, and how much was revoked."""
        device, key, previous = written.device, written.key, written.previous
        shard = Shard.of(device.client_id)
        # Sealed with the algorithm: an attacker who writes to Redis cannot turn a public key into a shared secret.
        sealed_key = self._sealing_keys.seal(key, "client-key", device.client_id, device.algorithm) if key else ""
        answer = await self._redis.run_script(
            _WRITE,
            {
                "device": shard.device(device.client_id),
                "devices": shard.devices,
                "device_index": shard.device_index(device.client_id),
            },
            client_id=device.client_id,
            read_epoch=read_epoch,
            record=_record_text(device, previous) if key else "",
            sealed_key=sealed_key,
            revokes=int(revoke),
            previous_key=self._seal_previous(device, previous) if previous else "",
            actor=event.actor.name,
            request_id=event.actor.request_id,
            event=event.kind,
            detail=event.detail,
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
        return self._sealing_keys.seal(previous.key, "previous-client-key", device.client_id, _previous_terms(previous))

    def _open_previous(self, device: Device, record: _DeviceRecord, sealed: str | None) -> PreviousKey | None:
        if not sealed or not device.grace_until_ms:
            return None
        found = PreviousKey(Algorithm(record.previous_algorithm), Secret(""), record.previous_until_ms)
        return replace(
            found, key=self._sealing_keys.open(sealed, "previous-client-key", device.client_id, _previous_terms(found))
        )


def _previous_terms(previous: PreviousKey) -> str:
    """Return what a previous key is sealed with: an attacker who writes to Redis can neither prolong nor retype it."""
    return f"{previous.algorithm} {previous.until_ms}"


def _record_text(device: Device, previous: PreviousKey | None) -> str:
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
