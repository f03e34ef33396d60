from __future__ import annotations

import html
import re
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.model.operators import OperatorRole
from tests.web.console.conftest import SignedIn
from tests.web.operators import Operator


async def test_a_key_is_added_shown_once_and_removed(signed_in: SignedIn, server: TestClient[Any, Any]) -> None:
    """Its text is good at once, is nowhere else afterwards, and is refused from the removal on."""
    admin = await signed_in(OperatorRole.ADMIN)
    assert "There is no API key yet." in (await admin.get("/admin/keys")).text
    seen = await admin.post("/admin/keys", [("name", "billing"), ("rights", "revoke"), ("rights", "admin")])
    assert (seen.status, seen.headers["Cache-Control"]) == (200, "no-store")
    match = re.search(r'<textarea id="key"[^>]*>(mts_[^<]*)</textarea>', seen.text)
    assert match
    service = Operator(server, match[1])
    assert (await service.get("/api/devices")).status == 200
    listed = await admin.get("/admin/keys")
    assert "billing" in listed.text
    assert match[1] not in listed.text
    asked = await admin.get("/admin/keys/billing/remove")
    assert "Remove the API key billing?" in asked.text
    assert (await service.get("/api/devices")).status == 200
    done = await admin.follow(await admin.post("/admin/keys/billing/remove"))
    assert "The key was removed" in done.text
    assert (await service.get("/api/devices")).status == 401
    assert (await admin.post("/admin/keys/billing/remove")).status == 404
    assert (await admin.get("/admin/keys/billing/remove")).status == 404


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"name": '<b>"', "rights": "revoke"}, "not a valid name for a key: expected 1 to 64"),
        ({"name": "x" * 10_000, "rights": "revoke"}, "not a valid name for a key: expected 1 to 64"),
        ({"name": "billing"}, "no right was given: choose at least one"),
        ({"name": "billing", "rights": "root"}, "rights"),
        ({"name": "taken", "rights": "revoke"}, "there is already a key named taken"),
    ],
)
async def test_a_slip_is_shown_above_the_form(signed_in: SignedIn, form: dict[str, str], reason: str) -> None:
    """With the name that was typed, and no key is made."""
    admin = await signed_in(OperatorRole.ADMIN)
    await admin.post("/admin/keys", {"name": "taken", "rights": "revoke"})
    seen = await admin.post("/admin/keys", form)
    assert seen.status == 400
    assert reason in html.unescape(seen.text)
    assert f'value="{html.escape(form["name"], quote=False).replace(chr(34), "&#34;")}"' in seen.text
    assert "mts_" not in seen.text
    assert (await admin.get("/admin/keys")).text.count("<tr>") == 2
