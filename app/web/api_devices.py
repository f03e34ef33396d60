"""``/api/devices``: the registry."""

from __future__ import annotations

from typing import ClassVar, Self
from urllib.parse import quote

import msgspec

from app.model.devices import Algorithm, Device
from app.model.secrets import ClientSecret
from app.service.registry import AddedDevice, Registration
from app.web.api import ApiAnswer, ApiPage, Paging
from app.web.conversion import RequestModel
from app.web.route import AdminRequest


class DeviceView(ApiAnswer, frozen=True):
    """A device's record, without its key. Until ``grace_until_ms`` (0: not at all) the previous key is valid too."""

    client_id: str
    role: str
    algorithm: Algorithm
    attributes: dict[str, str]
    disabled: bool
    note: str
    created_at_ms: int
    grace_until_ms: int

    @classmethod
    def of(cls, device: Device) -> Self:
        """Show a record."""
        return cls(
            client_id=device.client_id,
            role=device.role,
            algorithm=device.algorithm,
            attributes=dict(device.attributes),
            disabled=device.disabled,
            note=device.note,
            created_at_ms=device.created_at_ms,
            grace_until_ms=device.grace_until_ms,
        )


class NewDevice(RequestModel, frozen=True):
    """A device to register. Without a role the policy's ``match`` gives it; without a public key, a key is made."""

    client_id: str
    role: str = ""
    algorithm: Algorithm = Algorithm.HS256
    attributes: dict[str, str] = msgspec.field(default_factory=dict)
    note: str = ""
    public_key: str | None = None


class NewKey(RequestModel, frozen=True):
    """Another key for a device; the old one stays valid for ``grace_s``, and is invalid at once without."""

    algorithm: Algorithm | None = None
    public_key: str | None = None
    grace_s: int = 0


class KeyView(ApiAnswer, frozen=True, omit_defaults=True):
    """A device's new key: the ``secret``, or the ``private_key``, is shown only once, and only if it was made here."""

    client_id: str
    secret: ClientSecret | None = None
    private_key: ClientSecret | None = None


class AddedView(KeyView, frozen=True):
    """A device was registered."""

    status: ClassVar[int] = 201

    @property
    def location(self) -> str:
        """Where its record is."""
        return f"/api/devices/{quote(self.client_id, safe='@:')}"


class RotatedView(KeyView, frozen=True, kw_only=True):
    """A device has another key; ``revoked`` is how much was revoked for it."""

    revoked: int
    grace_until_ms: int


class ChangedView(ApiAnswer, frozen=True):
    """A device was disabled, enabled or removed; ``revoked`` is how many tokens and applications that took."""

    client_id: str
    revoked: int


async def list_devices(request: AdminRequest, query: Paging) -> ApiPage[DeviceView]:
    """List all devices."""
    page = await request.services.registry.list_devices(query.cursor, query.limit)
    return ApiPage([DeviceView.of(device) for device in page.devices], page.next_cursor or None)


async def add_device(request: AdminRequest, body: NewDevice) -> AddedView:
    """Register a device."""
    added = await request.services.registry.add_device(
        Registration(
            client_id=body.client_id,
            role=body.role,
            algorithm=body.algorithm,
            attributes=body.attributes,
            note=body.note,
            public_key=body.public_key,
        ),
        actor=request.actor,
    )
    return AddedView(*_shown_once(added))


async def show_device(request: AdminRequest) -> DeviceView:
    """Show a device's record."""
    return DeviceView.of(await request.services.registry.get_device(request.path["client_id"]))


async def disable_device(request: AdminRequest) -> ChangedView:
    """Refuse a device from now on, and revoke all its tokens."""
    client_id = request.path["client_id"]
    return ChangedView(client_id, await request.services.registry.disable_device(client_id, actor=request.actor))


async def enable_device(request: AdminRequest) -> ChangedView:
    """Let a disabled device authenticate again."""
    client_id = request.path["client_id"]
    await request.services.registry.enable_device(client_id, actor=request.actor)
    return ChangedView(client_id, 0)


async def rotate_key(request: AdminRequest, body: NewKey) -> RotatedView:
    """Give a device another key. Without grace all its tokens are revoked."""
    added, revoked = await request.services.registry.rotate_key(
        request.path["client_id"],
        algorithm=body.algorithm,
        public_key=body.public_key,
        grace_s=body.grace_s,
        actor=request.actor,
    )
    return RotatedView(*_shown_once(added), revoked=revoked, grace_until_ms=added.device.grace_until_ms)


async def remove_device(request: AdminRequest) -> ChangedView:
    """Remove a device, and revoke all its tokens."""
    client_id = request.path["client_id"]
    return ChangedView(client_id, await request.services.registry.remove_device(client_id, actor=request.actor))


def _shown_once(added: AddedDevice) -> tuple[str, ClientSecret | None, ClientSecret | None]:
    return added.device.client_id, added.secret, added.private_key
