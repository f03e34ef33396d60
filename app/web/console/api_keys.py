"""``/admin/keys``: API keys of services."""

from __future__ import annotations

from typing import Final

import msgspec

from app.errors import NotFound
from app.model.api_keys import Right
from app.model.text import _
from app.web.console.results import PREFIX, PageContent, Redirect
from app.web.conversion import FormModel, FormValues
from app.web.route import AdminRequest

ADDRESS: Final = f"{PREFIX}/keys"


class NewApiKeyForm(FormModel, frozen=True):
    """A new key."""

    name: str = ""
    rights: list[Right] = msgspec.field(default_factory=list)


async def show_api_keys(request: AdminRequest, form: FormValues | None = None) -> PageContent:
    """Show every key, and a form for one more."""
    name = (form or {}).get("name", "")
    return PageContent.of(
        "keys.html", keys=await request.services.api_keys.list_api_keys(), rights=list(Right), name=name
    )


async def add_api_key(request: AdminRequest, form: NewApiKeyForm) -> PageContent:
    """Add a key; its text is shown only once."""
    made = await request.services.api_keys.add_api_key(form.name, form.rights, actor=request.actor)
    return PageContent.of("key.html", name=made.name, rights=sorted(made.rights), text=made.text.reveal())


async def ask_to_remove_api_key(request: AdminRequest) -> PageContent:
    """Say what removing a key will do."""
    for key in await request.services.api_keys.list_api_keys():
        if key.name == request.path["name"]:
            return PageContent.of("key_remove.html", key=key)
    raise NotFound(_("there is no key of that name"))


async def remove_api_key(request: AdminRequest) -> Redirect:
    """Remove a key."""
    await request.services.api_keys.remove_api_key(request.path["name"], actor=request.actor)
    return Redirect(ADDRESS, done="removed")
