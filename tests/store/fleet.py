"""Many devices with tokens, for what is revoked in bulk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from app.model.devices import Algorithm, ClientId, Device, methods_of
from app.model.secrets import Secret
from app.store.devices import Devices
from app.store.records import ApplicationLease, TokenRecord
from app.store.store import Store
from app.store.tokens import Tokens
from tests.store.events import ADDED
from tests.store.test_tokens import begin_application, keep, want

KEY = Secret("k" * 32)


@dataclass(frozen=True)
class Fleet:
    """A store, and a way to put devices and tokens into it."""

    store: Store
    devices: Devices
    tokens: Tokens

    async def add(self, name: str) -> Device:
        """Register a device."""
        client_id = ClientId(f"GID_plant@@@{name}")
        return await self.devices.add_device(
            Device(client_id, Algorithm.HS256, methods_of(Algorithm.HS256)), KEY, ADDED
        )

    async def begin_application(
        self, name: str, *, role: str = "sensor", scope: str = "", life_s: int = 3600
    ) -> ApplicationLease:
        """Register a device and begin to apply for a token."""
        wanted = want(await self.add(name), scope or f"pub:plant/{name}/up", life_s, role=role)
        return await begin_application(self.tokens, wanted, f"r-{name}")

    async def issue(self, name: str, *, role: str = "sensor", scope: str = "", life_s: int = 3600) -> TokenRecord:
        """Register a device and give it a live token."""
        lease = await self.begin_application(name, role=role, scope=scope, life_s=life_s)
        assert await keep(self.tokens, self.store, lease, token=f"cloud-token-{name}") == "stored"
        return await self.read(lease.handle)

    async def issue_many(self, count: int, *, role: str = "sensor", prefix: str = "f") -> list[TokenRecord]:
        """Give so many devices a live token each."""
        return list(await asyncio.gather(*(self.issue(f"{prefix}{number}", role=role) for number in range(count))))

    async def read(self, handle: str) -> TokenRecord:
        """Read a record that must be there."""
        record = await self.tokens.read_token(handle)
        assert record is not None
        return record
