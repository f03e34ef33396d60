"""Tokens in Redis: requesting, applying, storing, reading and revoking.

Each step is described at the top of its ``.lua`` file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from app.loop_share import in_slices
from app.model.actors import Actor
from app.model.devices import Device
from app.model.grants import TokenType
from app.model.secrets import CloudToken, Secret
from app.store.constants import RECORD_KEPT_MS
from app.store.records import (
    MAY_APPLY,
    ApplicationLease,
    ApplyRefusals,
    AssertionRefused,
    CloudTokenOfType,
    Priority,
    RequestResult,
    StoredToken,
    TokenRecord,
    TokenRequest,
)
from app.store.redis_keys import Handle, Shard, mac_key
from app.store.script import Script
from app.store.sealing import Sealed, SealingKeys
from app.store.store import Store

_FIND_LIVE: Final = Script("find_live_token")
_REQUEST: Final = Script("request_token")
_EXTEND: Final = Script("extend_application")
_STORE: Final = Script("store_token", may_oom=True)
_FAIL: Final = Script("fail_application", may_oom=True)
_WRITE_MAC: Final = Script("write_token_mac", may_oom=True)
# A device that revokes its token uses an assertion up, also when Redis is full. Its key is gone in minutes.
_USE: Final = Script("use_assertion", may_oom=True)
_READ: Final = Script("read_token", may_oom=True)
REVOKE: Final = Script("revoke_tokens", may_oom=True)

SCRIPTS_AT_ONCE: Final = 25
"""Records that one round trip of a list reads, each by a script: 0.4 ms of Redis, for which token requests wait."""


class Tokens:
    """Token records, and the applications for them."""

    def __init__(self, store: Store, sealing_keys: SealingKeys, *, max_live: int, max_new_per_hour: int) -> None:
        """Read and write through ``store``, seal with ``sealing_keys``; the limits are for one device."""
        self._redis = store.requests
        self._polling = store.polling
        self._searches = store.searches
        self._clock = store.clock
        self._sealing_keys = sealing_keys
        self._max_live = max_live
        self._max_new_per_hour = max_new_per_hour

    async def request(
        self,
        wanted: TokenRequest,
        *,
        request: str,
        jti: str,
        used_until_ms: int,
        refuse_as: ApplyRefusals = MAY_APPLY,
    ) -> RequestResult:
        """Use the assertion and find the live token, or answer whether to apply or to wait.

        A live token takes one round trip. ``request`` is the request's random value: the same request may be sent
        again. The assertion is used until ``used_until_ms`` (Unix ms); 0: there is none. Where the request would have
        to apply and may not, the answer is ``failed`` for the reason in ``refuse_as``; that too takes one round trip.

        Raises ``AssertionRefused`` and ``Unavailable``.
        """
        client_id, shard = wanted.device.client_id, wanted.shard
        keys = {
            "device": shard.device(client_id),
            "assertion": shard.used_assertion(client_id, jti),
            "grant": shard.grant(wanted.key),
        }
        arguments = {
            "request": request,
            "epoch": wanted.device.epoch,
            "used_until_ms": used_until_ms,
            "fresh_ms": wanted.fresh_ms,
        }
        answer: list[Any] = ["none"]
        if refuse_as == MAY_APPLY:  # else probably refused, which must cost less than serving: one script
            answer = await self._redis.run_script(_FIND_LIVE, keys, **arguments)
        if answer == ["none"]:
            keys |= {
                "application": shard.application(wanted.key),
                "device_index": shard.device_index(client_id),
                "new_tokens": shard.new_tokens(client_id),
            }
            answer = await self._redis.run_script(
                _REQUEST,
                keys,
                **arguments,
                spare_ms=wanted.spare_ms,
                refuse_first_as=refuse_as.first,
                refuse_renewal_as=refuse_as.renewal,
                new_handle="" if all(refuse_as) else shard.new_handle(),
                client_id=client_id,
                role=wanted.role,
                scope=wanted.scope,
                max_live=self._max_live,
                max_new_per_hour=self._max_new_per_hour,
            )
        if len(answer) == 1:
            raise AssertionRefused(answer[0])
        return _request_result(*answer)

    async def is_under_way(self, wanted: TokenRequest, application: Handle) -> bool:
        """Return whether this application is still under way. Raises ``Unavailable``."""
        handle: str | None = await self._polling.command("HGET", wanted.shard.application(wanted.key), "handle")
        return handle == application

    async def extend(self, lease: ApplicationLease) -> bool:
        """Extend the lease; False if it is no longer this application's. Raises ``Unavailable``."""
        shard = lease.wanted.shard
        extended = await self._redis.run_script(
            _EXTEND,
            {"application": shard.application(lease.wanted.key), "token": shard.token(lease.handle)},
            handle=lease.handle,
        )
        return bool(extended)

    async def store(
        self,
        lease: ApplicationLease,
        tokens: tuple[CloudTokenOfType, ...],
        expires_at_ms: int,
        *,
        whole: bool,
        actor: Actor,
    ) -> Literal["stored", "revoked"]:
        """Store what the cloud returned, or queue it for revocation if it is no longer wanted.

        May be sent again. ``whole`` is False if a half is missing: what there is can only be revoked. ``actor`` is the
        device. Raises ``Unavailable``.
        """
        wanted, shard = lease.wanted, lease.wanted.shard
        client_id = wanted.device.client_id
        # Before the record: no token may be handed out that cannot be looked up.
        ttl_ms = max(1, expires_at_ms - self._clock.now_ms()) + RECORD_KEPT_MS
        for each in tokens:
            mac = mac_key(self._sealing_keys.mac(each.token))
            await self._redis.run_script(_WRITE_MAC, {"mac": mac}, handle=lease.handle, ttl_ms=ttl_ms)
        answer: Literal["stored", "revoked"] = await self._redis.run_script(
            _STORE,
            {
                "device": shard.device(client_id),
                "token": shard.token(lease.handle),
                "grant": shard.grant(wanted.key),
                "application": shard.application(wanted.key),
            },
            request=lease.request,
            handle=lease.handle,
            epoch=wanted.device.epoch,
            sealed=self._seal(tokens, client_id, lease.handle),
            expires_at_ms=expires_at_ms,
            client_id=client_id,
            role=wanted.role,
            scope=wanted.scope,
            is_whole=int(whole),
            actor=actor.name,
            request_id=actor.request_id,
        )
        return answer

    async def fail(self, lease: ApplicationLease, mark_ms: int, *, counts: bool, why: str = "") -> None:
        """End an application that brought nothing, leaving a mark for ``mark_ms`` that says ``why``.

        ``counts``: it counts against the device's hourly share all the same. Raises ``Unavailable``.
        """
        shard, client_id = lease.wanted.shard, lease.wanted.device.client_id
        await self._redis.run_script(
            _FAIL,
            {
                "application": shard.application(lease.wanted.key),
                "token": shard.token(lease.handle),
                "new_tokens": shard.new_tokens(client_id),
            },
            handle=lease.handle,
            mark_ms=mark_ms,
            reason=why,
            gives_back=int(not counts),
        )

    async def use_assertion(self, device: Device, *, request: str, jti: str, used_until_ms: int) -> None:
        """Use an assertion where no token is handed out. May be sent again with the same ``request``.

        Raises ``AssertionRefused`` and ``Unavailable``.
        """
        shard = Shard.of(device.client_id)
        status = await self._redis.run_script(
            _USE,
            {"device": shard.device(device.client_id), "assertion": shard.used_assertion(device.client_id, jti)},
            request=request,
            epoch=device.epoch,
            used_until_ms=used_until_ms,
        )
        if status != "ok":
            raise AssertionRefused(status)

    async def find_handle(self, tokens: list[CloudToken]) -> Handle | None:
        """Find the one handle that all these cloud tokens belong to. Raises ``Unavailable``."""
        keys = [[mac_key(mac) for mac in self._sealing_keys.macs(token)] for token in tokens]
        answers = iter(await self._redis.pipeline([("GET", key) for of_token in keys for key in of_token]))
        found = {next(filter(None, [next(answers) for _ in of_token]), None) for of_token in keys}
        # A foreign token beside one of this server's, or tokens of two handles, have no handle together.
        [handle, *others] = found
        return Handle(handle) if handle and not others else None

    async def read_token(self, handle: str) -> TokenRecord | None:
        """Read what is known of a handle; a token below a watermark is ``revoked``. Raises ``Unavailable``."""
        shard = Shard.of_handle(handle)
        if shard is None:
            return None
        return _token_record(Handle(handle), await self._redis.run_script(_READ, {"token": shard.token(handle)}))

    async def read_tokens(self, handles: Sequence[Handle]) -> list[TokenRecord | None]:
        """Read what is known of each handle, in few round trips. Raises ``Unavailable``."""
        keys = [Shard.of_known_handle(handle).token(handle) for handle in handles]
        commands = [self._searches.script_command(_READ, {"token": key}) for key in keys]
        rows: list[Any] = []
        for first in range(0, len(commands), SCRIPTS_AT_ONCE):
            rows += await self._searches.pipeline(commands[first : first + SCRIPTS_AT_ONCE])
        return [_token_record(handle, row) async for handle, row in in_slices(zip(handles, rows, strict=True))]

    async def revoke_token(self, record: TokenRecord, priority: Priority = Priority.DEVICE, *, actor: Actor) -> bool:
        """Revoke a token, or what is being applied for; False if it was revoked already. Raises ``Unavailable``."""
        revoked = await self._redis.run_script(
            REVOKE,
            {"queue": Shard.of(record.client_id).queue},
            priority=priority.value,
            job="",
            only_below_watermark=0,
            actor=actor.name,
            request_id=actor.request_id,
            handles=[record.handle],
        )
        return bool(revoked)

    def open(self, sealed: Sealed, client_id: str, handle: str) -> tuple[CloudTokenOfType, ...]:
        """Unseal a token's cloud tokens. Raises ``CannotOpen``."""
        pairs = msgspec.json.decode(
            self._sealing_keys.open(sealed, "cloud-tokens", client_id, handle).reveal(),
            type=list[tuple[TokenType, str]],
        )
        return tuple(CloudTokenOfType(type_, CloudToken(token)) for type_, token in pairs)

    def _seal(self, tokens: tuple[CloudTokenOfType, ...], client_id: str, handle: str) -> Sealed:
        pairs = msgspec.json.encode([(each.type, each.token.reveal()) for each in tokens]).decode()
        return self._sealing_keys.seal(Secret(pairs), "cloud-tokens", client_id, handle)


def _request_result(
    status: Any, now_ms: int, wait_ms: int, application: str, handle: str, expires_at_ms: str, sealed: str
) -> RequestResult:
    return RequestResult(
        status=status,
        now_ms=int(now_ms),
        wait_ms=int(wait_ms),
        application=Handle(application),
        token=StoredToken(Handle(handle), int(expires_at_ms), Sealed(sealed)) if sealed else None,
        failure=application if status == "failed" else "",
    )


def _token_record(handle: Handle, row: list[Any]) -> TokenRecord | None:
    client_id, role, scope, state, issued_at_ms, expires_at_ms, sealed, revocation = row
    if client_id is None or state is None:
        return None
    return TokenRecord(
        handle=handle,
        client_id=client_id,
        role=role,
        scope=scope,
        state=state,
        issued_at_ms=int(issued_at_ms or 0),
        expires_at_ms=int(expires_at_ms or 0),
        sealed=sealed,
        revocation=revocation or "",
    )
