"""A program of an operator: it calls the API with a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp.test_utils import TestClient

from app.model.api_keys import Right
from app.service.api_keys import ApiKeyAdmin
from app.web.route import SERVICES
from tests.actors import CLI
from tests.callers import Answer, read


@dataclass(frozen=True)
class Operator:
    """Calls one server with one key."""

    client: TestClient[Any, Any]
    key: str

    @classmethod
    async def of(cls, client: TestClient[Any, Any], right: Right = Right.ADMIN, name: str = "ops") -> Operator:
        """Make a key for a server of this process, and hold it."""
        made = await ApiKeyAdmin(client.app[SERVICES].stores.api_keys).add_api_key(name, [right], actor=CLI)
        return cls(client, made.text.reveal())

    def at(self, client: TestClient[Any, Any]) -> Operator:
        """Return the same operator at another instance."""
        return replace(self, client=client)

    @property
    def headers(self) -> dict[str, str]:
        """How the key is sent."""
        return {"Authorization": f"Bearer {self.key}"}

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Send any request."""
        async with self.client.request(method, path, **({"headers": self.headers} | options)) as response:
            return await read(response)

    async def get(self, path: str, **query: str) -> Answer:
        """Read something."""
        return await self.ask("GET", path, params=query)

    async def post(self, path: str, body: Any = None) -> Answer:
        """Do something."""
        return await self.ask("POST", path, **({} if body is None else {"json": body}))

    async def all(self, path: str, limit: int = 200, **query: str) -> list[dict[str, Any]]:
        """Read a list to its end, page by page."""
        items: list[dict[str, Any]] = []
        cursor: Mapping[str, str] = {}
        while True:
            answer = await self.get(path, limit=str(limit), **query, **cursor)
            assert answer.status == 200, answer
            assert len(answer.body["items"]) <= limit
            items += answer.body["items"]
            if answer.body["next_cursor"] is None:
                return items
            cursor = {"cursor": answer.body["next_cursor"]}
