"""``/admin/devices``: the registry, and all that is known of one device."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode

from app.errors import InvalidRequest, Refusal
from app.model.devices import Device
from app.model.selections import Selection
from app.model.text import _
from app.service.audit import AuditFilter
from app.service.registry import DevicesPage
from app.web.console.results import PREFIX, PageContent, Redirect
from app.web.conversion import FormModel, FormValues
from app.web.route import AdminRequest

PAGE: Final = 50
ADDRESS: Final = f"{PREFIX}/devices"
LAST_ENTRIES: Final = 10


class DevicesPageQuery(FormModel, frozen=True):
    """Which devices: all, or those with ``q`` in their client ID; from ``cursor`` on.

    ``gone`` and ``revoked`` say what was removed on the page before.
    """

    q: str = ""
    cursor: str = ""
    gone: str = ""
    revoked: int = 0


class DevicePageQuery(FormModel, frozen=True):
    """How many tokens were ``revoked`` by what was done on the page before."""

    revoked: int = 0


class DeviceForm(FormModel, frozen=True):
    """What can be changed of a device beside its key; ``attributes`` are one on each line.

    ``epoch`` is that of the record which the form was made of; it may be left out.
    """

    role: str = ""
    attributes: str = ""
    note: str = ""
    epoch: str = ""


async def show_devices(request: AdminRequest, query: DevicesPageQuery) -> PageContent:
    """List devices, or search for a second a page; a search that is refused stays as it was filled in."""
    try:
        page, problem = await _find_devices(request, query), None
    except InvalidRequest as refusal:
        page, problem = DevicesPage((), ""), refusal
    narrowed = {"q": query.q.strip()} if query.q.strip() else {}
    next_query = narrowed | {"cursor": page.next_cursor}
    return PageContent.of(
        "devices.html",
        status=problem.status if problem else 200,
        query=query,
        devices=page.devices,
        roles={device.client_id: _matched_role(request, device) for device in page.devices},
        next_page=f"{ADDRESS}?{urlencode(next_query)}" if page.next_cursor else "",
        problem=problem,
    )


async def show_device(request: AdminRequest, query: DevicePageQuery) -> PageContent:
    """Show a device: its record, what it may do and why, what it holds, what was done; and whether it is online."""
    services = request.services
    device = await services.registry.get_device(request.path["client_id"])
    tokens = await services.revocations.list_tokens(Selection.of_client_id(device.client_id), limit=PAGE)
    audit = await services.audit_log.search_events(AuditFilter(client_id=device.client_id), limit=LAST_ENTRIES)
    online, cloud_problem = await _ask_online(request, device)
    return PageContent.of(
        "device.html",
        device=device,
        explanation=services.policies().explain(device.client_id, device.role or None, device.attributes),
        records=tokens.records,
        more_tokens=bool(tokens.next_cursor),
        entries=audit.entries,
        online=online,
        cloud_problem=cloud_problem,
        revoked=query.revoked,
    )


async def show_device_form(request: AdminRequest, form: FormValues | None = None) -> PageContent:
    """Show the form that changes a device's record."""
    device = await request.services.registry.get_device(request.path["client_id"])
    if form is None:
        lines = "\n".join(f"{name}={value}" for name, value in device.attributes.items())
        form = {"role": device.role, "attributes": lines, "note": device.note, "epoch": device.epoch}
    return PageContent.of(
        "device_edit.html",
        device=device,
        form=form,
        roles=list(request.services.policies().roles),
        token_count=await count_tokens_of(request),
    )


async def update_device(request: AdminRequest, form: DeviceForm) -> Redirect:
    """Change a device's record."""
    _, revoked = await request.services.registry.update_device(
        request.path["client_id"],
        role=form.role,
        attributes=parse_attributes(form.attributes),
        note=form.note,
        epoch=form.epoch,
        actor=request.actor,
    )
    return to_device(request, "changed", revoked)


async def ask_to_disable_device(request: AdminRequest) -> PageContent:
    """Say what disabling a device will do."""
    device = await request.services.registry.get_device(request.path["client_id"])
    return PageContent.of("device_disable.html", device=device, token_count=await count_tokens_of(request))


async def disable_device(request: AdminRequest) -> Redirect:
    """Disable a device."""
    return to_device(
        request,
        "disabled",
        await request.services.registry.disable_device(request.path["client_id"], actor=request.actor),
    )


async def enable_device(request: AdminRequest) -> Redirect:
    """Let a disabled device authenticate again."""
    await request.services.registry.enable_device(request.path["client_id"], actor=request.actor)
    return to_device(request, "enabled")


async def ask_to_remove_device(request: AdminRequest) -> PageContent:
    """Say what removing a device will do."""
    device = await request.services.registry.get_device(request.path["client_id"])
    return PageContent.of("device_remove.html", device=device, token_count=await count_tokens_of(request))


async def remove_device(request: AdminRequest) -> Redirect:
    """Remove a device."""
    client_id = request.path["client_id"]
    revoked = await request.services.registry.remove_device(client_id, actor=request.actor)
    return Redirect(ADDRESS, done="removed", query={"gone": client_id, "revoked": str(revoked)})


def address_of(client_id: str) -> str:
    """Return where a device's page is."""
    return f"{ADDRESS}/{quote(client_id, safe='@:')}"


def to_device(request: AdminRequest, done: str, revoked: int = 0) -> Redirect:
    """Continue at the device's page, and say there what was done."""
    return Redirect(
        address_of(request.path["client_id"]), done=done, query={"revoked": str(revoked)} if revoked else {}
    )


async def count_tokens_of(request: AdminRequest) -> int:
    """Count what the device holds and applies for now."""
    return await request.services.revocations.count_tokens(Selection.of_client_id(request.path["client_id"]))


def parse_attributes(text: str) -> dict[str, str]:
    """Read attributes, one ``name=value`` on each line. Raises ``InvalidRequest`` with the line's number."""
    attributes: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            raise InvalidRequest(_("line %(number)s of the attributes: write name=value", number=number))
        if name in attributes:
            raise InvalidRequest(
                _("line %(number)s of the attributes: the name is used above, choose another", number=number)
            )
        attributes[name] = value
    return attributes


async def _find_devices(request: AdminRequest, query: DevicesPageQuery) -> DevicesPage:
    registry, part = request.services.registry, query.q.strip()
    if part:
        return await registry.search_devices(part, query.cursor, PAGE)
    return await registry.list_devices(query.cursor, PAGE)


async def _ask_online(request: AdminRequest, device: Device) -> tuple[bool | None, str]:
    """Ask the cloud whether a device is online; None, and why, if it does not answer: the page is shown without it."""
    try:
        return await request.services.cloud_admin.is_online(device.client_id), ""
    except Refusal as refusal:
        return None, refusal.description


def _matched_role(request: AdminRequest, device: Device) -> str:
    """Return the role that the policy's match gives a device whose record names none; empty for none."""
    role = request.services.policies().role_for(device.client_id, None) if not device.role else None
    return role.name if role else ""
