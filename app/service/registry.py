"""The registry: adding, changing and removing devices, and revoking their tokens where that is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from app.errors import InvalidRequest, NotFound, Unavailable
from app.model.actors import Actor
from app.model.devices import (
    CLIENT_ID_MARK,
    MAX_CLIENT_ID_CHARS,
    Algorithm,
    ClientId,
    Device,
    MalformedClientId,
    methods_of,
    parse_client_id,
)
from app.model.lifetimes import MAX_LIFETIME_S
from app.model.policy import Policy
from app.model.secrets import ClientSecret, Secret
from app.model.text import _
from app.service import verification_keys
from app.service.device_records import check_record, differences, narrows
from app.store.audit import Event, EventKind
from app.store.clock import RedisClock
from app.store.cursor import InvalidCursor
from app.store.devices import Conflict, Devices, PreviousKey, Registered
from app.worker_threads import WorkerThreads

SEARCH_BUDGET_S: Final = 1.0
"""How long a search for a page of devices, or a count of a group, may take; it then returns what it found."""

MAX_GRACE_S: Final = MAX_LIFETIME_S
"""Longest time that an old key may stay valid beside a new one: as long as a token may live."""

_KEY_THREADS: Final = WorkerThreads(
    "keys", threads=1, most=16, busy=_("too many keys are being generated at the moment: try again")
)
"""Generating an RSA key takes up to a second."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A device to register. Without a secret or public key, one is generated."""

    client_id: str
    role: str = ""
    algorithm: Algorithm = Algorithm.HS256
    attributes: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    secret: ClientSecret | None = None
    public_key: str | None = None


@dataclass(frozen=True, slots=True)
class AddedDevice:
    """A registered device and, if it was generated here, its secret or private key, which is shown only once."""

    device: Device
    secret: ClientSecret | None = None
    private_key: ClientSecret | None = None


@dataclass(frozen=True, slots=True)
class DevicesPage:
    """Some devices, and the cursor of the next page; empty at the end."""

    devices: tuple[Device, ...]
    next_cursor: str


class Registry:
    """Registers, changes, removes and lists devices for operators."""

    def __init__(self, devices: Devices, policy: Callable[[], Policy], clock: RedisClock) -> None:
        """``policy`` returns the policy in force: a role that is not in it is refused."""
        self._devices = devices
        self._policy = policy
        self._clock = clock

    def check_registration(self, registration: Registration) -> Device:
        """Check a registration as far as possible without Redis and without a new key. Raises ``InvalidRequest``."""
        try:
            client_id = parse_client_id(registration.client_id)
        except MalformedClientId as error:
            raise InvalidRequest(error.text) from None
        device = Device(
            client_id=client_id,
            algorithm=registration.algorithm,
            methods=methods_of(registration.algorithm),
            role=registration.role,
            attributes=dict(registration.attributes),
            note=registration.note,
            created_at_ms=self._clock.now_ms(),
        )
        check_record(device, self._policy())
        _check_key(registration.algorithm, registration.secret, registration.public_key)
        return device

    async def add_device(self, registration: Registration, *, actor: Actor) -> AddedDevice:
        """Register a new device. Raises ``InvalidRequest``, also if it is registered already, and ``Unavailable``."""
        device = self.check_registration(registration)
        key, added = await _key_for(device, registration.secret, registration.public_key)
        try:
            event = Event(actor, EventKind.DEVICE_ADDED, f"role {device.role}" if device.role else "")
            device = await self._devices.add_device(device, key, event)
        except Conflict:
            raise InvalidRequest(
                _("%(client_id)s is registered already: rotate its key, or remove it", client_id=device.client_id)
            ) from None
        return replace(added, device=device)

    async def get_device(self, client_id: str) -> Device:
        """Read a device's record. Raises ``NotFound`` and ``Unavailable``."""
        return (await self._read(client_id)).device

    async def public_key(self, client_id: str) -> Secret | None:
        """Return the public key as PEM, or None where there is only a secret. Raises ``NotFound``, ``Unavailable``."""
        registered = await self._read(client_id)
        return None if registered.device.algorithm.symmetric else registered.key

    async def list_devices(self, cursor: str = "", limit: int = 50) -> DevicesPage:
        """List devices. Raises ``InvalidCursor`` and ``Unavailable``."""
        devices, next_cursor = await self._devices.list_devices(_after(cursor), limit)
        return DevicesPage(tuple(devices), next_cursor)

    async def count_devices(self) -> int:
        """Count all devices. Raises ``Unavailable``."""
        return await self._devices.count_devices()

    def iterate_devices(self) -> AsyncIterator[Device]:
        """Iterate over all devices. Raises ``Unavailable``."""
        return self._devices.all_devices()

    async def search_devices(self, part: str, cursor: str = "", limit: int = 50) -> DevicesPage:
        """List the devices with ``part`` in their client ID; the device whose client ID it is comes first.

        A page may be short, or empty, and still have a next. Raises as ``list_devices``.
        """
        if not 0 < len(part) <= MAX_CLIENT_ID_CHARS:
            raise InvalidRequest(
                _("search for 1 to %(most)s characters: a client ID is not longer than that", most=MAX_CLIENT_ID_CHARS)
            )
        exact = await self._devices.find_device(part) if CLIENT_ID_MARK in part else None
        devices, next_cursor = await self._devices.list_devices(
            _after(cursor), limit, part=part, budget_s=SEARCH_BUDGET_S
        )
        if exact:
            devices = [each for each in devices if each.client_id != part]
            devices = devices if cursor else [exact, *devices]
        return DevicesPage(tuple(devices), next_cursor)

    async def count_group(self, group_id: str) -> tuple[int, bool]:
        """Count a group ID's devices for at most a second; also return if those are all. Raises ``Unavailable``."""
        return await self._devices.count_group(group_id, budget_s=SEARCH_BUDGET_S)

    async def update_device(
        self,
        client_id: str,
        *,
        actor: Actor,
        role: str,
        attributes: Mapping[str, str],
        note: str,
        epoch: str = "",
    ) -> tuple[Device, int]:
        """Change a device's record, all but its key. Returns the device, and how many tokens were revoked.

        ``epoch`` is of the record that the caller saw, if given: another epoch is refused, because an old form would
        undo what was changed since.

        If the new record permits less than the old one, or the old one permitted nothing, all tokens are revoked: they
        may carry a permission that the device no longer has. Otherwise they stay valid at the broker, and the device
        gets a new token at its next request. Raises ``InvalidRequest``, and as ``disable_device``.
        """
        registered = await self._read(client_id)
        old = registered.device
        device = replace(old, role=role, attributes=dict(attributes), note=note)
        if device == old:
            return old, 0
        if epoch not in {"", old.epoch}:
            raise InvalidRequest(
                _("the device was changed after this form was opened: open the form again and check the values")
            )
        check_record(device, self._policy())
        revoke = narrows(old, device, self._policy())
        detail = ", ".join(differences(old, device))
        return await self._change(registered, device, Event(actor, EventKind.DEVICE_CHANGED, detail), revoke=revoke)

    async def disable_device(self, client_id: str, *, actor: Actor) -> int:
        """Refuse the device from now on and revoke its tokens; returns how many.

        Raises ``NotFound`` and ``Unavailable``, like all that follow.
        """
        registered = await self._read(client_id)
        # Without the previous key, even if it was still valid: enabling must not bring it back.
        registered = replace(registered, previous=None)
        disabled = replace(registered.device, disabled=True)
        _, revoked = await self._change(registered, disabled, Event(actor, EventKind.DEVICE_DISABLED), revoke=True)
        return revoked

    async def enable_device(self, client_id: str, *, actor: Actor) -> None:
        """Accept a disabled device again. Revoked tokens stay revoked."""
        registered = await self._read(client_id)
        enabled = replace(registered.device, disabled=False)
        await self._change(registered, enabled, Event(actor, EventKind.DEVICE_ENABLED), revoke=False)

    async def rotate_key(
        self,
        client_id: str,
        *,
        actor: Actor,
        secret: ClientSecret | None = None,
        public_key: str | None = None,
        algorithm: Algorithm | None = None,
        grace_s: int = 0,
    ) -> tuple[AddedDevice, int]:
        """Give the device a new key, possibly for another algorithm; also returns how many tokens were revoked.

        Without grace the old key is invalid at once, and all tokens are revoked. With ``grace_s`` (seconds, at most 30
        days) the old key stays valid for that time beside the new one, and nothing is revoked; a key older than that is
        dropped either way. Raises ``InvalidRequest`` for a key that does not fit the algorithm, or an invalid grace.
        """
        if not 0 <= grace_s <= MAX_GRACE_S:
            raise InvalidRequest(_("the grace must be 0 to %(most)s seconds, which is 30 days", most=MAX_GRACE_S))
        registered = await self._read(client_id)
        old = registered.device
        if old.disabled and grace_s:
            raise InvalidRequest(
                _("%(client_id)s is disabled, so its old key is not valid: rotate without grace", client_id=client_id)
            )
        algorithm = algorithm or old.algorithm
        device = replace(old, algorithm=algorithm, methods=methods_of(algorithm))
        _check_key(algorithm, secret, public_key)
        key, added = await _key_for(device, secret, public_key)
        until_ms = self._clock.now_ms() + grace_s * 1000
        previous = PreviousKey(old.algorithm, registered.key, until_ms) if grace_s else None
        detail = f"{algorithm}, the old key valid for {grace_s} s more" if previous else f"{algorithm}"
        event = Event(actor, EventKind.DEVICE_ROTATED, detail)
        device, revoked = await self._change(Registered(old, key, previous), device, event, revoke=previous is None)
        return replace(added, device=device), revoked

    async def remove_device(self, client_id: str, *, actor: Actor) -> int:
        """Remove the device and revoke its tokens; returns how many."""
        registered = await self._read(client_id)
        event = Event(actor, EventKind.DEVICE_REMOVED)
        try:
            revoked = await self._devices.remove_device(registered.device, event)
        except Conflict:
            raise _changed() from None
        return revoked

    async def revoke_device(self, client_id: str, *, actor: Actor) -> int:
        """Revoke the device's tokens; it may request new ones. Returns how many."""
        registered = await self._read(client_id)
        _, revoked = await self._change(
            registered, registered.device, Event(actor, EventKind.DEVICE_REVOKED), revoke=True
        )
        return revoked

    async def _read(self, client_id: str) -> Registered:
        registered = await self._devices.read_device(client_id)
        if registered is None:
            if len(client_id) > MAX_CLIENT_ID_CHARS:
                raise NotFound(_("a client ID has at most %(most)s characters", most=MAX_CLIENT_ID_CHARS))
            raise NotFound(_("%(client_id)s is not registered", client_id=client_id))
        return registered

    async def _change(
        self, registered: Registered, device: Device, event: Event, *, revoke: bool
    ) -> tuple[Device, int]:
        try:
            changed, revoked = await self._devices.change_device(
                registered.device, replace(registered, device=device), event, revoke=revoke
            )
        except Conflict:
            raise _changed() from None
        return changed, revoked


def _after(cursor: str) -> ClientId | None:
    try:
        return parse_client_id(cursor) if cursor else None
    except MalformedClientId:
        raise InvalidCursor from None


def _changed() -> Unavailable:
    return Unavailable(_("the device was changed by someone else at the same moment: check it and try again"))


async def _key_for(device: Device, secret: ClientSecret | None, public_key: str | None) -> tuple[Secret, AddedDevice]:
    """Return the key to register, and what is shown of it to the operator."""
    if public_key is not None:
        return verification_keys.check_public_key(public_key, device.algorithm), AddedDevice(device)
    if device.algorithm.symmetric:
        made = verification_keys.new_secret()
        return (secret, AddedDevice(device)) if secret is not None else (made, AddedDevice(device, secret=made))
    private, public = await _KEY_THREADS.run(partial(verification_keys.new_pair, device.algorithm))
    return public, AddedDevice(device, private_key=private)


def _check_key(algorithm: Algorithm, secret: ClientSecret | None, public_key: str | None) -> None:
    if secret is not None:
        if not algorithm.symmetric:
            raise InvalidRequest(
                _("%(algorithm)s needs a public key, not a secret: register the public key", algorithm=algorithm.value)
            )
        verification_keys.check_secret(secret)
    if public_key is not None:
        if algorithm.symmetric:
            raise InvalidRequest(_("a public key needs the algorithm ES256, EdDSA or RS256: choose one of them"))
        verification_keys.check_public_key(public_key, algorithm)
