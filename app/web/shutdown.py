"""Graceful shutdown in three steps, all within ten seconds: not ready, not listening, stopped.

A load balancer needs a moment to notice that an instance is not ready. Until then the instance goes on serving, and
closes each connection after its answer.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Final

from aiohttp import web

from app.web.aiohttp_internals import LimitedRunner
from app.web.connections import ConnectionLimits
from app.web.route import SERVICES

WITHIN_S: Final = 7.0
"""From SIGTERM to the last answer; service managers grant ten seconds, and application leases are released after it."""

LINGER_S: Final = 5.0
"""How long the rest of a body is read that no handler wanted: closing at once could lose the answer on its way."""


class Runner(LimitedRunner):
    """Runs an application within the limits of its connections, and drains it before it stops listening."""

    def __init__(self, app: web.Application, *, drain_s: float, limits: ConnectionLimits) -> None:
        """Stay reachable but not ready for ``drain_s`` seconds; requests then have the rest of the time to finish."""
        super().__init__(
            app,
            limits=limits,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=WITHIN_S - drain_s,
            lingering_time=LINGER_S,
            auto_decompress=False,  # no form is compressed: a stranger's is not unpacked before it is refused
        )
        self._drain_s = drain_s

    async def setup(self) -> None:
        """Connect, and leave what lives as long as the process out of garbage collection from now on.

        Else a full collection looks at all of it: for 60 ms no request is served, and permits to call the cloud become
        void. So it takes 5 ms.
        """
        await super().setup()
        gc.collect()
        gc.freeze()

    async def cleanup(self) -> None:
        """Report not ready, wait until load balancers have noticed, finish the requests under way, and stop."""
        self.app[SERVICES].draining.set()
        await asyncio.sleep(self._drain_s)
        await self.stop_at_once()

    async def stop_at_once(self) -> None:
        """Finish the requests under way, and stop."""
        await super().cleanup()
