"""An operator at the console, as a browser speaks for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from argon2 import PasswordHasher

from app.model.operators import OperatorRole
from app.model.secrets import Password
from app.service.operators import OperatorAdmin
from app.service.passwords import Passwords
from app.web.route import SERVICES
from tests.actors import CLI
from tests.web.conftest import ISSUER

PASSWORD = "correct horse battery"
SAME_ORIGIN = {"Origin": ISSUER, "Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True)
class Seen:
    """What a browser was shown: no redirect is followed."""

    status: int
    text: str
    headers: Any
    cookies: dict[str, Any]

    @property
    def location(self) -> str:
        """Where it was sent."""
        location: str = self.headers["Location"]
        return location


@dataclass
class Browser:
    """A browser with its cookies, which are kept here because the server's are for https alone."""

    client: TestClient[Any, Any]
    language: str = "en"
    cookies: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any) -> Seen:
        """Send any request."""
        sent = {"Accept-Language": self.language} | (headers or {})
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        async with self.client.request(method, path, headers=sent, allow_redirects=False, **options) as response:
            for name, morsel in response.cookies.items():
                if morsel.value and morsel["max-age"] != "0":
                    self.cookies[name] = morsel.value
                else:
                    self.cookies.pop(name, None)
            return Seen(response.status, await response.text(), response.headers, dict(response.cookies))

    async def get(self, path: str, **query: Any) -> Seen:
        """Open a page."""
        return await self.ask("GET", path, params=query)

    async def post(self, path: str, form: Any = None, headers: dict[str, str] | None = None) -> Seen:
        """Send a form of the console's own."""
        return await self.ask("POST", path, headers=SAME_ORIGIN if headers is None else headers, data=form or {})

    async def follow(self, seen: Seen) -> Seen:
        """Go where the browser was sent."""
        assert seen.status == 303, (seen.status, seen.text)
        return await self.get(seen.location)

    async def sign_in(self, name: str, password: str = PASSWORD) -> Seen:
        """Sign in."""
        return await self.post("/admin/sign-in", {"name": name, "password": password})


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash with the same algorithm at little cost: what a password is worth is tested with the service."""
    cheap = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    monkeypatch.setattr("app.service.operators.PASSWORDS", cheap)
    monkeypatch.setattr("app.service.sign_in.PASSWORDS", cheap)


SignedIn = Callable[..., Awaitable[Browser]]


@pytest.fixture
def signed_in(server: TestClient[Any, Any]) -> SignedIn:
    """A function that makes an operator of a role and signs them in, at a server of this process."""

    async def make(
        role: OperatorRole = OperatorRole.OPERATOR, name: str = "", client: TestClient[Any, Any] = server
    ) -> Browser:
        name = name or f"{role.value}-1"
        office = OperatorAdmin(client.app[SERVICES].stores.operators)
        await office.add_operator(name, role, Password(PASSWORD), actor=CLI)
        browser = Browser(client)
        assert (await browser.sign_in(name)).status == 303
        return browser

    return make
