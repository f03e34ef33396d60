"""The port of the API: open, or closed for a while, so that connections to it are refused.

A call whose connection was refused has certainly had no effect, unlike one whose connection was lost. While the port is
closed, the control endpoints can be reached through the control port alone.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from aiohttp import web

from app.sandbox.arrivals import ArrivalListener, ArrivalTimes
from app.sandbox.control_requests import RequestHandler
from app.tasks import end

log = structlog.get_logger("sandbox.port")

_TRY_AGAIN_S: Final = 0.5
"""When to try again if another process has taken the port meanwhile."""


class GatewayPort:
    """Opens and closes the port."""

    def __init__(self, runner: web.AppRunner, arrivals: ArrivalTimes, *, host: str, port: int) -> None:
        """``runner`` serves the port; 0 as ``port`` is any free one."""
        self.number = port
        self._runner = runner
        self._arrivals = arrivals
        self._host = host
        self._sites: list[web.SockSite] = []
        self._changing = asyncio.Lock()
        self._opening: asyncio.Task[None] | None = None
        self._opens_at_s = 0.0

    async def open(self) -> None:
        """Open the port now, if it is closed. Raises ``OSError`` if it cannot be used."""
        async with self._changing:
            await self.stop()
            await self._listen()
            self.number = self._runner.addresses[0][1]

    def closed_for_s(self) -> float:
        """Return in how many seconds the port will be open again, 0 if it is."""
        return 0.0 if self._sites else max(0.0, self._opens_at_s - asyncio.get_running_loop().time())

    async def close_for(self, down_s: float, *, order: web.Request) -> None:
        """Close the port for ``down_s`` seconds, and all its connections at once but that of the ``order`` to do so."""
        async with self._changing:
            await self.stop()
            self._opens_at_s = asyncio.get_running_loop().time() + down_s
            await self._close_sites()
            server = self._runner.server
            for connection in server.connections if server is not None else ():
                if connection is not order.protocol and connection.transport is not None:
                    connection.transport.abort()  # a call under way takes effect, and its answer is lost
            self._opening = asyncio.create_task(self._open_after(down_s))

    def while_open(self, handler: RequestHandler) -> RequestHandler:
        """Return ``handler`` with a check before it: a connection may be accepted in the moment of closing."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            if not self._sites and request.transport is not None:
                request.transport.abort()
                return web.Response()
            return await handler(request)

        return guarded

    async def stop(self) -> None:
        """Do not open a closed port any more."""
        if self._opening is not None:
            await end([self._opening])
            self._opening = None

    async def _open_after(self, down_s: float) -> None:
        await asyncio.sleep(down_s)
        while not self._sites:
            try:
                await self._listen()
            except OSError as error:
                log.warning("port_not_opened", port=self.number, error=str(error))
                await asyncio.sleep(_TRY_AGAIN_S)

    async def _listen(self) -> None:
        listeners = [] if self._sites else await self._bind()
        try:
            for listener in listeners:
                listener.note_arrivals(self._arrivals)
                site = web.SockSite(self._runner, listener)
                await site.start()
                self._sites.append(site)
        except BaseException:
            await self._close_sites()
            for listener in listeners:
                listener.close()
            raise

    async def _close_sites(self) -> None:
        for site in self._sites:
            await site.stop()
        self._sites.clear()

    async def _bind(self) -> list[ArrivalListener]:
        """Let asyncio resolve the host and bind, and return its sockets as ones that note arrivals."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, self._host, self.number, start_serving=False)
        try:
            return [ArrivalListener(fileno=bound.dup().detach()) for bound in server.sockets]
        finally:
            server.close()
