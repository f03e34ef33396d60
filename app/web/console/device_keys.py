"""Registering a device and giving it another key: the pages on which a secret is shown, once."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from app.errors import InvalidRequest, NotFound, Refusal
from app.model.devices import Algorithm
from app.model.text import _
from app.service import verification_keys
from app.service.registry import MAX_GRACE_S, AddedDevice, Registration
from app.web.console.devices import ADDRESS, address_of, count_tokens_of, parse_attributes, to_device
from app.web.console.results import PageContent, Redirect
from app.web.conversion import FormModel, FormValues
from app.web.route import AdminRequest

HOUR_S: Final = 3600

KeySource = Literal["HS256", "ES256", "EdDSA", "RS256", "pasted"]
"""Where the key comes from: a secret or a pair made here, by its algorithm, or a public key that is pasted."""


class KeyForm(FormModel, frozen=True):
    """Which key a device gets. ``public_key`` is PEM or a JWK."""

    key: KeySource = "HS256"
    public_key: str = ""


class NewDeviceForm(KeyForm, frozen=True):
    """A device to register."""

    client_id: str = ""
    role: str = ""
    attributes: str = ""
    note: str = ""


class RotateForm(KeyForm, frozen=True):
    """Another key for a device; the old one stays valid for ``grace_h`` hours."""

    grace_h: Annotated[int, msgspec.Meta(ge=0, le=MAX_GRACE_S // HOUR_S)] = 0


async def show_new_device(request: AdminRequest, form: FormValues | None = None) -> PageContent:
    """Show the form that registers a device, and a link to the device if it is registered already."""
    form, existing_address = form or {}, ""
    try:
        if form.get("client_id"):
            device = await request.services.registry.get_device(form["client_id"].strip())
            existing_address = address_of(device.client_id)
    except NotFound:
        pass
    return PageContent.of(
        "device_new.html",
        form=_without_private_key(form),
        roles=list(request.services.policies().roles),
        existing_address=existing_address,
    )


async def register_device(request: AdminRequest, form: NewDeviceForm) -> PageContent | Redirect:
    """Register a device; a generated key is shown in this answer alone."""
    algorithm, public_key = _chosen_key(form)
    added = await request.services.registry.add_device(
        Registration(
            client_id=form.client_id.strip(),
            role=form.role,
            algorithm=algorithm,
            attributes=parse_attributes(form.attributes),
            note=form.note,
            public_key=public_key,
        ),
        actor=request.actor,
    )
    if public_key is not None:
        return Redirect(address_of(added.device.client_id), done="registered")
    return _new_key_content(request, added, new_device=True)


async def ask_to_rotate_key(request: AdminRequest, form: FormValues | None = None) -> PageContent:
    """Show the form that gives a device another key."""
    device = await request.services.registry.get_device(request.path["client_id"])
    form = {"key": device.algorithm} if form is None else _without_private_key(form)
    return PageContent.of("device_rotate.html", device=device, form=form, token_count=await count_tokens_of(request))


async def rotate_key(request: AdminRequest, form: RotateForm) -> PageContent | Redirect:
    """Give a device another key."""
    algorithm, public_key = _chosen_key(form)
    added, revoked = await request.services.registry.rotate_key(
        request.path["client_id"],
        algorithm=algorithm,
        public_key=public_key,
        grace_s=form.grace_h * HOUR_S,
        actor=request.actor,
    )
    if public_key is not None:
        return to_device(request, "rotated", revoked)
    return _new_key_content(request, added, new_device=False, revoked=revoked)


def _new_key_content(request: AdminRequest, added: AddedDevice, *, new_device: bool, revoked: int = 0) -> PageContent:
    return PageContent.of(
        "device_key.html",
        device=added.device,
        secret=added.secret or added.private_key,
        new_device=new_device,
        revoked=revoked,
        server=request.services.settings.issuer_url,
        devices=ADDRESS,
    )


def _chosen_key(form: KeyForm) -> tuple[Algorithm, str | None]:
    """Return the algorithm, and the public key as PEM if one was pasted. Raises ``InvalidRequest``."""
    if form.key != "pasted":
        if form.public_key.strip():
            # An operator who pasted a key wants it used.
            raise InvalidRequest(
                _("a public key was pasted, and another key chosen: choose the pasted one, or empty the field")
            )
        return Algorithm(form.key), None
    if not form.public_key.strip():
        raise InvalidRequest(_("the public key is missing: paste it, as PEM or as a JWK"))
    algorithm, pem = verification_keys.read_public_key(form.public_key)
    return algorithm, pem.reveal()


def _without_private_key(form: FormValues) -> FormValues:
    """Return the form without what may be a private key: only what is surely a public one is shown again."""
    try:
        verification_keys.read_public_key(form.get("public_key", ""))
    except Refusal:
        return {name: value for name, value in form.items() if name != "public_key"}
    return form
