"""``/admin/keys``: API keys of services."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from app.errors import NotFound
from app.model.api_keys import Right
from app.service.api_keys import ApiKeyAdmin
from app.store.api_keys import ApiKeys
from app.web.api import RequestModel
from app.web.console.forms import Filled
from app.web.console.pages import Redirect, Visit
from app.web.console.rendering import PREFIX, PageContent

API_KEYS: Final = web.AppKey("api_keys", ApiKeys)
ADDRESS: Final = f"{PREFIX}/keys"


class NewApiKeyForm(RequestModel, frozen=True):
    """A new key."""

    name: str = ""
    rights: list[Right] = msgspec.field(default_factory=list)


async def list_keys(visit: Visit, form: Filled | None = None) -> PageContent:
    """Show every key, and a form for one more."""
    name = (form or {}).get("name", "")
    return PageContent.of("keys.html", keys=await _office(visit).list_api_keys(), rights=list(Right), name=name)


async def add(visit: Visit, form: NewApiKeyForm) -> PageContent:
    """Make one; its text is shown this once."""
    made = await _office(visit).add_api_key(form.name, form.rights, actor=visit.actor)
    return PageContent.of("key.html", name=made.name, rights=sorted(made.rights), text=made.text.reveal())


async def ask_to_remove(visit: Visit) -> PageContent:
    """Say what removing a key will do."""
    for key in await _office(visit).list_api_keys():
        if key.name == visit.path["name"]:
            return PageContent.of("key_remove.html", key=key)
    raise NotFound("there is no key of that name")


async def remove(visit: Visit) -> Redirect:
    """Remove a key."""
    await _office(visit).remove_api_key(visit.path["name"], actor=visit.actor)
    return Redirect(ADDRESS, done="removed")


def _office(visit: Visit) -> ApiKeyAdmin:
    return ApiKeyAdmin(visit.app[API_KEYS])
