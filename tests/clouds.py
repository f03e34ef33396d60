"""A sandbox as a test steers it, in this process or in another."""

from __future__ import annotations

from typing import Any

import aiohttp

from tests.waiting import until


class Cloud:
    """The control endpoints of a sandbox."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def calls(self, action: str) -> dict[str, int]:
        """Return how often an action was called, by result."""
        counts: dict[str, dict[str, int]] = await self._get("calls")
        return counts.get(action, {})

    async def applied(self) -> int:
        """Return how many tokens were made."""
        return (await self.calls("ApplyToken")).get("OK", 0)

    async def limit(self, **limits: object) -> None:
        """Set its quotas."""
        await self._post("limits", limits)

    async def forget_calls(self) -> None:
        """Count from nothing."""
        await self._delete("calls")

    async def fault(self, action: str, fault: str, **options: object) -> None:
        """Make calls of ``action`` go wrong."""
        await self._post("faults", {"action": action, "fault": fault, **options})

    async def clear(self) -> None:
        """End every fault."""
        await self._delete("faults")

    async def held(self) -> int:
        """Return how many calls are held back now."""
        held: dict[str, int] = (await self._get("faults"))["held"]
        return sum(held.values())

    async def release(self, action: str = "ApplyToken") -> None:
        """Let held calls go on."""
        await self._post("release", {"action": action})

    async def move_clock(self, offset_s: float) -> None:
        """Set its time so many seconds ahead of wall time."""
        await self._post("clock", {"offset_s": offset_s})

    async def tokens(self) -> list[dict[str, Any]]:
        """Return what the sandbox holds, without the tokens themselves."""
        held: list[dict[str, Any]] = await self._get("tokens")
        return held

    async def unrevoked(self) -> int:
        """Return how many tokens are not revoked."""
        return len([each for each in await self.tokens() if not each["revoked"]])

    async def until_held(self, count: int) -> None:
        """Wait until so many calls are held back."""

        async def held() -> bool:
            return (await self.held()) >= count

        await until(held, f"{count} calls held back")

    async def until_revoked(self, count: int) -> None:
        """Wait until the sandbox holds so many tokens as revoked."""

        async def revoked() -> bool:
            return len([each for each in await self.tokens() if each["revoked"]]) >= count

        await until(revoked, f"{count} tokens revoked at the cloud")

    async def _get(self, name: str) -> Any:
        async with self._session.get(f"{self.url}/_sandbox/{name}") as response:
            return await response.json()

    async def _post(self, name: str, body: dict[str, object]) -> None:
        async with self._session.post(f"{self.url}/_sandbox/{name}", json=body) as response:
            assert response.status < 300, await response.text()

    async def _delete(self, name: str) -> None:
        async with self._session.delete(f"{self.url}/_sandbox/{name}") as response:
            assert response.status < 300, await response.text()
