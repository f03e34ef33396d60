"""Leaving in good order: first unready, then deaf, then gone, all inside ten seconds.

A balancer needs a moment to notice; until then this instance goes on serving, closing each connection behind itself.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from app.web.malformed_http import JsonErrorServer
from app.web.middleware import DRAINING

WITHIN_S: Final = 7.0
"""From SIGTERM to the last answer; service managers grant ten seconds, and leads are handed over after it."""


class Runner(web.AppRunner):
    """Runs an application, and drains it before it stops listening."""

    def __init__(self, app: web.Application, *, drain_s: float) -> None:
        """Stay reachable but unready for ``drain_s`` seconds; requests then have the rest of the time to finish."""
        super().__init__(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=WITHIN_S - drain_s,
            auto_decompress=False,  # no form is compressed: a stranger's is not unpacked before it is refused
        )
        self._drain_s = drain_s

    async def _make_server(self) -> web.Server:
        """Make what answers each connection; gunicorn's worker and ``serve`` both come by here."""
        return JsonErrorServer(self.app, await super()._make_server())

    async def cleanup(self) -> None:
        """Turn unready, wait until that can have been noticed, finish what was begun, and stop."""
        self.app[DRAINING].set()
        await asyncio.sleep(self._drain_s)
        await self.stop_at_once()

    async def stop_at_once(self) -> None:
        """Finish what was begun, and stop."""
        await super().cleanup()
