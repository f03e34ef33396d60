from __future__ import annotations

import html
import re
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from app.model.operators import OperatorRole
from app.service.audit import AuditFilter, AuditLog
from app.web.route import SERVICES
from tests.web.console.conftest import PASSWORD, Browser, Seen, SignedIn

ADMINS = (
    "/admin/operators",
    "/admin/operators/admin-1",
    "/admin/operators/admin-1/remove",
    "/admin/keys",
    "/admin/explorer",
)
MARKUP = '<b>"&\x00'


def password_in(seen: Seen) -> str:
    """Return the secret that a page shows once."""
    match = re.search(r'<textarea id="password"[^>]*>([^<]*)</textarea>', seen.text)
    assert match, seen.text
    return html.unescape(match[1])


@pytest.mark.parametrize("role", [OperatorRole.VIEWER, OperatorRole.OPERATOR])
async def test_only_admins_get_in(signed_in: SignedIn, role: OperatorRole) -> None:
    """Everybody else gets a page that says so, for every form too, and nothing is changed; no menu leads there."""
    browser = await signed_in(role)
    await signed_in(OperatorRole.ADMIN)
    for path in (*ADMINS, "/admin/explorer/ListGroupId"):
        seen = await browser.get(path)
        assert (seen.status, "You do not have permission to do this" in seen.text) == (403, True), path
        assert 'href="/admin/operators"' not in seen.text
    name = f"{role.value}-1"
    for path, form in (
        ("/admin/operators", {"name": "mallory", "role": "admin"}),
        (f"/admin/operators/{name}/role", {"role": "admin"}),
        ("/admin/operators/admin-1/password", {}),
        ("/admin/operators/admin-1/sessions", {}),
        ("/admin/operators/admin-1/remove", {}),
        ("/admin/keys", {"name": "mine", "rights": "admin"}),
        ("/admin/keys/mine/remove", {}),
        ("/admin/explorer/ListGroupId", {}),
    ):
        assert (await browser.post(path, form)).status == 403, path
    assert (await browser.get("/admin/account")).status == 200


async def test_an_operator_is_added_with_a_drawn_password(signed_in: SignedIn, server: TestClient[Any, Any]) -> None:
    """It is shown this once, in no address and no cache, and signs in; the audit has who added whom."""
    admin = await signed_in(OperatorRole.ADMIN)
    seen = await admin.post("/admin/operators", {"name": "grace", "role": "operator", "password": ""})
    assert (seen.status, seen.headers["Cache-Control"]) == (200, "no-store")
    password = password_in(seen)
    other = Browser(server)
    assert (await other.sign_in("grace", password)).status == 303
    listed = await admin.get("/admin/operators")
    assert "grace" in listed.text
    assert password not in listed.text
    audit_log = AuditLog(server.app[SERVICES].stores.audit, server.app[SERVICES].stores.tokens)
    [line] = (await audit_log.search_events(AuditFilter(who="operator:admin-1", what="operator_added"))).entries
    assert line.detail == "grace: role operator"
    again = await admin.post("/admin/operators", {"name": "grace", "role": "operator", "password": ""})
    assert (again.status, "there is already an operator named grace" in again.text) == (400, True)


async def test_an_operator_is_added_with_a_typed_password(signed_in: SignedIn, server: TestClient[Any, Any]) -> None:
    """Then it is shown to nobody, and the browser is sent on."""
    admin = await signed_in(OperatorRole.ADMIN)
    seen = await admin.post("/admin/operators", {"name": "linus", "role": "viewer", "password": PASSWORD})
    shown = await admin.follow(seen)
    assert "linus was added" in shown.text
    assert PASSWORD not in shown.text
    assert (await Browser(server).sign_in("linus")).status == 303


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"name": MARKUP, "role": "viewer"}, "not a valid name: expected 1 to 64 of"),
        ({"name": "x" * 10_000, "role": "viewer"}, "not a valid name: expected 1 to 64 of"),
        ({"name": "", "role": "viewer"}, "not a valid name: expected 1 to 64 of"),
        ({"name": "grace", "role": "viewer", "password": "short!"}, "a password must have 10 to 256"),
        ({"name": "grace-hopper", "role": "viewer", "password": "Grace-Hopper"}, "must not be the name"),
        ({"name": "grace", "role": "root"}, "role must be one of viewer, operator, admin"),
        ({"name": "grace"}, "role"),
        ({"name": "grace", "role": "viewer", "admin": "1"}, "an unknown parameter was sent"),
        ([("name", "a"), ("name", "b"), ("role", "viewer")], "name was sent more than once"),
    ],
)
async def test_a_slip_is_shown_above_the_form(signed_in: SignedIn, form: Any, reason: str) -> None:
    """With what was typed, as text and without the password."""
    admin = await signed_in(OperatorRole.ADMIN)
    seen = await admin.post("/admin/operators", form)
    assert seen.status == 400
    assert reason in html.unescape(seen.text)
    assert "<b>" not in seen.text
    fields = dict(form)
    if password := fields.get("password"):
        assert password not in seen.text
    if "\x00" not in fields["name"]:
        assert f'name="name" type="text" value="{fields["name"]}"' in seen.text or isinstance(form, list)


async def test_another_role_counts_at_once_and_ends_the_session(signed_in: SignedIn) -> None:
    """Whoever is at the console is signed out; signed in again, they may what the new role may."""
    admin, viewer = await signed_in(OperatorRole.ADMIN), await signed_in(OperatorRole.VIEWER)
    seen = await admin.post("/admin/operators/viewer-1/role", {"role": "admin"})
    assert "The role of " in (await admin.follow(seen)).text
    assert (await viewer.get("/admin/account")).location.startswith("/admin/sign-in")
    await viewer.sign_in("viewer-1")
    assert (await viewer.get("/admin/operators")).status == 200


async def test_the_last_admin_stays(signed_in: SignedIn) -> None:
    """Neither another role nor removal is taken, and the page says why; with a second admin both are."""
    admin = await signed_in(OperatorRole.ADMIN)
    for path, form in (("role", {"role": "viewer"}), ("remove", {})):
        seen = await admin.post(f"/admin/operators/admin-1/{path}", form)
        assert (seen.status, "is the last admin" in seen.text) == (400, True)
        assert 'value="admin" checked' in seen.text
    await signed_in(OperatorRole.ADMIN, "admin-2")
    seen = await admin.post("/admin/operators/admin-1/role", {"role": "viewer"})
    assert seen.status == 303
    assert (await admin.get(seen.location)).location.startswith("/admin/sign-in")


async def test_a_new_password_and_ended_sessions(signed_in: SignedIn) -> None:
    """Each ends every session; the old password is void after the one and still good after the other."""
    admin, other = await signed_in(OperatorRole.ADMIN), await signed_in(OperatorRole.OPERATOR)
    assert (
        "All sessions of operator-1 have ended"
        in (await admin.follow(await admin.post("/admin/operators/operator-1/sessions"))).text
    )
    assert (await other.get("/admin/account")).status == 303
    assert (await other.sign_in("operator-1")).status == 303
    password = password_in(await admin.post("/admin/operators/operator-1/password"))
    assert (await other.get("/admin/account")).status == 303
    assert (await other.sign_in("operator-1")).status == 401
    assert (await other.sign_in("operator-1", password)).status == 303
    seen = await admin.post("/admin/operators/operator-1/password", {"password": "another good one"})
    assert "The password of " in (await admin.follow(seen)).text
    seen = await admin.post("/admin/operators/operator-1/password", {"password": "short!"})
    assert (seen.status, "short!" in seen.text) == (400, False)


async def test_removing_asks_first(signed_in: SignedIn) -> None:
    """The page says what will happen; a second click finds nobody, as do all pages of who is gone."""
    admin, other = await signed_in(OperatorRole.ADMIN), await signed_in(OperatorRole.OPERATOR)
    asked = await admin.get("/admin/operators/operator-1/remove")
    assert "Remove operator-1?" in asked.text
    assert (await other.get("/admin/account")).status == 200
    done = await admin.follow(await admin.post("/admin/operators/operator-1/remove"))
    assert "The operator was removed" in done.text
    assert (await other.get("/admin/account")).status == 303
    for path in ("", "/remove"):
        assert (await admin.get(f"/admin/operators/operator-1{path}")).status == 404
    for path, form in (("role", {"role": "viewer"}), ("password", {}), ("sessions", {}), ("remove", {})):
        assert (await admin.post(f"/admin/operators/operator-1/{path}", form)).status == 404, path
    assert (await admin.get("/admin/operators/%3Cb%3E")).status == 404


async def test_one_changes_ones_own_password(signed_in: SignedIn) -> None:
    """The old one is asked for; afterwards every session has ended, this one too, and the sign-in page says so."""
    viewer = await signed_in(OperatorRole.VIEWER)
    new = "another good one"
    for form, reason in (
        ({"old": "wrong wrong", "new": new, "again": new}, "the old password is wrong"),
        ({"old": PASSWORD, "new": new, "again": f"{new}s"}, "its repetition differ"),
        ({"old": PASSWORD, "new": "short!", "again": "short!"}, "a password must have 10 to 256"),
        ({}, "the old password is wrong"),
    ):
        seen = await viewer.post("/admin/account/password", form)
        assert (seen.status, reason in seen.text) == (400, True), seen.text
        assert PASSWORD not in seen.text
        assert new not in seen.text
    seen = await viewer.post("/admin/account/password", {"old": PASSWORD, "new": new, "again": new})
    assert "Your password was changed" in (await viewer.follow(seen)).text
    assert (await viewer.get("/admin/account")).status == 303
    assert (await viewer.sign_in("viewer-1", new)).status == 303


async def test_guesses_at_the_old_password_are_slowed_down(signed_in: SignedIn) -> None:
    """Whoever finds a browser left open cannot try one password after another."""
    viewer = await signed_in(OperatorRole.VIEWER)
    form = {"old": "wrong wrong", "new": "another good one", "again": "another good one"}
    answers = [await viewer.post("/admin/account/password", form) for _ in range(12)]
    assert {seen.status for seen in answers} == {400, 429}
    assert answers[-1].status == 429
    assert "Too many attempts" in answers[-1].text


async def test_one_logs_out_everywhere(signed_in: SignedIn, server: TestClient[Any, Any]) -> None:
    """Every browser of this operator is signed out, and no other operator's."""
    viewer, other = await signed_in(OperatorRole.VIEWER), await signed_in(OperatorRole.OPERATOR)
    elsewhere = Browser(server)
    await elsewhere.sign_in("viewer-1")
    seen = await viewer.post("/admin/account/sessions")
    assert "signed out in every browser" in (await viewer.follow(seen)).text
    for browser in (viewer, elsewhere):
        assert (await browser.get("/admin/account")).location.startswith("/admin/sign-in")
    assert (await other.get("/admin/account")).status == 200
